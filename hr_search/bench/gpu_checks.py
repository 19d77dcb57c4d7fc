"""What must hold on a GPU: equal numbers, steps without waits, room made in little memory, resuming, a launch.

Each check takes a scene and gives its findings one by one, so that what was found before it fails is kept.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hr_search
from hr_search import policies, step, train
from hr_search.base import files, paths
from hr_search.base.choices import METRICS
from hr_search.base.errors import one_line
from hr_search.batches import Rows, make_batch
from hr_search.bench.gpu_scene import (
    Finding,
    Scene,
    at_least,
    at_most,
    fresh,
    left_out,
    scarce_memory,
    traced_waits,
    warned_waits,
)
from hr_search.bench.meters import synchronise
from hr_search.encoder import Encoder
from hr_search.fast.tokens import TokenTable
from hr_search.settings import Settings

# Bounds of a difference from the processor in float32: largest distance of two unit vectors, relative difference of
# the loss, relative difference of the gradient. Measured on a processor: its own bf16 differs by .004, .00001 and .01;
# an attention in which two texts of the batch see one another by .07, .005 and .28.
BOUNDS = {"fp32": (1e-4, 1e-4, 1e-3), "bf16": (0.02, 0.001, 0.05)}
SPLIT = 1e-3  # relative difference of a gradient whose batch was split, in fp32
RESUMED = 0.1  # of the way that training went: a resumed run may end no further off, and 3 times
_NOISE = 3.0  # the distance of two runs without interruption


# -- equal numbers -------------------------------------------------------------------------------


def equality(scene: Scene) -> Iterator[Finding]:
    """Embeddings, loss and gradient of one batch on the GPU, in both precisions, beside the processor in float32."""
    pairs = scene.pairs(16, (6, 24), scene.pick((24, 128), (8, 24)))
    wanted = batch_numbers(scene, pairs, "fp32", "cpu")
    for precision, bounds in BOUNDS.items():
        fresh()
        found = batch_numbers(scene, pairs, precision, str(scene.device))
        name = f"{scene.device.type} {precision} against cpu fp32"
        distance = np.linalg.norm(found[0] - wanted[0], axis=1).max()
        yield at_most(f"embeddings, {name}: largest distance of two unit vectors", distance, bounds[0])
        yield at_most(f"loss, {name}: relative difference", abs(found[1] / wanted[1] - 1), bounds[1])
        yield at_most(f"gradient, {name}: relative difference", gap_of(found[2], wanted[2]), bounds[2])
    yield at_least(f"whether {scene.device.type} bf16 ran without padding", found[3], 1)


def batch_numbers(
    scene: Scene, pairs: Any, precision: str, device: str
) -> tuple[np.ndarray, float, list[Tensor], bool]:
    """Embeddings (N, D) of all texts, the loss of all pairs as one batch, its gradients; whether nothing was padded.

    The gradients are on the processor.
    """
    encoder, rows, tables = scene.encoder(pairs, "large", precision, device=device)
    batch = make_batch(rows, np.arange(len(rows)))
    texts = [tables["query"][at] for at in batch.queries] + [tables["document"][at] for at in batch.documents]
    embeddings = encoder.embed(texts)
    encoder.train()
    loss, _ = step.batch_loss(encoder(texts), batch, context_of(rows, tables, Settings(loss="infonce")), 0)
    loss.backward()
    return embeddings, loss.item(), gradients(encoder), encoder.packed


def context_of(rows: Rows, tables: dict[str, TokenTable], settings: Settings) -> step.Context:
    """What the steps of a run of ten steps share."""
    return step.Context(rows, tables, policies.loss_policy(settings), policies.mixing_policy(settings), 0, 10)


def gradients(encoder: Encoder) -> list[Tensor]:
    """The gradients of all parameters that have one, on the processor."""
    return [each.grad.detach().float().cpu() for each in encoder.parameters() if each.grad is not None]


def gap_of(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The norm of the difference of two lists of tensors, taken as two long vectors, as a share of the second's."""
    difference = sum((a - b).double().square().sum().item() for a, b in zip(found, wanted, strict=True))
    return math.sqrt(difference / sum(b.double().square().sum().item() for b in wanted))


# -- no waits ------------------------------------------------------------------------------------

_TRAININGS: dict[str, tuple[dict[str, Any], bool]] = {  # name -> settings, and whether waits are forbidden
    "the default settings": ({}, True),
    "infonce, mixing and a bank": ({"loss": "infonce", "mixing": "weighted", "bank": 128}, True),
    # With padding transformers itself asks the GPU whether a mask is all ones.
    "dropout 0.1, which needs padding": ({"dropout": 0.1}, False),
}


def waits(scene: Scene) -> Iterator[Finding]:
    """How often the host waits for the GPU within a training step, which leaves the GPU without work."""
    device, steps = scene.device, scene.pick(3, 1)
    meters = {"as torch warns": warned_waits, "as the profiler traces": traced_waits}
    working = {}
    for name, meter in meters.items():
        seen = meter(lambda: torch.ones(1, device=device).sum().item(), device)
        working[name] = bool(seen) or device.type == "cpu"
        if not working[name]:
            yield left_out(f"{name}: this meter does not even see the wait of .item() here")
    pairs = scene.pairs(256, (6, 24), scene.pick((24, 128), (8, 24)))
    for about, (changes, forbidden) in _TRAININGS.items():
        fresh()
        with training(scene, pairs, Settings(batchsize=16, patience=0, epochs=2, **changes)) as make:
            make(scene.pick(5, 1))  # sizes of memory, kernels and the sums of the progress settle
            for name in [each for each in meters if working[each]]:
                seen = meters[name](lambda make=make: make(steps), device) or []
                places = ", ".join(f"{place} ({count})" for place, count in Counter(seen).most_common(4))
                what = f"{about}, {name}{f'; {places}' if places else ''}"
                count = len(seen) / steps
                yield at_most(what, count, 0, "per step") if forbidden else Finding(what, count, "per step")


@contextlib.contextmanager
def training(scene: Scene, pairs: Any, settings: Settings) -> Iterator[Callable[[int], None]]:
    """A training under way: a function that makes so many of its steps."""
    encoder, rows, tables = scene.encoder(pairs, "small", settings.precision, settings.dropout)
    run = train.Training(encoder, rows, tables, settings, "", train.make_accelerator())
    batches = run.batches()

    def make(count: int) -> None:
        for _ in range(count):
            chosen, _, batch = next(batches)
            run.step(chosen, batch)

    try:
        yield make
    finally:
        batches.close()


# -- little memory -------------------------------------------------------------------------------


def memory(scene: Scene) -> Iterator[Finding]:
    """A step whose memory is cut on purpose: its batch is split, and its gradient stays that of the whole batch."""
    pairs = scene.pairs(*scene.pick((64, (32, 128), (32, 128)), (8, (8, 16), (8, 16))))
    encoder, rows, tables = scene.encoder(pairs, precision="fp32")
    accelerator, batch = train.make_accelerator(), make_batch(rows, np.arange(len(rows)))
    encoder.train()

    def make() -> tuple[Tensor, int, step.Context]:
        encoder.zero_grad(set_to_none=True)
        context = context_of(rows, tables, Settings(loss="infonce"))
        return *step.run_step(encoder, accelerator, batch, context, 0), context

    figures, tokens, _ = make()
    wanted = gradients(encoder)
    with scarce_memory(encoder, 0.6, lambda: make()[1]):
        split, _, context = make()
        synchronise()
    what = f"a batch of {tokens:,} tokens in 60 % of the memory it takes: tokens encoded at a time afterwards"
    inside = 0 < context.budget < tokens and context.cached
    yield Finding(what, context.budget, "tokens", "fewer than the batch has", "yes" if inside else "no")
    loss = abs(float(split[0]) / float(figures[0]) - 1)
    yield at_most("loss of the split batch: relative difference", loss, SPLIT)
    yield at_most("gradient of the split batch: relative difference", gap_of(gradients(encoder), wanted), SPLIT)


# -- resuming ------------------------------------------------------------------------------------


class _Killed(Exception):
    """Takes the place of a machine that fails."""


def resume(scene: Scene) -> Iterator[Finding]:
    """A training that dies behind a checkpoint and goes on from it, beside one that was never interrupted."""
    steps, rows = scene.pick((20, 16), (4, 4))
    half = steps // 2
    pairs = scene.pairs(rows * steps, (6, 24), scene.pick((24, 96), (8, 24)))
    options = {"loss": "infonce", "dropout": 0.1, "batchsize": rows, "patience": 0, "maxsteps": steps, "maxlength": 128}
    given = Settings(evalsteps=half // 2, checkpointsteps=half, checkpointpath=str(scene.folder / "run.pt"), **options)
    start, whole, _ = trained(scene, pairs, Settings(**options))
    again = trained(scene, pairs, Settings(**options))[1]
    if trained(scene, pairs, given, dies=half + half // 2)[1]:
        raise RuntimeError("the training that was to die came to its end")
    _, resumed, seen = trained(scene, pairs, given.replace(resume=True))
    if min(seen) <= half:
        raise RuntimeError(f"the training began anew instead of going on from step {half}")
    way = [a - b for a, b in zip(whole, start, strict=True)]
    noise, gap = (gap_of([a - b for a, b in zip(each, start, strict=True)], way) for each in (again, resumed))
    unit = "of the way from the first weights to the last"
    yield Finding(f"weights of two trainings of {steps} steps with dropout: distance", noise, unit)
    what = f"weights of one that died at step {half + half // 2} and went on from step {half}: distance"
    # Where kernels add in no fixed order, no two runs are equal, and a resumed one cannot be either.
    yield at_most(what, gap, min(_NOISE * noise, RESUMED), unit)


def trained(
    scene: Scene, pairs: Any, settings: Settings, dies: int = 0
) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """The weights before and after a training, and the steps at which it was validated.

    The second is empty if it dies in the validation of step `dies`.
    """
    fresh()
    seen: list[int] = []

    def validate(at: int) -> dict[str, float]:
        seen.append(at)
        if dies and at == dies:
            raise _Killed
        return dict.fromkeys(METRICS, math.nan)

    encoder, rows, tables = scene.encoder(pairs, "small", settings.precision, settings.dropout)
    start = weights(encoder)
    try:
        train.fit(encoder, rows, tables, settings, validate)
    except _Killed:
        return start, [], seen
    return start, weights(encoder), seen


def weights(encoder: Encoder) -> list[Tensor]:
    """A copy of all parameters on the processor."""
    return [each.detach().float().cpu().clone() for each in encoder.parameters()]


# -- a launch ------------------------------------------------------------------------------------


def launch(scene: Scene) -> Iterator[Finding]:
    """The documented command of a training under `accelerate launch` with one process, to its saved model."""
    home, table = scene.folder / "home", scene.folder / "pairs.csv"
    pairs = scene.pairs(scene.pick(800, 60), (6, 24), scene.pick((24, 128), (8, 24)))
    files.write_csv(table, pairs[["query", "positive"]])
    script = Path(hr_search.__file__).parents[1] / "train.py"
    program = [str(script)] if script.is_file() else ["--module", "hr_search", "train"]
    model = scene.folder / "launched.pt"
    flags = {
        "datapath": table,
        "modelname": scene.model("small"),
        "batchsize": 16,
        "maxsteps": scene.pick(30, 2),
        "outputpath": model,
        "runid": "launched",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", *program, *words]
    # A trainer of the contender leaves its precision in the environment, which a launcher would hand on.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    done = subprocess.run(command, env=kept | {paths.HOME_VARIABLE: str(home)}, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    said = f" ({one_line(lines[-1])})" if done.returncode and lines else ""
    yield Finding(
        f"accelerate launch --num_processes 1 {Path(program[0]).name} ...: exit code{said}",
        done.returncode,
        demanded="0",
        passed="no" if done.returncode else "yes",
    )
    if done.returncode:
        sys.stderr.write(done.stderr[-4000:])
        return
    run = home / "metrics" / "runs" / "launched"
    environment, summary = (files.read_json(run / f"{name}.json") for name in ("environment", "summary"))
    there = environment["device"].startswith(scene.device.type)
    what = (
        f"steps it made, on {environment['device']} in {environment['precision']}, {environment['processes']} process"
    )
    made = summary["steps"] if there else math.nan  # training elsewhere than on the GPU is no pass
    yield at_least(what, made, flags["maxsteps"], "steps")
    yield at_least("size of the weights it saved", model.stat().st_size / 1e6, 0.01, "MB")
