"""Checkpoints: whole, safe to read, and only for the run they belong to."""

from __future__ import annotations

import math
import os
import pickle
import resource
import zipfile
from pathlib import Path

import pytest
import torch

from hr_search.base.errors import InputError
from hr_search.checkpoint import VERSION, load_checkpoint, previous, require_own, save_checkpoint
from hr_search.settings import FIELDS, Settings

SETTINGS = Settings().to_dict()


def state(step: int = 1, **changes) -> dict:
    """A small state of the kind a training run keeps."""
    return {
        "settings": SETTINGS, "fingerprint": "abc", "step": step, "model": {"weight": torch.full((3, 2), float(step))},
        **changes,
    }  # fmt: skip


def load(path: Path, settings: dict | None = None, fingerprint: str = "abc") -> dict | None:
    return load_checkpoint(path, settings or SETTINGS, fingerprint)


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    """A checkpoint of step 2 with that of step 1 beside it."""
    path = tmp_path / "run.pt"
    save_checkpoint(path, state(1))
    save_checkpoint(path, state(2))
    return path


def test_round_trip(tmp_path):
    weights = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(weights.parameters(), lr=0.1)
    weights(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    kept = {
        "optimiser": optimiser.state_dict(), "random": {"cpu": torch.get_rng_state(), "cuda": []},
        "progress": {"best": -math.inf, "history": [{"loss": math.nan, "step": 0}], "sums": torch.ones(3).double()},
        "text": "Проект", "nothing": None, "flags": [True, 2, 0.5],
    }  # fmt: skip
    save_checkpoint(tmp_path / "deep" / "run.pt", state(3, model=weights.state_dict(), **kept))
    found = load(tmp_path / "deep" / "run.pt")
    assert found["step"] == 3 and found["version"] == VERSION and found["settings"] == SETTINGS
    assert found["text"] == "Проект" and found["nothing"] is None and found["flags"] == [True, 2, 0.5]
    assert found["progress"]["best"] == -math.inf and math.isnan(found["progress"]["history"][0]["loss"])
    assert found["progress"]["sums"].dtype == torch.float64
    assert torch.equal(found["random"]["cpu"], kept["random"]["cpu"])
    for name, tensor in weights.state_dict().items():
        assert torch.equal(found["model"][name], tensor)
    for number, moments in optimiser.state_dict()["state"].items():
        assert all(torch.equal(moments[name], found["optimiser"]["state"][number][name]) for name in moments)
    assert [item.name for item in (tmp_path / "deep").iterdir()] == ["run.pt"]


def test_no_checkpoint_yet(tmp_path):
    assert load(tmp_path / "run.pt") is None and load(tmp_path / "missing" / "run.pt") is None


def test_the_one_before_is_kept(twice):
    assert load(twice)["step"] == 2
    assert torch.load(previous(twice), weights_only=True)["step"] == 1
    save_checkpoint(str(twice), state(3))
    assert load(str(twice))["step"] == 3 and torch.load(previous(twice), weights_only=True)["step"] == 2
    assert sorted(item.name for item in twice.parent.iterdir()) == ["run.pt", "run.pt.previous"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_torn_file_gives_way_to_the_one_before(twice, caplog, share):
    data = twice.read_bytes()
    twice.write_bytes(data[: int(len(data) * share)])
    assert load(twice)["step"] == 1
    assert "run.pt is not a whole checkpoint" in caplog.text
    previous(twice).unlink()
    with pytest.raises(InputError, match=r"run.pt is not a whole checkpoint .*another --checkpointpath"):
        load(twice)


def test_a_lost_file_gives_way_to_the_one_before(twice):
    twice.unlink()
    assert load(twice)["step"] == 1


def test_damage_inside_a_file_of_the_right_size_is_seen(twice, caplog):
    """A disk gives back other bytes than were written."""
    data = bytearray(twice.read_bytes())
    at = data.index(torch.full((3, 2), 2.0).numpy().tobytes())
    data[at] ^= 1
    twice.write_bytes(bytes(data))
    assert load(twice)["step"] == 1 and "is damaged" in caplog.text
    assert "going on from the checkpoint before it" in caplog.text


@pytest.mark.parametrize("torn", [True, False])
def test_a_torn_or_lost_file_never_pushes_out_the_whole_one_before(twice, torn):
    """Whatever moment the next save dies at, one of the two is whole."""
    if torn:
        twice.write_bytes(twice.read_bytes()[:300])
    else:
        twice.unlink()
    save_checkpoint(twice, state(load(twice)["step"] + 1, note="again"))
    assert load(twice)["note"] == "again"
    assert torch.load(previous(twice), weights_only=True)["step"] == 1


def test_both_torn(twice, caplog):
    for path in (twice, previous(twice)):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="not a whole checkpoint"):
        load(twice)
    assert len(caplog.records) == 2


def test_a_full_disk_keeps_the_last_checkpoint(twice):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(InputError, match="cannot be written"):
            save_checkpoint(twice, state(3, model=torch.ones(1_000_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load(twice)["step"] == 2
    assert sorted(item.name for item in twice.parent.iterdir()) == ["run.pt", "run.pt.previous"]


def test_a_state_that_cannot_be_saved_keeps_the_last_checkpoint(twice):
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(twice, state(3, function=lambda: None))
    assert load(twice)["step"] == 2
    assert sorted(item.name for item in twice.parent.iterdir()) == ["run.pt", "run.pt.previous"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "run.pt", state())
    with pytest.raises(InputError, match="is a folder"):
        save_checkpoint(tmp_path / "folder", state())


def write_text(path: Path) -> None:
    path.write_text("not a checkpoint")


def write_weights(path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, path)


def write_tensor(path: Path) -> None:
    torch.save(torch.ones(2), path)


def write_other_version(path: Path) -> None:
    torch.save({**state(), "version": VERSION + 1}, path)


def write_same_number(path: Path) -> None:
    torch.save({"version": VERSION, "weight": torch.ones(2)}, path)


def write_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")


@pytest.mark.parametrize(
    "write",
    [write_text, write_weights, write_tensor, write_other_version, write_same_number, write_archive, Path.mkdir, Path.touch],
)  # fmt: skip
def test_foreign_files_are_refused(tmp_path, write):
    path = tmp_path / "run.pt"
    write(path)
    with pytest.raises(InputError, match=r"run.pt is not a whole checkpoint of this program"):
        load(path)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("bare", [True, False])
def test_a_malicious_pickle_runs_nothing(tmp_path, bare):
    mark, path = tmp_path / "mark", tmp_path / "run.pt"
    bad = state(model=Malicious(mark))
    if bare:
        path.write_bytes(pickle.dumps(bad, protocol=2))
    else:
        torch.save({"version": VERSION, **bad}, path)
    with pytest.raises(InputError, match="not a whole checkpoint"):
        load(path)
    assert not mark.exists()
    torch.load(path, weights_only=False) if not bare else pickle.loads(path.read_bytes())
    assert mark.exists()  # the attack itself is real


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [("margin", 0.5, "margin = 0.3, not 0.5"), ("datapath", "b.csv", "datapath = 'esco', not 'b.csv'"), ("seed", 1, "seed = 42")],
)  # fmt: skip
def test_a_checkpoint_of_other_settings_is_refused(twice, name, value, shown):
    with pytest.raises(InputError, match="resume with equal settings") as caught:
        load(twice, {**SETTINGS, name: value})
    assert shown in str(caught.value) and str(twice) in str(caught.value)


def test_a_checkpoint_of_other_data_is_refused(twice):
    with pytest.raises(InputError, match=r"run.pt was made on other data"):
        load(twice, fingerprint="abd")


def test_settings_that_change_no_result_may_differ(twice):
    free = {
        "resume": True,
        "checkpointpath": "x.pt",
        "checkpointsteps": 5,
        "outputpath": "out",
        "projectname": "p",
        "tracker": "wandb",
        "epochs": 7,
        "maxsteps": 9,
    }
    assert load(twice, {**SETTINGS, **free})["step"] == 2
    for name in set(FIELDS) - set(free):
        with pytest.raises(InputError, match=f"was made with {name} = "):
            load(twice, {**SETTINGS, name: "another"})


def test_a_setting_younger_than_the_checkpoint_is_no_difference(tmp_path):
    older = {name: value for name, value in SETTINGS.items() if name != "mixk"}
    save_checkpoint(tmp_path / "run.pt", state(settings={**older, "since_removed": 1}))
    assert load(tmp_path / "run.pt")["step"] == 1


# -- what a run that starts anew may overwrite ----------------------------------------------------


def write_older_version(path: Path) -> None:
    torch.save({**state(), "version": 1}, path)


def write_own(path: Path) -> None:
    save_checkpoint(path, state())


def write_torn(path: Path) -> None:
    write_own(path)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("write", [write_own, write_older_version, write_torn, Path.touch, lambda path: None])
def test_an_own_checkpoint_may_go(tmp_path, write):
    write(tmp_path / "run.pt")
    require_own(tmp_path / "run.pt")


@pytest.mark.parametrize("write", [write_text, write_weights, write_tensor, write_archive, Path.mkdir])
def test_another_file_is_not_overwritten(tmp_path, write):
    write(tmp_path / "run.pt")
    with pytest.raises(InputError, match=r"run.pt is not a checkpoint"):
        require_own(str(tmp_path / "run.pt"))
