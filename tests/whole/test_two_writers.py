"""Two processes and one target: the second is refused in one sentence, and what the first leaves is its own.

The processes are real. The first is stopped (SIGSTOP) in the middle of its work while the second tries.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
from lives import FLAGS, Life

from hr_search.base import claims, paths
from hr_search.base.errors import InputError
from hr_search.runs import folders
from hr_search.runs.folders import Run

SHORT = [*FLAGS.split(), "--maxsteps", "8"]
OTHER = ["--learningrate", "1e-3", "--loss", "triplet", "--mixing", "none", "--probes", "1"]


@pytest.fixture
def words(jobs_file, tiny_model) -> list[str]:
    """The command line of a tiny run."""
    return [*SHORT, "--datapath", str(jobs_file), "--modelname", str(tiny_model)]


class Halted(Life):
    """A process that trains, stopped in the middle of a step until it is let go."""

    halted: ClassVar[list[Halted]] = []

    def __init__(self, words: list[str], folder: Path) -> None:
        super().__init__(words, folder)
        assert self.wait_for("step", 2), self.said
        os.kill(self.process.pid, signal.SIGSTOP)
        self.halted.append(self)

    def go_on(self) -> tuple[int, str]:
        os.kill(self.process.pid, signal.SIGCONT)
        return self.end()


@pytest.fixture(autouse=True)
def nobody_stays_halted() -> Iterator[None]:
    """A test that fails would wait for its stopped processes for ever."""
    yield
    while Halted.halted:
        Halted.halted.pop().process.kill()


def hidden(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.suffix != ".part"]


def assert_whole(run: Run, learningrate: float, probes: int) -> None:
    """All that a run left is of one run."""
    assert run.config["learningrate"] == learningrate
    assert f"--learningrate={learningrate}" in run.summary["command"]
    assert run.table("history")["step"].tolist()[-1] == run.summary["steps"] == 8
    sides = pd.read_csv(run.folder / "probes" / "texts.csv")["side"].value_counts()
    assert (sides <= probes).all() and (sides > 1).all() == (probes > 1)


# -- run folders ---------------------------------------------------------------------------------


def test_a_second_run_of_one_name_is_refused_and_changes_nothing(tmp_path, words):
    first = Halted([*words, "--runid", "one"], tmp_path / "home")
    code, said = Life([*words, *OTHER, "--runid", "one"], tmp_path / "home").end()
    assert code == 2 and "Traceback" not in said
    assert f"the run one is being written by another process ({first.process.pid} on " in said.splitlines()[-1]
    assert said.splitlines()[-1].endswith("choose another --runid.")
    code, said = first.go_on()
    assert code == 0, said
    run = Run(tmp_path / "home" / "metrics" / "runs" / "one")
    assert_whole(run, 3e-3, 4)
    assert (run.folder / "probes" / "step_000000.npy").is_file() and not hidden(tmp_path / "home" / "metrics")
    code, said = Life([*words, *OTHER, "--runid", "one"], tmp_path / "home").end()
    assert code == 2 and "the run one exists already; choose another --runid" in said


def test_of_two_runs_that_start_together_one_is_done_and_the_other_refused(tmp_path, words):
    lives = [Life([*words, *more, "--runid", "one"], tmp_path / "home") for more in ([], OTHER)]
    ended = [life.end() for life in lives]
    assert sorted(code for code, _ in ended) == [0, 2], ended
    winner = [code for code, _ in ended].index(0)
    assert_whole(Run(tmp_path / "home" / "metrics" / "runs" / "one"), [3e-3, 1e-3][winner], [4, 1][winner])
    assert "Traceback" not in lives[0].said and "hr_search: the run one " in lives[0].said


def test_a_run_that_was_killed_does_not_block_the_next_of_its_name(tmp_path, words):
    first = Halted([*words, "--runid", "one", "--outputpath", tmp_path / "m.pt"], tmp_path / "home")
    first.process.kill()
    assert first.end()[0] == -signal.SIGKILL
    folder = tmp_path / "home" / "metrics" / "runs" / "one"
    assert (folder / ".lock").is_file() and (folder / "probes" / "step_000000.npy").is_file()
    code, said = Life([*words, *OTHER, "--runid", "one", "--outputpath", tmp_path / "m.pt"], tmp_path / "home").end()
    assert code == 0, said
    assert_whole(Run(folder), 1e-3, 1)
    assert not hidden(tmp_path)


def test_runs_without_a_name_get_one_each(tmp_path, words):
    lives = [Life([*words, "--projectname", "p"], tmp_path / "home") for _ in range(3)]
    assert [life.end()[0] for life in lives] == [0, 0, 0], lives[0].said
    assert len(list((tmp_path / "home" / "metrics" / "runs").glob("p-*/summary.json"))) == 3


# -- models and checkpoints ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "first", "second"),
    [("outputpath", "m.pt", "m"), ("outputpath", "m", "../disk/m"), ("checkpointpath", "c.pt", "c.pt")],
)
def test_a_second_writer_of_a_model_or_checkpoint_is_refused(tmp_path, words, flag, first, second):
    (tmp_path / "disk").mkdir()
    places = [tmp_path / "disk" / name for name in (first, second)]
    # Roots of their own: the place alone connects the two.
    one = Halted([*words, "--runid", "one", f"--{flag}", places[0]], tmp_path / "here")
    code, said = Life([*words, *OTHER, "--runid", "two", f"--{flag}", places[1]], tmp_path / "there").end()
    assert code == 2 and "Traceback" not in said
    assert f"hr_search: the {flag} {places[1]} is being written by another process" in said.splitlines()[-1]
    assert f"choose another --{flag}" in said and not (tmp_path / "there" / "metrics" / "runs" / "two").exists()
    code, said = one.go_on()
    assert code == 0, said
    assert not hidden(tmp_path / "disk")
    if flag == "outputpath":
        assert "0.003" in (tmp_path / "disk" / "m" / "README.md").read_text()
        assert Life([*words, *OTHER, f"--{flag}", places[1]], tmp_path / "there").end()[0] == 0  # its turn now


# -- in one process ------------------------------------------------------------------------------


def test_a_notebook_may_prepare_its_run_again_and_lets_go_of_it(home):
    run = folders.create_run("a")
    folders.claim_places(run, {"outputpath": home / "m"})
    run.write("history", pd.DataFrame({"step": [0]}))
    assert folders.create_run("a") == run and not run.has("history")
    held = folders.claim_places(run, {"outputpath": home / "m", "checkpointpath": ""})
    assert claims.holds(claims.inside(run.folder)) and claims.holds(claims.beside(home / "m"))
    held.close()
    assert not hidden(home)
    with pytest.raises(InputError, match="this very process"), claims.claimed(home / "l", "it", "go"):
        claims.claim(home / "l", "it", "go")
    assert not (home / "l").exists() and paths.runs().is_dir()


def test_a_claim_whose_file_was_deleted_is_no_claim(tmp_path):
    lock = claims.inside(tmp_path / "a")
    claims.claim(lock, "it", "go")
    lock.unlink()
    assert not claims.holds(lock)
    claims.claim(lock, "it", "go")
    claims.release(lock)
    claims.release(lock)
    assert not lock.exists()


def test_long_names_are_claimed_apart(tmp_path):
    one, two = (claims.beside(tmp_path / ("x" * 240 + end)) for end in "ab")
    with claims.claimed(one, "it", "go"), claims.claimed(two, "it", "go"):
        assert one != two and one.exists() and two.exists()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(claims.locks, "flock", lambda handle: False)
    with claims.claimed(tmp_path / "l", "the run a", "go"):
        assert "the run a cannot be locked on this file system" in caplog.text
