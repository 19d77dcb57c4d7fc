"""Files whole or not at all, places, and progress that only shows where somebody watches."""

from __future__ import annotations

import json
import logging
import math
import os
import pty
import resource
import stat
import sys
import termios
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hr_search.base import files, paths, progress
from hr_search.base.errors import InputError
from hr_search.base.files import digest, read_json, whole_file, whole_folder, write_csv, write_json, write_text

LONG = "x" * 300  # longer than a name may be


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- whole files ---------------------------------------------------------------------------------


def test_a_file_appears_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "deep" / "er" / "file.txt"
    with whole_file(path) as file:
        file.write("ёж\r\n")
        assert not path.exists()
    assert content(tmp_path) == {"deep/er/file.txt": "ёж\r\n".encode()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with whole_file(str(path), "wb") as file:
        file.write(b"\xff")
    assert content(tmp_path) == {"deep/er/file.txt": b"\xff"}


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("z"), KeyboardInterrupt(), InputError("y")])
def test_an_error_inside_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)) as caught, whole_file(path) as file:
        file.write("new")
        file.flush()
        raise error
    assert caught.value is error and content(tmp_path) == {"file.txt": b"old"}


def test_a_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half a pair: \ud800")
    assert content(tmp_path) == {"file.txt": b"old"}


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(
            InputError, match=r"file.txt cannot be written \(.*too large.*; the one written before is kept"
        ):
            write_text(path, "x" * 100_000)
        with pytest.raises(InputError, match=r"new.txt cannot be written \(.*too large.*room and permission\.$"):
            write_text(tmp_path / "new.txt", "x" * 100_000)
        for kept in (False, True):  # the file inside is named by where it would have been, not by its part
            with pytest.raises(InputError) as caught, whole_folder(tmp_path / "model") as folder:
                (folder / "card").write_text("a card that is not the last one to be written")
                write_text(folder / "card", "x" * 100_000)
            assert str(caught.value).startswith(f"{tmp_path / 'model' / 'card'} cannot be written (")
            assert str(caught.value).endswith("; the one written before is kept.") == kept
            (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model").rmdir()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(tmp_path) == {"file.txt": b"old"}


@pytest.mark.parametrize("count", [1, 120, 5000])
def test_an_array_whose_last_bytes_find_no_room_is_not_written(tmp_path, count):
    """NumPy itself does not notice."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (128 + 8 * count - 4, limits[1]))
        with pytest.raises(InputError, match="cannot be written"), whole_file(tmp_path / "a.npy", "wb") as file:
            np.save(file, np.ones(count))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    with whole_file(tmp_path / "a.npy", "wb") as file:
        np.save(file, np.ones(count))
    assert np.load(tmp_path / "a.npy").tolist() == [1.0] * count


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
@pytest.mark.parametrize("place", ["file/below", "file/far/below", LONG, f"{LONG}/below"])
def test_places_that_cannot_be_written(tmp_path, writer, place):
    (tmp_path / "file").write_text("old")
    with pytest.raises(InputError, match="cannot be written"), writer(tmp_path / place):
        pass
    assert content(tmp_path) == {"file": b"old"} and len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with (
        pytest.raises(InputError, match="folder is a folder; give the path of a file"),
        whole_file(tmp_path / "folder"),
    ):
        pass
    with pytest.raises(InputError, match="file is a file; give the path of a folder"), whole_folder(tmp_path / "file"):
        pass
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]


# -- whole folders -------------------------------------------------------------------------------


def test_a_folder_appears_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "deep" / "model"
    with whole_folder(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists() and folder.parent == path.parent
    assert content(tmp_path) == {"deep/model/a": b"1"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    with whole_folder(path) as folder:
        (folder / "b").write_text("2")
        assert content(path) == {"a": b"1"}
    assert content(tmp_path) == {"deep/model/b": b"2"}
    assert [item.name for item in path.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_an_error_inside_leaves_the_old_folder(tmp_path, error):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("old")
    with pytest.raises(type(error)), whole_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("new")
        raise error
    assert content(tmp_path) == {"model/a": b"old"} and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_moved_stays(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be written"), whole_folder(".") as folder:
        (folder / "a").write_text("new")
    assert [item.name for item in tmp_path.iterdir()] == ["a"] and content(tmp_path) == {"a": b"old"}


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("old")
    moves = []
    original = os.rename

    def last_fails(source, target):
        moves.append(target)
        if len(moves) == 3:  # after the attempt to do it in one, and the move of the old one
            raise OSError("no room")
        original(source, target)

    monkeypatch.setattr(files, "_swapped", lambda one, other: False)
    monkeypatch.setattr(files.os, "rename", last_fails)
    with pytest.raises(InputError, match="no room"), whole_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("new")
    assert content(tmp_path) == {"model/a": b"old"} and len(list(tmp_path.iterdir())) == 1


def test_without_a_swap_the_old_folder_is_moved_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_swapped", lambda one, other: False)
    for text in ("old", "new"):
        with whole_folder(tmp_path / "model") as folder:
            (folder / text).write_text(text)
    assert content(tmp_path) == {"model/new": b"new"} and len(list(tmp_path.iterdir())) == 1


def test_a_system_that_cannot_swap_says_so(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    assert not files._swapped(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(files.ctypes, "CDLL", lambda name: types.SimpleNamespace())
    (tmp_path / "b").mkdir()
    assert not files._swapped(tmp_path / "a", tmp_path / "b")


def test_a_link_to_a_folder_is_replaced_and_what_it_meant_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    (tmp_path / "model").symlink_to(tmp_path / "real")
    with whole_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "model" / "a").read_text() == "new" and (tmp_path / "real" / "a").read_text() == "old"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model", "real"]


# -- what killed writers left ----------------------------------------------------------------------


def aged(path: Path, seconds: float = 3600) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, writer):
    dead = tmp_path / ".run.pt.abcdefgh.part"
    dead.write_text("half a checkpoint")
    folder = tmp_path / ".run.pt.old.12345678.part"
    (folder / "run.pt").mkdir(parents=True)
    kept = [".run.pt.swp", "run.pt.abcdefgh.part", ".other.pt.abcdefgh.part", ".run.pt.young678.part"]
    for name in kept:
        (tmp_path / name).write_text("not left behind by a writer of this place")
        aged(tmp_path / name, 5 if "young" in name else 3600)
    aged(dead)
    aged(folder)
    with writer(tmp_path / "run.pt"):
        pass
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(["run.pt", *kept])


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_a_slow_writer_that_lives_is_left_alone(tmp_path, writer):
    with writer(tmp_path / "run.pt"):
        (part,) = tmp_path.iterdir()
        aged(part)
        with writer(tmp_path / "run.pt"):
            pass
        assert part.exists()
    assert [item.name for item in tmp_path.iterdir()] == ["run.pt"]


def test_the_errors_of_other_libraries_that_quote_the_system(tmp_path):
    for error in (Exception("No space left on device (os error 28)"), OSError(28, "No space left on device")):
        with pytest.raises(InputError, match="a.txt cannot be written .*No space left"), whole_file(tmp_path / "a.txt"):
            raise error
    with pytest.raises(KeyError), whole_folder(tmp_path / "b"):
        raise KeyError("os error")
    assert list(tmp_path.iterdir()) == []


# -- JSON and CSV --------------------------------------------------------------------------------


def test_json_round_trip(tmp_path):
    path = tmp_path / "value.json"
    value = {"имя": ["ёж", None, True, 1, 0.1], "b": {"c": []}}
    write_json(path, value)
    assert read_json(path) == value and list(read_json(path)) == ["имя", "b"]
    assert "ёж" in path.read_text("utf-8") and path.read_text("utf-8").endswith("}\n")


@pytest.mark.parametrize("value", [math.nan, {"a": [math.inf]}, {"a": object()}, np.float32(1)])
def test_json_refuses_what_is_no_json_and_leaves_the_old_file(tmp_path, value):
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, value)
    assert json.loads(path.read_text()) == {"old": 1} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"{'a': 1}"])
def test_json_that_cannot_be_read(tmp_path, data):
    (tmp_path / "value.json").write_bytes(data)
    with pytest.raises(InputError, match="is not a readable JSON file"):
        read_json(tmp_path / "value.json")


def test_json_in_no_place(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "value.json")
    with pytest.raises(InputError, match="not a readable JSON file"):
        read_json(tmp_path)


def test_csv_keeps_nine_digits_and_no_index(tmp_path):
    path = tmp_path / "table.csv"
    table = pd.DataFrame({"text": ["a", 'b, "c"\nd'], "value": [1 / 3, math.nan], "n": [1, 2]}, index=[7, 8])
    write_csv(path, table)
    assert path.read_bytes() == b'text,value,n\na,0.333333333,1\n"b, ""c""\nd",,2\n'
    write_csv(path, table[:0])
    assert path.read_bytes() == b"text,value,n\n"


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from('\r\n",;\t '))


@given(st.lists(st.tuples(TEXTS, TEXTS, st.floats(-1e6, 1e6)), max_size=6))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, derandomize=True)
def test_csv_keeps_every_text(tmp_path, rows):
    path = tmp_path / "table.csv"
    table = pd.DataFrame(rows, columns=["a", "b", "value"])
    write_csv(path, table)
    again = pd.read_csv(path, dtype={"a": str, "b": str}, keep_default_na=False)
    assert again[["a", "b"]].to_numpy().tolist() == table[["a", "b"]].to_numpy().tolist()
    np.testing.assert_allclose(again["value"].to_numpy(float), table["value"].to_numpy(float), rtol=1e-8)


def test_digests():
    assert digest("a") == "b86ff4ec84914880"  # caches and fingerprints of earlier versions depend on it
    assert digest("ab", "c") != digest("a", "bc") and digest(["a", "b"]) != digest(["b", "a"])
    assert digest("a", "") != digest("a") and digest("\ud800") != digest("\ud801")
    assert digest(["a", 1], (2.5,)) == digest("a", "1", "2.5")
    assert len(digest()) == 16 and int(digest("x" * 10_000), 16) >= 0


# -- places --------------------------------------------------------------------------------------


def test_everything_written_lies_under_the_root(home):
    assert paths.root() == home.resolve()
    assert paths.models() == home.resolve() / "data" / "models" and paths.cache() == home.resolve() / "data" / "cache"
    assert paths.runs() == home.resolve() / "metrics" / "runs" and paths.metrics() == home.resolve() / "metrics"
    assert paths.reports() == home.resolve() / "reports"
    assert not home.exists()  # asking makes no folder


def test_the_root_without_and_with_the_variable(monkeypatch, tmp_path):
    checkout = Path(paths.__file__).resolve().parents[2]
    for empty in ("", "  "):
        monkeypatch.setenv(paths.HOME_VARIABLE, empty)
        assert paths.root() == paths.checkout() == checkout
    monkeypatch.delenv(paths.HOME_VARIABLE)
    assert paths.root() == checkout
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(paths.HOME_VARIABLE, "~/elsewhere")
    assert paths.root() == (tmp_path / "elsewhere").resolve()
    monkeypatch.setenv(paths.HOME_VARIABLE, "~nobody-of-that-name/x")
    with pytest.raises(InputError, match="HR_SEARCH_HOME is '~nobody-of-that-name/x'"):
        paths.root()


def test_notebooks_and_recipes_are_those_of_the_checkout(home, monkeypatch, tmp_path):
    assert (paths.notebooks() / "02_train.ipynb").is_file() and paths.recipes().parent.name == "data"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "hr_search" / "base" / "paths.py"))
    assert paths.checkout() == tmp_path / "hr_search"
    with pytest.raises(InputError, match="the notebooks are not at "):
        paths.notebooks()


def test_a_path_is_sought_in_the_working_directory_then_in_the_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.resolve("data/sample_ru.jsonl") == paths.checkout() / "data" / "sample_ru.jsonl"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample_ru.jsonl").write_text("")
    here = tmp_path.resolve() / "data" / "sample_ru.jsonl"
    assert paths.resolve("data/sample_ru.jsonl") == paths.resolve(Path("~/data/sample_ru.jsonl")) == here
    assert paths.resolve("nowhere.csv") == tmp_path.resolve() / "nowhere.csv"
    assert paths.resolve(str(tmp_path / "nowhere.csv")) == tmp_path.resolve() / "nowhere.csv"


@pytest.mark.parametrize("text", [LONG, f"data/{LONG}", "a\0b", "~nobody-of-that-name/x.csv"])
def test_texts_that_cannot_be_paths(text):
    with pytest.raises(InputError, match="cannot be a path"):
        paths.resolve(text)


# -- progress ------------------------------------------------------------------------------------


def on_a_terminal(monkeypatch, work):
    """What a real terminal shows of `work`; pytest sets standard error anew before each test, so no fixture can."""
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    with os.fdopen(reader, "rb", 0) as shown, os.fdopen(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        result = work()
        stream.write("end")
        stream.flush()
        return result, shown.read(10_000)


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.delenv(progress.HEADLESS_VARIABLE, raising=False)
    assert on_a_terminal(monkeypatch, progress.watched)[0]
    items, shown = on_a_terminal(monkeypatch, lambda: list(progress.bar(range(3), what="reading", unit="row")))
    assert items == [0, 1, 2] and b"reading" in shown


def test_no_bar_where_the_variable_says_so(monkeypatch):
    monkeypatch.setenv(progress.HEADLESS_VARIABLE, "1")
    assert on_a_terminal(monkeypatch, progress.watched) == (False, b"end")
    assert on_a_terminal(monkeypatch, lambda: list(progress.bar(range(3), what="reading"))) == ([0, 1, 2], b"end")


def test_no_bar_in_a_pipe(monkeypatch, capsys):
    monkeypatch.delenv(progress.HEADLESS_VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not progress.watched()
    with progress.bar(total=5, what="training", start=2) as ticker:
        ticker.update()
    assert list(progress.bar(range(2))) == [0, 1]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("shell", "seen"), [(None, False), (types.SimpleNamespace(kernel=1), True)])
def test_a_bar_in_a_notebook(monkeypatch, capsys, shell, seen):
    monkeypatch.delenv(progress.HEADLESS_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert progress.watched() is seen


def test_log_lines_are_plain_and_come_once(capsys):
    logger = logging.getLogger("hr_search")
    before = logger.level, logger.propagate, logger.handlers[:]
    try:
        progress.show_log()
        progress.show_log()
        logging.getLogger("hr_search.train").info("step %d", 3)
        logging.getLogger("hr_search.train").debug("hidden")
        logging.getLogger("another").warning("not ours")
        assert capsys.readouterr().out == "step 3\n"
        progress.show_log(logging.WARNING)
        logging.getLogger("hr_search.train").info("hidden")
        assert capsys.readouterr().out == ""
    finally:
        logger.level, logger.propagate, logger.handlers[:] = before
