"""What is refused before a run starts."""

from __future__ import annotations

import pytest

from hr_search.base.errors import InputError
from hr_search.checks import check_launch, check_settings
from hr_search.settings import Settings


@pytest.mark.parametrize(
    ("variable", "value", "flag"),
    [
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "--mixed_precision"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "take --precision bf16"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "--use_deepspeed"),
        ("ACCELERATE_USE_FSDP", "true", "--use_fsdp"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_accumulation_steps"),
    ],
)
def test_settings_of_a_launcher_that_are_not_served_are_refused(variable, value, flag):
    with pytest.raises(InputError, match=flag):
        check_launch({variable: value})


def test_what_a_launcher_sets_by_itself_is_fine():
    check_launch({})
    check_launch(
        {
            "ACCELERATE_DYNAMO_BACKEND": "NO",
            "ACCELERATE_MIXED_PRECISION": "no",
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
            "ACCELERATE_USE_FSDP": "false",
        }
    )


@pytest.mark.parametrize(
    ("model", "checkpoint"), [("out", "out/ck.pt"), ("out", "out/deep/ck.pt"), ("m.pt", "m"), ("m.pt", "m/ck.pt")]
)
def test_a_checkpoint_in_the_folder_of_the_model_is_refused_before_anything_is_made(tmp_path, model, checkpoint):
    settings = Settings(outputpath=str(tmp_path / model), checkpointpath=str(tmp_path / checkpoint))
    with pytest.raises(InputError, match="would be lost when the model is saved .*; give a file outside of it"):
        check_settings(settings)
    assert not list(tmp_path.iterdir())


def test_resuming_from_the_folder_of_the_model_names_the_checkpoint(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ck.pt").write_bytes(b"a checkpoint")
    place = {"outputpath": str(tmp_path / "out"), "checkpointpath": str(tmp_path / "out" / "ck.pt")}
    with pytest.raises(InputError, match="checkpointpath .* would be lost"):
        check_settings(Settings(**place, resume=True))


@pytest.mark.parametrize(
    ("model", "checkpoint"), [("out", "ck.pt"), ("out", "out.pt"), ("m.pt", "mck.pt"), ("out/m", "out/ck.pt")]
)
def test_a_checkpoint_beside_the_model_is_fine(tmp_path, model, checkpoint):
    check_settings(Settings(outputpath=str(tmp_path / model), checkpointpath=str(tmp_path / checkpoint)))


def test_settings_of_training_without_effect_in_a_search_are_named(tmp_path, caplog):
    searching = Settings(stage="search", searchk=5, seed=3, maxlength=64)
    check_settings(searching)
    assert not caplog.text
    given = {"loss": "infonce", "epochs": 3, "teacher": "second", "negatives": "mined", "bank": 9, "trainlength": 16}
    check_settings(searching.replace(**given, checkpointpath=str(tmp_path / "c.pt")))
    named = caplog.text.partition("without effect in --stage search: ")[2].strip().split(", ")
    assert set(named) == {*given, "checkpointpath"}
