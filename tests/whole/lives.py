"""Real processes that train, watched from outside: what each is doing, and how it ends.

They come from a server that has imported torch once, so that one starts in a tenth of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

import torch

from hr_search import checkpoint, experiment, train
from hr_search.base import paths, progress
from hr_search.commands import parser

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["pytest", "bm25s", "sklearn.feature_extraction.text", "sentence_transformers", "hr_search.experiment", "hr_search.commands.parser",
     "transformers.models.bert.modeling_bert"]
)  # fmt: skip
# What a process is doing: the function, and how many seconds into it the parent's hand may fall.
PHASES = {
    "step": (train, "run_step", 0.008),
    "validation": (train.Training, "validate", 0.02),
    "checkpoint": (checkpoint, "save_checkpoint", 0.008),
    "model": (experiment, "save_model", 0.02),
}
NAMES = list(PHASES)
# All that has a state takes part: dropout, a bank, mined negatives, mixing, a schedule, early stopping.
FLAGS = (
    "--epochs 60 --batchsize 4 --learningrate 3e-3 --precision fp32 --dropout 0.1 --loss infonce --mixing mochi --bank 12 "
    "--negatives mined --minepool 4 --mineevery 25 --evalsteps 3 --patience 60 --validationshare 0.2 --testshare 0.2 "
    "--probes 4 --seed 1"
)


def train_process(words: list[str], home: str, output: str, shared, limit: int, environment: dict[str, str]) -> None:
    """The life of a process: `train` or another verb, each of its phases noted where a death leaves it to be read."""
    os.environ.update({paths.HOME_VARIABLE: home, progress.HEADLESS_VARIABLE: "1", **environment})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handle = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    torch.set_num_threads(1)
    for number, (module, name, _) in enumerate(PHASES.values(), 1):
        setattr(module, name, noted(getattr(module, name), number, shared))
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(parser.main(words))


def noted(function, number: int, shared):
    def inside(*arguments, **named):
        shared[number] += 1
        shared[0] = number
        try:
            return function(*arguments, **named)
        finally:
            shared[0] = 0

    return inside


class Life:
    """One process that trains, or does what another verb says."""

    def __init__(self, words: list[str], folder: Path, limit: int = 0, verb: str = "train", **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / "output.txt"
        self.shared = CONTEXT.RawArray("i", 1 + len(PHASES))
        self.begin = len(self.said)
        arguments = ([verb, *map(str, words)], str(folder), str(self.output), self.shared, limit, environment)
        self.process = CONTEXT.Process(target=train_process, args=arguments)
        self.process.start()

    @property
    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    @property
    def doing(self) -> str:
        return ["elsewhere", *NAMES][self.shared[0]]

    def wait_for(self, phase: str, count: int = 1) -> bool:
        """Whether the process came to do something for the `count`-th time before it ended."""
        number = 1 + NAMES.index(phase)
        while self.shared[0] != number or self.shared[number] < count:
            if not self.process.is_alive():
                return False
            time.sleep(0.0002)
        return True

    def end(self, patience: float = 600) -> tuple[int, str]:
        """The exit code, and what the process said."""
        self.process.join(patience)
        alive = self.process.is_alive()
        if alive:
            self.process.kill()
        assert not alive, self.said
        return self.process.exitcode, self.said[self.begin :]


def launch(words: list[str], folder: Path, limits: tuple[int, int] = (0, 0), verb: str = "train") -> list[Life]:
    """Two processes that work together, as `accelerate launch` sets them up; `limits` are bytes a file of each may have."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **common} for rank in range(2)]
    return [Life(words, folder / f"rank{at}", limits[at], verb, **rank) for at, rank in enumerate(ranks)]
