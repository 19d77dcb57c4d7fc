"""The training loop: batches, loss, optimiser, validation, early stopping, interruption and resume."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object, set_seed
from torch import Tensor

from hr_search.bank import Bank
from hr_search.base.errors import InputError
from hr_search.base.progress import bar
from hr_search.base.signals import Interrupted, leave, postponed
from hr_search.batches import Rows, ahead, named
from hr_search.checkpoint import Parts, random_state, require_own, restore, store
from hr_search.encoder import Encoder
from hr_search.fast.tokens import TokenTable
from hr_search.interpolation import Interpolation
from hr_search.miner import Miner
from hr_search.runs.provenance import COLLAPSED
from hr_search.schedule import StepPlan, parameter_groups, step_plan, warmup_then_linear
from hr_search.settings import Settings
from hr_search.step import Context, run_step

log = logging.getLogger(__name__)

ESTIMATED = 10  # steps after which the time to go is told
VOTING = 10  # steps between the votes of several GPU processes on whether to stop
_NOTHING = (math.nan,) * 3


@dataclasses.dataclass
class Progress:
    """Where a run stands, beside weights and optimiser; `history` has one row per validation."""

    step: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: float = -math.inf
    best_step: int = 0
    stale: int = 0  # validations since the best one
    seconds: float = 0.0
    best_weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    mining: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # one row a mining, once the run is over
    # Since the last validation: loss, active share and spread summed over steps; rows, tokens, steps; seconds.
    sums: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    counts: list[int] = dataclasses.field(default_factory=lambda: [0, 0, 0])
    window: float = 0.0


def fit(
    encoder: Encoder,
    rows: Rows,
    tables: dict[str, TokenTable],
    settings: Settings,
    validate: Callable[[int], dict[str, float]],
    fingerprint: str = "",
    accelerator: Accelerator | None = None,
    report: Callable[[dict[str, float]], None] = lambda row: None,
) -> Progress:
    """Trains `encoder` in place and leaves the weights of the best validation in it, mixed as `baseshare` says.

    Args:
        encoder: compacted or whole; moved to the accelerator's device.
        rows: the training rows.
        tables: token tables of `rows.queries` ("query") and `rows.documents` ("document").
        settings: loss, optimiser, stopping, checkpoints.
        validate: step -> metrics, the settings' goal among them; called at step 0 too. Where the goal is
            NaN (no validation rows) there is no best: the last weights stay and nothing stops the run early.
        fingerprint: of the data; a checkpoint of other data is refused.
        accelerator: device and processes; None = what is there.
        report: gets each row of the history as it comes.

    Returns:
        The history and the best step.

    Raises:
        InputError: the loss is no number any more, or a checkpoint does not fit.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM came; a checkpoint of the last step has been written first.
    """
    accelerator = accelerator or make_accelerator()
    set_seed(settings.seed)
    per_step = settings.batchsize * accelerator.num_processes
    plan = step_plan(len(rows), per_step, settings)
    factor = warmup_then_linear(plan.total, settings.warmup)
    optimiser = torch.optim.AdamW(parameter_groups(encoder, settings.weightdecay), lr=settings.learningrate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    model, optimiser = accelerator.prepare(encoder, optimiser)
    interpolation = Interpolation(encoder, settings.baseshare)  # before a checkpoint brings other weights
    context = Context(rows, tables, settings, plan.total, budget=settings.chunktokens, cached=settings.gradcache)
    parts: Parts = {"model": encoder, "optimiser": optimiser}
    if settings.mixing != "none" and settings.bank:
        parts["bank"] = context.bank = Bank(settings.bank, encoder.dimension, accelerator.device)
    if settings.negatives == "mined":
        parts["miner"] = Miner(rows, tables, settings, plan.per_epoch)
    origin = f"{fingerprint} in steps of {per_step}"
    progress = begin(settings, origin, parts, schedule, accelerator.process_index)
    batches = ahead(rows, plan.batches(progress.step))
    if miner := parts.get("miner"):
        batches = miner.batches(plan.batches(progress.step), progress.step, encoder, accelerator)
    begun = time.perf_counter()
    started, window = begun - progress.seconds, begun - progress.window
    first, stored, pause = progress.step, progress.step or -1, 0.0  # pause: seconds of validation, not in rows_per_s
    chosen = np.empty(0, np.int64)

    def validated() -> None:
        nonlocal window, pause
        refuse_nan(float(progress.sums[0]), progress.step, chosen, rows, settings)
        now = time.perf_counter()
        progress.seconds = now - started
        learningrate = settings.learningrate * factor(progress.step - 1) if progress.step else 0.0
        with interpolation.mixed(encoder):
            record(progress, plan, encoder, settings, stop.at_once(validate), learningrate, now - window)
        report(progress.history[-1])
        window = time.perf_counter()
        pause += window - now

    def kept() -> None:
        nonlocal stored
        if settings.checkpointpath and stored != progress.step:
            refuse_nan(float(progress.sums[0]), progress.step, chosen, rows, settings)
            now = time.perf_counter()
            progress.seconds, progress.window = now - started, now - window
            randoms = gather_object([random_state()])
            if accelerator.is_main_process:
                store(settings, origin, parts, schedule, progress, randoms)
            stored = progress.step

    ticker = bar(what="training", unit="step", total=plan.total, start=progress.step)
    with postponed(accelerator.num_processes > 1) as stop, contextlib.closing(batches), ticker:
        following = stop.at_once(next)
        try:
            if due(progress.step, plan, settings) and progress.step not in (row["step"] for row in progress.history):
                validated()
                begun = time.perf_counter()
                started, pause = begun - progress.seconds, 0.0
            while progress.step < plan.total and not finished(progress, settings):
                chosen, _, batch = following(batches)
                encoder.train()
                figures, tokens = run_step(model, accelerator, batch, context, progress.step)
                if accelerator.device.type == "cpu":  # elsewhere the test would wait for the device at every step
                    refuse_nan(float(figures[0]), progress.step + 1, chosen, rows, settings)
                if settings.clip:
                    accelerator.clip_grad_norm_(model.parameters(), settings.clip)
                optimiser.step()
                schedule.step()
                optimiser.zero_grad(set_to_none=True)
                progress.step += 1
                progress.sums = progress.sums.to(figures.device) + figures
                counted = (len(chosen), tokens, 1)
                progress.counts = [old + new for old, new in zip(progress.counts, counted, strict=True)]
                ticker.update()
                if progress.step - first == ESTIMATED and accelerator.device.type == "cpu":  # a GPU would be waited for
                    mined = sum(row["seconds"] for row in miner.history if row["step"] >= first) if miner else 0.0
                    left = (time.perf_counter() - begun - mined) / ESTIMATED * (plan.total - progress.step)
                    log.info("about %.0f min of training to go, by the first %d steps", max(1, left / 60), ESTIMATED)
                if due(progress.step, plan, settings):
                    validated()
                if progress.step % settings.checkpointsteps == 0:
                    kept()
                if anywhere(bool(stop.signal), accelerator, progress.step):
                    raise Interrupted
        except Interrupted:
            kept()
            accelerator.wait_for_everyone()
            log.warning(farewell := last_words(progress.step, plan.total, settings.checkpointpath))
            leave(stop.signal, farewell)
    progress.seconds = time.perf_counter() - started
    log.info("training took %.0f s, %.0f s of them validation", progress.seconds, pause)
    progress.mining = miner.history if miner else []
    if progress.best_weights:
        encoder.load_state_dict(progress.best_weights)
    else:
        interpolation.mix(encoder)
    return progress


def begin(settings: Settings, origin: str, parts: Parts, schedule: Any, process: int) -> Progress:
    """The progress of a run that starts, or of the checkpoint from which it goes on."""
    if not settings.checkpointpath:
        return Progress()
    if not settings.resume:
        require_own(settings.checkpointpath)
        return Progress()
    progress = Progress(**restore(settings, origin, parts, schedule, process) or {})
    if miner := parts.get("miner"):
        # What was mined for a step that was never made is mined again.
        miner.history = [row for row in miner.history if row["step"] < progress.step]
    return progress


def due(step: int, plan: StepPlan, settings: Settings) -> bool:
    """Whether there is a validation after `step` steps: at the start, after each epoch, every evalsteps, at the end."""
    return not step % plan.per_epoch or step == plan.total or bool(settings.evalsteps and not step % settings.evalsteps)


def anywhere(asked: bool, accelerator: Accelerator, step: int) -> bool:
    """Whether any process of a launch was asked to stop: all of them have to leave after the same step."""
    if accelerator.num_processes == 1:
        return asked
    if accelerator.device.type != "cpu" and step % VOTING:  # a GPU would be waited for
        return False
    return bool(accelerator.reduce(torch.tensor([float(asked)], device=accelerator.device), "sum").item())


def last_words(step: int, total: int, checkpointpath: str) -> str:
    """What a run that was asked to stop says about how to go on."""
    if not checkpointpath:
        return f"stopped after step {step} of {total}; nothing is kept, as no --checkpointpath was given."
    return f"stopped after step {step} of {total}; the same command with --resume goes on from {checkpointpath}."


def make_accelerator() -> Accelerator:
    """Device and processes as `accelerate launch` or the machine gives them."""
    # Encoders carry parameters that pooling does not use, such as BERT's pooler.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Precision is the encoder's own affair, in evaluation too.
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[unused])


def refuse_nan(loss: float, step: int, chosen: np.ndarray, rows: Rows, settings: Settings) -> None:
    """Stops a run whose loss is no number any more.

    Raises:
        InputError: naming the step, the batch rows and the likely knob.
    """
    if not math.isfinite(loss):
        raise InputError(
            f"the loss is {loss} at step {step} (with {named(rows, chosen)}); lower --learningrate (now "
            f"{settings.learningrate:g}), keep --clip above 0, or take --precision fp32."
        )


# -- validation ----------------------------------------------------------------------------------


def record(
    progress: Progress,
    plan: StepPlan,
    encoder: Encoder,
    settings: Settings,
    validate: Callable[[int], dict[str, float]],
    learningrate: float,
    seconds: float,
) -> None:
    """Validates, adds a row to the history, and keeps the weights if they are the best so far."""
    rows, tokens, steps = progress.counts
    loss, active, spread = (progress.sums / steps).tolist() if steps else _NOTHING
    metrics = validate(progress.step)
    progress.history.append({
        "step": progress.step, "epoch": round(progress.step / plan.per_epoch, 4), "loss": loss, "active": active,
        "spread": spread, "collapsed": int(spread < COLLAPSED), "learningrate": learningrate,
        "rows_per_s": rows / seconds if steps else math.nan, "tokens_per_s": tokens / seconds if steps else math.nan,
        "memory_gb": peak_memory(encoder.device), "seconds": progress.seconds, **metrics,
    })  # fmt: skip
    progress.sums, progress.counts = torch.zeros(3, dtype=torch.float64), [0, 0, 0]
    value = metrics[settings.goal]
    said = ["no validation rows" if math.isnan(value) else f"{settings.goal} {value:.4f}"]
    if steps:
        said += [f"loss {loss:.4f}", f"active {active:.0%}", f"{rows / seconds:.1f} rows/s"]
    log.info("step %d of %d: %s", progress.step, plan.total, ", ".join(said))
    if spread < COLLAPSED:
        log.warning(
            "the embeddings have collapsed (spread %.4f): lower --learningrate, raise --batchsize or change --loss",
            spread,
        )
    if math.isnan(value):
        progress.best_step = progress.step
    elif value > progress.best:
        progress.best, progress.best_step, progress.stale = value, progress.step, 0
        progress.best_weights = {
            name: tensor.detach().to("cpu", copy=True) for name, tensor in encoder.state_dict().items()
        }
    else:
        progress.stale += 1


def finished(progress: Progress, settings: Settings) -> bool:
    """Whether early stopping ends the run: the target is reached, or patience is used up."""
    if settings.target and progress.best >= settings.target:
        log.info("stopping: %s reached %.4f, the target is %.4f", settings.goal, progress.best, settings.target)
        return True
    if settings.patience and progress.stale >= settings.patience:
        log.info("stopping: %d validations without a new best %s", progress.stale, settings.goal)
        return True
    return False


def peak_memory(device: torch.device) -> float:
    """The most memory used so far, GB: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
