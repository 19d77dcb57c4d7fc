"""A failed write changes nothing: full disks, places without permission, and several writers at once."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from lives import CONTEXT, FLAGS, Life

from hr_search import release
from hr_search.base import files, paths
from hr_search.base.errors import InputError
from hr_search.checkpoint import save_checkpoint
from hr_search.commands import parser
from hr_search.encoder import load_encoder
from hr_search.fast import tokens
from hr_search.grids import runner
from hr_search.grids.grid_file import Cell, Grid
from hr_search.grids.workers import Outcome
from hr_search.reports import index, pages
from hr_search.runs import ledgers
from hr_search.runs.folders import Run, create_run
from hr_search.runs.probes import Probes
from hr_search.settings import Settings

TABLE = pd.DataFrame({"text": ["a line of a table, long enough to be noticed"] * 40, "value": range(40)})
NOBODY = 65534


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file of this process may grow above `room` bytes; the system refuses as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def another_user(folder: Path) -> Iterator[None]:
    """Nobody may write below `folder`, for a while, not even the administrator who runs this test."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    # Above, all may pass: the folders of pytest are closed to others.
    above = [path for path in folder.parents if path.stat().st_uid == os.geteuid() and not path.stat().st_mode & 0o001]
    modes = {path: path.stat().st_mode for path in [*folders, *above]}
    for path in modes:
        path.chmod(0o555)
    administrator = os.geteuid() == 0
    if administrator:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if administrator:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones and what is not whole included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- every writer ---------------------------------------------------------------------------------


def a_checkpoint(root: Path) -> Path:
    save_checkpoint(root / "deep" / "c.pt", {"settings": {}, "fingerprint": "", "numbers": torch.ones(5000)})
    return root / "deep" / "c.pt"


def a_page(root: Path) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A title")])
    place = root / "reports" / "one" / "01.html"
    source = root / "source.ipynb"
    if not source.exists():
        nbformat.write(notebook, source)
    return pages.export_html(source, place)


def a_table_of_cells(root: Path) -> Path:
    cells = tuple(Cell(f"g-{number}", Settings(seed=number)) for number in range(60))
    grid = Grid("g", ("seed",), cells)
    runner.write_cells(grid, {cell.runid: Outcome("waiting") for cell in cells})
    return grid.folder / "cells.csv"


def a_ledger(root: Path) -> Path:
    ledgers.append_rows(root / "metrics" / "results.csv", TABLE)
    return root / "metrics" / "results.csv"


def a_run_table(root: Path) -> Path:
    Run(root / "metrics" / "runs" / "r").write("history", TABLE)
    return root / "metrics" / "runs" / "r" / "history.csv"


def a_probe(root: Path) -> Path:
    texts = {"query": ["a"], "document": ["b"]}
    probes = Probes(Run(root / "metrics" / "runs" / "r"), texts, texts, 5)
    probes.keep(1, {"query": np.ones((1, 500), np.float32), "document": np.ones((1, 500), np.float32)})
    return probes.folder / "step_000001.npy"


def an_index(root: Path) -> Path:
    return index.write_index()


def a_text(root: Path) -> Path:
    files.write_text(root / "deep" / "text.txt", "long " * 1000)
    return root / "deep" / "text.txt"


def a_json(root: Path) -> Path:
    files.write_json(root / "deep" / "value.json", list(range(2000)))
    return root / "deep" / "value.json"


def a_model(root: Path) -> Path:
    """The folder; the encoder is made once."""
    ENCODER.save(root / "models" / "m", "a card")
    return root / "models" / "m"


def a_model_and_its_weights(root: Path) -> Path:
    release.save_model(ENCODER, str(root / "models" / "m.pt"), "a card")
    return root / "models" / "m.pt"


def a_token_cache(root: Path) -> Path:
    before = set(paths.cache().rglob("*")) if paths.cache().exists() else set()
    texts = [f"the text number {number}" for number in range(len(before), len(before) + 1200)]
    ENCODER.tokens(texts, "document")
    return next(iter(set(paths.cache().rglob("offsets.npy")) - before), paths.cache()).parent


WRITERS = [a_checkpoint, a_page, a_table_of_cells, a_ledger, a_run_table, a_probe, an_index, a_text, a_json, a_model,
           a_model_and_its_weights, a_token_cache]  # fmt: skip
ENCODER = None


@pytest.fixture
def root(home, tiny_model) -> Path:
    """A root of its own, and the encoder that some writers save."""
    global ENCODER
    if ENCODER is None:
        ENCODER = load_encoder(str(tiny_model), precision="fp32")
    home.mkdir()
    return home


def refused(write: Callable[[Path], Path], root: Path) -> str:
    with pytest.raises(InputError) as caught:
        write(root)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_full_disk_is_one_sentence_and_leaves_all_as_it_was(root, write):
    write(root)
    before = content(root)
    with full_disk(1000):
        assert "cannot be written" in refused(write, root)
    assert content(root) == before
    if write is not a_token_cache:
        with full_disk(0):
            refused(write, root)
        assert content(root) == before
    write(root)  # the disk has room again


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_folder_without_permission_is_one_sentence_and_leaves_all_as_it_was(root, write, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(root))  # the home of who runs this test may be closed to others
    write(root)
    before = content(root)
    with another_user(root):
        said = refused(write, root)
    assert "cannot be written" in said and "ermission" in said
    assert content(root) == before
    write(root)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_parent_that_is_a_file_is_one_sentence(root, write):
    place = write(root)
    shutil.rmtree(place.parent)
    place.parent.write_text("a file")
    before = content(root)
    refused(write, root)
    assert content(root) == before


# The place of a token cache follows from its texts, so the next one has another.
@pytest.mark.parametrize("write", WRITERS[:-1], ids=lambda write: write.__name__)
def test_the_other_kind_in_its_place_is_one_sentence(root, write):
    """A folder where a file belongs, a file where a folder belongs."""
    place = write(root)
    if place.is_dir():
        shutil.rmtree(place)
        place.write_text("a file")
    else:
        place.unlink()
        place.mkdir()
        (place / "kept").write_text("kept")
    before = content(root)
    said = refused(write, root)
    assert "is a f" in said or "not a readable CSV table" in said
    if write is not a_model_and_its_weights:  # the model itself is a folder beside the weights, and whole
        assert content(root) == before
    assert not [name for name in content(root) if name.endswith(".part")]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_folder_that_went_away_is_made_again(root, write):
    place = write(root)
    shutil.rmtree(place.parent)
    assert write(root).exists()


def test_a_checkpoint_too_large_for_its_last_bytes_keeps_both_before(root):
    """What is written last only reaches the disk when the file is flushed."""
    for number in (1, 2):
        save_checkpoint(root / "c.pt", {"settings": {}, "fingerprint": "", "number": number})
    before = content(root)
    assert set(before) == {"c.pt", "c.pt.previous"}
    for room in range(0, len(before["c.pt"]), 400):
        with full_disk(room), pytest.raises(InputError, match="cannot be written"):
            save_checkpoint(root / "c.pt", {"settings": {}, "fingerprint": "", "number": 3})
        assert content(root) == before


def test_a_damaged_token_cache_is_made_anew(root):
    texts = [f"the text number {number}" for number in range(1000)]
    whole = ENCODER.tokens(texts, "document")
    expected, folder = [row.tolist() for row in whole], next(paths.cache().rglob("offsets.npy")).parent
    for name, damage in [("ids.npy", lambda data: data[:-4]), ("offsets.npy", lambda data: b""),
                         ("ids.npy", lambda data: b"no array"), ("offsets.npy", lambda data: data[:200])]:  # fmt: skip
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
        assert [row.tolist() for row in ENCODER.tokens(texts, "document")] == expected
        assert tokens._kept(folder, 1000) is not None


def test_places_are_refused_before_the_training(root):
    (root / "models").mkdir()
    with another_user(root):
        for place in (root / "models" / "m", root / "models" / "m.pt", root / "new" / "m"):
            with pytest.raises(InputError, match="choose a place with"):
                release.require_output(str(place))
        with pytest.raises(InputError, match="cannot be made"):
            create_run("r")
    release.require_output(str(root / "models" / "m"))
    assert list((root / "models").iterdir()) == []


# -- a whole command ------------------------------------------------------------------------------


def short_run(table: Path, model: Path, *more: object) -> list[str]:
    flags = [*FLAGS.split(), "--maxsteps", "8", "--datapath", table, "--modelname", model, *more]
    return [str(flag) for flag in flags]


def test_a_disk_that_fills_up_while_training(tmp_path, jobs_file, tiny_model):
    place, model = tmp_path / "c.pt", tmp_path / "model"
    command = short_run(jobs_file, tiny_model, "--checkpointpath", place, "--checkpointsteps", 4, "--outputpath", model)
    code, said = Life([*command, "--runid", "first"], tmp_path).end()
    assert code == 0, said
    kept = {name: data for name, data in content(tmp_path).items() if name != "output.txt"}
    code, said = Life([*command, "--runid", "second"], tmp_path, limit=50_000).end()
    assert code == 2 and "Traceback" not in said
    assert f"hr_search: {place} cannot be written" in said.splitlines()[-1]
    now = content(tmp_path)
    assert {name: now.get(name) for name in kept} == kept
    assert not [name for name in now if name.endswith(".part")]
    # Without a checkpoint it comes to the model, and the results of the run are there already.
    code, said = Life([*short_run(jobs_file, tiny_model, "--outputpath", model), "--runid", "third"], tmp_path,
                      limit=50_000).end()  # fmt: skip
    assert code == 2 and f"hr_search: {model} cannot be written" in said.splitlines()[-1], said
    now = content(tmp_path)
    assert {name: now.get(name) for name in kept if name != "metrics/results.csv"} == {
        name: data for name, data in kept.items() if name != "metrics/results.csv"
    }
    assert now["metrics/results.csv"].startswith(kept["metrics/results.csv"])
    assert "metrics/runs/third/summary.json" in now and not [name for name in now if name.endswith(".part")]


def test_a_small_disk_that_is_full_indeed(tmp_path, jobs_file, tiny_model):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here ({mounted.stderr.strip()}); the size limit above stands in for it")
    try:
        place = disk / "deep" / "c.pt"
        command = short_run(jobs_file, tiny_model, "--checkpointpath", place, "--checkpointsteps", 1)
        code, said = Life([*command, "--runid", "full"], tmp_path / "home").end()
        assert code == 2 and "Traceback" not in said
        assert "No space left on device" in said.splitlines()[-1]
        assert not [name for name in content(disk) if name.endswith(".part")]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_root_that_cannot_be_a_folder(tmp_path, jobs_file, tiny_model, monkeypatch, capsys):
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "file" / "below"))
    assert parser.main(["train", *short_run(jobs_file, tiny_model)]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("hr_search: ") and "cannot be made" in said and "Traceback" not in said
    assert (tmp_path / "file").read_text() == "a file"


def test_folders_deleted_while_running_end_in_results_or_in_one_sentence(tmp_path, jobs_file, tiny_model):
    place, earlier = tmp_path / "checkpoints" / "c.pt", tmp_path / "metrics" / "runs" / "earlier"
    code, said = Life([*short_run(jobs_file, tiny_model), "--runid", "earlier"], tmp_path).end()
    assert code == 0, said
    before = content(earlier)
    command = [*short_run(jobs_file, tiny_model, "--checkpointpath", place, "--checkpointsteps", 1), "--maxsteps", "60"]
    life = Life([*command, "--runid", "bothered"], tmp_path)
    assert life.wait_for("step", 5)
    while life.process.is_alive():
        shutil.rmtree(place.parent, ignore_errors=True)
        shutil.rmtree(tmp_path / "metrics" / "runs" / "bothered", ignore_errors=True)
        time.sleep(0.05)
    code, said = life.end()
    assert code in (0, 2) and "Traceback" not in said, said
    assert code == 0 or said.splitlines()[-1].startswith("hr_search: ")
    assert content(earlier) == before


# -- at the same time -----------------------------------------------------------------------------


VERSIONS = 10  # so many different writes are to be seen by a reader, while others go on


def write_again_and_again(home: str, kind: str, number: int, barrier, stop) -> None:
    """The life of one of several writers."""
    os.environ[paths.HOME_VARIABLE] = home
    torch.set_num_threads(1)
    barrier.wait()
    for turn in itertools.count():
        if kind == "index":
            index.write_index()
        else:
            with files.whole_folder(Path(home) / "model") as folder:
                for name in ("a", "b", "c"):
                    (folder / name).write_text(f"{number} {turn} " * 2000)
        if stop.is_set() and turn >= 2:
            return


@contextlib.contextmanager
def writers_at_once(home: Path, kind: str) -> Iterator[Callable[[], bool]]:
    """Three processes that write one place until this ends; gives a function that says whether all are alive."""
    barrier, stop = CONTEXT.Barrier(3), CONTEXT.Event()
    writers = [
        CONTEXT.Process(target=write_again_and_again, args=(str(home), kind, number, barrier, stop))
        for number in range(barrier.parties)
    ]
    for process in writers:
        process.start()
    try:
        yield lambda: all(process.is_alive() for process in writers)
    finally:
        stop.set()
        for process in writers:
            process.join()
    assert [process.exitcode for process in writers] == [0, 0, 0]


def test_an_index_written_by_several_at_once_is_always_whole(home):
    for number in range(4):
        run = create_run(f"run{number}")
        files.write_json(run.folder / "config.json", Settings().to_dict())
        data = {"name": "jobs", "fingerprint": "f", "train": 1, "validation": 1, "test": 1}
        files.write_json(run.folder / "summary.json", {
            "started": f"2026-01-0{number + 1}T00:00:00+00:00", "data": data, "model": "m", "steps": 1, "seconds": 1.0,
            "metrics": {}, "verdict": "", "command": "",
        })  # fmt: skip
    page = index.write_index()
    seen: set[int] = set()
    with writers_at_once(home, "index") as alive:
        while len(seen) < VERSIONS and alive():
            with page.open(encoding="utf-8") as file:
                text = file.read()
                seen.add(os.fstat(file.fileno()).st_mtime_ns)
            assert text.rstrip().endswith("</html>") and all(f"run{number}" in text for number in range(4))
    assert sorted(item.name for item in page.parent.iterdir()) == ["index.html", "parameters.html"]


def test_a_folder_written_by_several_at_once_is_always_whole(home):
    home.mkdir()
    seen: set[str] = set()
    with writers_at_once(home, "folder") as alive:
        while len(seen) < VERSIONS and alive():
            with contextlib.suppress(FileNotFoundError):  # the first of them is not done, or it was swapped meanwhile
                handle = os.open(home / "model", os.O_RDONLY)
                try:
                    texts = {Path(f"/proc/self/fd/{handle}/{name}").read_text() for name in "abc"}
                    assert len(texts) == 1
                    seen |= texts
                finally:
                    os.close(handle)
    assert sorted(item.name for item in (home / "model").iterdir()) == ["a", "b", "c"]
    assert [item.name for item in home.iterdir()] == ["model"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux swaps two folders in one move")
def test_a_model_folder_is_there_at_every_moment_while_it_is_replaced(root):
    """One move swaps the two, so a kill between two moves cannot leave the place empty."""
    a_model(root)
    missing, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            if not (root / "models" / "m" / "modules.json").exists():
                missing.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(10):
        a_model(root)
    done.set()
    watcher.join()
    assert not missing
