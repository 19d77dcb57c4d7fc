"""The training loop: batches, loss, optimiser, validation, early stopping, checkpoints, resume."""

from __future__ import annotations

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
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import Tensor

from hr_search.bank import Bank
from hr_search.batches import Rows, ahead
from hr_search.checkpoint import load_checkpoint, save_checkpoint
from hr_search.config import Settings
from hr_search.encoder import Encoder
from hr_search.errors import InputError
from hr_search.miner import Miner
from hr_search.progress import bar
from hr_search.schedule import StepPlan, parameter_groups, step_plan, warmup_then_linear
from hr_search.step import Context, run_step
from hr_search.tokens import TokenTable

log = logging.getLogger(__name__)

COLLAPSED = 0.02  # a spread below this means that the embeddings have fallen together
ESTIMATED = 10  # steps after which the time to go is told
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
    # Since the last validation: loss, active share and spread summed over steps; rows, tokens, steps.
    sums: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    counts: list[int] = dataclasses.field(default_factory=lambda: [0, 0, 0])


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
    """Trains `encoder` in place and leaves the weights of the best validation in it.

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
    """
    accelerator = accelerator or make_accelerator()
    set_seed(settings.seed)
    per_step = settings.batchsize * accelerator.num_processes
    plan = step_plan(len(rows), per_step, settings)
    optimiser = torch.optim.AdamW(parameter_groups(encoder, settings.weightdecay), lr=settings.learningrate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warmup_then_linear(plan.total, settings.warmup))
    model, optimiser = accelerator.prepare(encoder, optimiser)
    context = Context(rows, tables, settings, plan.total, budget=settings.chunktokens, cached=settings.gradcache)
    parts: Parts = {"model": encoder, "optimiser": optimiser}
    if settings.mixing != "none" and settings.bank:
        parts["bank"] = context.bank = Bank(settings.bank, encoder.dimension, accelerator.device)
    if settings.negatives == "mined":
        parts["miner"] = Miner(rows, tables, settings, plan.per_epoch)
    progress = Progress()
    origin = f"{fingerprint} in steps of {per_step}"
    if settings.resume and settings.checkpointpath:
        progress = restore(settings, origin, parts, schedule) or progress
    if not progress.history:
        record(progress, plan, encoder, settings, validate, 0.0)
        report(progress.history[-1])
    started = time.perf_counter() - progress.seconds
    pause = 0.0  # seconds spent in validation, kept out of rows per second
    ticker = bar(what="training", unit="step", total=plan.total, start=progress.step)
    begun, first = time.perf_counter(), progress.step
    window = begun
    batches = ahead(rows, plan.batches(progress.step))
    if miner := parts.get("miner"):
        batches = miner.batches(plan.batches(progress.step), progress.step, encoder, accelerator)
    for chosen, epoch_ends, batch in batches:
        if finished(progress, settings):
            break
        encoder.train()
        figures, tokens = run_step(model, accelerator, batch, context, progress.step)
        if accelerator.device.type == "cpu":  # elsewhere the test would wait for the device at every step
            refuse_nan(float(figures[0]), progress.step + 1, chosen, settings)
        if settings.clip:
            accelerator.clip_grad_norm_(model.parameters(), settings.clip)
        learningrate = schedule.get_last_lr()[0]
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        progress.step += 1
        progress.sums = progress.sums.to(figures.device) + figures
        progress.counts = [old + new for old, new in zip(progress.counts, (len(chosen), tokens, 1), strict=True)]
        ticker.update()
        if progress.step - first == ESTIMATED and accelerator.device.type == "cpu":  # a GPU's clock needs a wait
            left = (time.perf_counter() - begun) / ESTIMATED * (plan.total - progress.step)
            log.info("about %.0f min of training to go, by the first %d steps", max(1, left / 60), ESTIMATED)
        due = settings.evalsteps and progress.step % settings.evalsteps == 0
        if epoch_ends or due or progress.step == plan.total:
            refuse_nan(float(progress.sums[0]), progress.step, chosen, settings)
            now = time.perf_counter()
            progress.seconds = now - started
            record(progress, plan, encoder, settings, validate, learningrate, now - window)
            report(progress.history[-1])
            window = time.perf_counter()
            pause += window - now
        if settings.checkpointpath and progress.step % settings.checkpointsteps == 0 and accelerator.is_main_process:
            refuse_nan(float(progress.sums[0]), progress.step, chosen, settings)
            progress.seconds = time.perf_counter() - started
            store(settings, origin, parts, schedule, progress)
    ticker.close()
    progress.seconds = time.perf_counter() - started
    log.info("training took %.0f s, %.0f s of them validation", progress.seconds, pause)
    progress.mining = miner.history if miner else []
    if progress.best_weights:
        encoder.load_state_dict(progress.best_weights)
    return progress


def make_accelerator() -> Accelerator:
    """Device and processes as `accelerate launch` or the machine gives them."""
    # Encoders carry parameters that pooling does not use, such as BERT's pooler.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Precision is the encoder's own affair, in evaluation too.
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[unused])


def refuse_nan(loss: float, step: int, chosen: np.ndarray, settings: Settings) -> None:
    """Stops a run whose loss is no number any more.

    Raises:
        InputError: naming the step, the batch rows and the likely knob.
    """
    if not math.isfinite(loss):
        shown = ", ".join(str(row + 1) for row in sorted(chosen)[:8])
        raise InputError(
            f"the loss is {loss} at step {step} (train rows {shown} …); lower --learningrate (now "
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
    seconds: float = 0.0,
) -> None:
    """Validates, adds a row to the history, and keeps the weights if they are the best so far."""
    rows, tokens, steps = progress.counts
    loss, active, spread = (progress.sums / steps).tolist() if steps else _NOTHING
    metrics = validate(progress.step)
    progress.history.append({
        "step": progress.step, "epoch": round(progress.step / plan.per_epoch, 4), "loss": loss, "active": active,
        "spread": spread, "learningrate": learningrate, "rows_per_s": rows / seconds if seconds else math.nan,
        "tokens_per_s": tokens / seconds if seconds else math.nan, "memory_gb": peak_memory(encoder.device),
        "seconds": progress.seconds, **metrics,
    })  # fmt: skip
    progress.sums, progress.counts = torch.zeros(3, dtype=torch.float64), [0, 0, 0]
    value = metrics[settings.goal]
    said = ["no validation rows" if math.isnan(value) else f"{settings.goal} {value:.4f}"]
    if seconds and steps:
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


# -- checkpoints ---------------------------------------------------------------------------------


Parts = dict[str, Any]  # what has a state_dict and a load_state_dict: model, optimiser, bank, miner


def store(settings: Settings, origin: str, parts: Parts, schedule: Any, progress: Progress) -> None:
    """Writes the checkpoint of this step."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    save_checkpoint(settings.checkpointpath, {
        "settings": settings.to_dict(), "fingerprint": origin, "schedule": {"last_epoch": schedule.last_epoch},
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "random": {"cpu": torch.get_rng_state(), "cuda": cuda}, "progress": dataclasses.asdict(progress),
    })  # fmt: skip


def restore(settings: Settings, origin: str, parts: Parts, schedule: Any) -> Progress | None:
    """Loads the checkpoint into its parts, schedule and random generators; None where there is none."""
    state = load_checkpoint(settings.checkpointpath, settings.to_dict(), origin)
    if state is None:
        log.info("no checkpoint at %s yet: starting from the beginning", settings.checkpointpath)
        return None
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    schedule.last_epoch = state["schedule"]["last_epoch"]
    schedule._last_lr = [group["lr"] for group in parts["optimiser"].param_groups]
    torch.set_rng_state(state["random"]["cpu"])
    if state["random"]["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random"]["cuda"])
    progress = Progress(**state["progress"])
    log.info("resuming after step %d", progress.step)
    return progress
