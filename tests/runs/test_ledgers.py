"""Appending to shared result tables."""

from __future__ import annotations

import multiprocessing
import os

import numpy as np
import pandas as pd
import pytest

from hr_search.base import locks
from hr_search.base.errors import InputError
from hr_search.runs.ledgers import append_rows

STRIDE = 1 if os.environ.get("HR_SEARCH_KILLS") else 8  # rows a time, at the median; singly in the long version


def test_append_keeps_what_is_there(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    append_rows(path, pd.DataFrame({"run": ["a"], "value": [1 / 3], "note": ['one, "two"\nthree']}))
    assert path.read_text() == 'run,value,note\na,0.333333333,"one, ""two""\nthree"\n'
    before = path.read_bytes()
    append_rows(path, pd.DataFrame({"note": ["ёж"], "run": ["b"], "value": [2]}))
    assert path.read_bytes() == before + "b,2,ёж\n".encode()
    append_rows(path, pd.DataFrame({"run": [], "value": [], "note": []}))
    assert pd.read_csv(path)["run"].tolist() == ["a", "b"]
    assert [item.name for item in path.parent.iterdir()] == ["table.csv"]


def test_append_to_tables_from_other_programs(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("\ufeffa,b\r\n1,007".encode())
    append_rows(path, pd.DataFrame({"b": [2], "a": [3]}))
    assert path.read_bytes() == b"a,b\r\n1,007\n3,2\n"
    path.write_bytes(b"")
    append_rows(path, pd.DataFrame({"a": [1]}))
    assert path.read_bytes() == b"a\n1\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,c\n1,2\n", r"only there: c; only in the rows: b"),
        (b"a\n1\n", r"only there: none; only in the rows: b"),
        (b"a,b\n1,2\n3\n", "row 2 has 1 fields and the header 2"),
        (b"a,b\n\xff,2\n", "not a readable CSV table"),
    ],
)
def test_append_refuses_and_changes_nothing(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        append_rows(path, pd.DataFrame({"a": [1], "b": [2]}))
    assert path.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_append_refuses_bad_rows_and_places(tmp_path):
    with pytest.raises(InputError, match="columns with distinct names"):
        append_rows(tmp_path / "t.csv", pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(InputError, match="need columns"):
        append_rows(tmp_path / "t.csv", pd.DataFrame())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        append_rows(tmp_path / "file" / "t.csv", pd.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match="not a readable CSV table"):
        append_rows(tmp_path, pd.DataFrame({"a": [1]}))


def append_many(path: str, writer: int, barrier: multiprocessing.Barrier, portable: bool, rows: int) -> None:
    """One of several writers: so many rows, a few at a time."""
    if portable:
        locks.fcntl = None
    draw, done = np.random.default_rng(writer), 0
    barrier.wait()
    while done < rows:
        count = min(int(draw.integers(1, 2 * STRIDE)), rows - done)
        append_rows(path, pd.DataFrame({"writer": writer, "number": range(done, done + count)}))
        done += count


@pytest.mark.parametrize(("portable", "writers", "rows"), [(False, 6, 80), (True, 4, 30)])
def test_processes_that_append_at_once_lose_and_double_no_row(tmp_path, portable, writers, rows):
    path = tmp_path / "table.csv"
    kinds = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in kinds else "spawn")
    barrier = context.Barrier(writers)
    processes = [
        context.Process(target=append_many, args=(str(path), i, barrier, portable, rows)) for i in range(writers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    table = pd.read_csv(path)
    assert len(table) == writers * rows
    for _, own in table.groupby("writer"):
        assert own["number"].tolist() == list(range(rows))
    assert [item.name for item in tmp_path.iterdir()] == ["table.csv"]


def test_a_file_system_without_folder_locks_uses_a_lock_file(tmp_path, monkeypatch):
    def refuse(handle: int, operation: int) -> None:
        raise OSError("no locks available")

    seen = []
    original = locks.lock_file
    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "lock_file", lambda *args: seen.append(args) or original(*args))
    append_rows(tmp_path / "t.csv", pd.DataFrame({"a": [1]}))
    assert len(seen) == 1 and (tmp_path / "t.csv").read_text() == "a\n1\n"


def test_a_lock_left_behind_is_named(tmp_path):
    (tmp_path / ".t.csv.lock").touch()
    with pytest.raises(InputError, match=r"remove .*\.t\.csv\.lock"), locks.lock_file(tmp_path / "t.csv", 0.05):
        pass
    assert (tmp_path / ".t.csv.lock").exists()
