"""Which files of a Hub data set are read: splits and configurations by their names, with and without `datasets`."""

from __future__ import annotations

import logging
import sys
import types

import huggingface_hub
import pytest

from hr_search.base import hub
from hr_search.base.errors import InputError
from hr_search.base.hub_files import train_files

SHARDS = [f"data/train-0000{number}-of-00002.parquet" for number in range(2)]


def card(*names: str, **default: bool) -> dict:
    return {"configs": [{"config_name": name, "data_files": f"{name}/*.csv", **default} for name in names]}


@pytest.fixture(params=["datasets", "no datasets"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "no datasets":
        monkeypatch.setitem(sys.modules, "datasets", None)  # importing it fails
    return request.param == "datasets"


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["data/validation-00000-of-00001.parquet", *SHARDS], SHARDS),
        (["test.csv", "train.csv", "dev.csv"], ["train.csv"]),
        (["TRAIN.JSONL.gz", "x.txt"], ["TRAIN.JSONL.gz"]),
        (["jobs.csv", "README.md"], ["jobs.csv"]),
        (["dataset_info.json", "state.json", "a.pkl"], ["a.pkl"]),
        (["README.md"], []),
    ],
)
def test_names_that_leave_no_doubt(library: bool, names: list[str], files: list[str]) -> None:
    assert train_files(names) == files


def test_words_that_only_begin_like_a_split(library: bool) -> None:
    names = ["developers.csv", "testers.csv", "trainers.csv", "evaluators.csv"]
    if library:
        assert train_files(names) == sorted(names)
    else:
        with pytest.raises(InputError, match=r"4 files .* write hf:o/n/ and one of developers\.csv.*testers\.csv"):
            train_files(names, place="hf:o/n")
    assert train_files(names, "testers.csv") == ["testers.csv"]


def test_datasets_finds_split_words_inside_names(caplog: pytest.LogCaptureFixture) -> None:
    assert train_files(["constraints.csv", "pretrained.csv", "my_train.csv"]) == ["my_train.csv"]
    assert "2 files belong to no split and are not read: constraints.csv, pretrained.csv" in caplog.text
    with pytest.raises(InputError, match=r"no split called train; write hf:o/n/ and one of test, jobs\.csv"):
        train_files(["test.csv", "jobs.csv"], place="hf:o/n")
    with pytest.raises(InputError, match="one of validation, test"):
        train_files(["test.csv", "dev.csv"])


def test_a_split_is_chosen_by_its_name(library: bool) -> None:
    names = ["test.csv", "train.csv", "dev.csv"]
    assert train_files(names, "test") == ["test.csv"]
    assert train_files(names, "default/validation") == ["dev.csv"]
    with pytest.raises(InputError, match=r"hf:o/n/tset: the data set has no tset; it has .*test"):
        train_files(names, "tset", place="hf:o/n/tset")


def test_the_only_split_is_read_whatever_its_name(caplog: pytest.LogCaptureFixture) -> None:
    assert train_files(["test-0.csv", "test-1.csv"]) == ["test-0.csv", "test-1.csv"]
    assert "the only split is test" in caplog.text


def test_configurations_of_the_card(caplog: pytest.LogCaptureFixture) -> None:
    names = ["README.md", "de/train.csv", "en/train.csv"]
    with pytest.raises(InputError, match="hf:o/n has 2 configurations; write hf:o/n/ and one of de, en"):
        train_files(names, card=card("de", "en"), place="hf:o/n")
    assert train_files(names, "en", card("de", "en")) == ["en/train.csv"]
    assert train_files(names, "en/train", card("de", "en")) == ["en/train.csv"]
    both = card("de")["configs"] + card("en", default=True)["configs"]
    assert train_files(names, card={"configs": both}) == ["en/train.csv"]
    assert 'the configuration "en"; others are de' in caplog.text


def test_folders_without_a_card_are_not_glued_together(library: bool) -> None:
    names = ["de/train.csv", "en/train.csv", "en/test.csv"]
    with pytest.raises(InputError, match="hf:o/n.* de"):
        train_files(names, place="hf:o/n")
    assert train_files(names, "en") == ["en/train.csv"]
    assert train_files(names, "en/test") == ["en/test.csv"]
    assert train_files(names, "de/train.csv") == ["de/train.csv"]
    if library:
        assert train_files(names, "train") == ["de/train.csv", "en/train.csv"]


@pytest.mark.parametrize("configs", [3, [{"config_name": "x", "data_files": "none.csv"}], [1, None]])
def test_a_card_that_contradicts_the_files(configs: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert train_files(["jobs.csv"], card={"configs": configs}) == ["jobs.csv"]
    with pytest.raises(InputError, match="their names do not show"):
        train_files(["jobs.csv", "more.csv"], card={"configs": configs})


def test_the_place_says_which(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["train.csv", "test.csv", "deep/er/x.csv"]
    siblings = [types.SimpleNamespace(rfilename=name) for name in names]
    info = types.SimpleNamespace(sha="0" * 40, siblings=siblings, card_data=None)
    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: asked.append(name) or info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda filename, **fixed: str(tmp_path / filename))
    assert hub.files_of("hf:owner/name/test") == [("test.csv", tmp_path / "test.csv")]
    assert hub.files_of("hf:owner/name/deep/er/x.csv")[0][0] == "deep/er/x.csv"
    assert asked == ["owner/name"] * 2
    with pytest.raises(InputError, match="has no nothing; it has"):
        hub.files_of("hf:owner/name/nothing")
    for wrong in ("hf:owner", "hf:owner/name/../x", "hf:/name"):
        with pytest.raises(InputError, match="write hf:OWNER/NAME"):
            hub.files_of(wrong)
