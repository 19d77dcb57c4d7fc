"""The training loop: batches, loss, optimiser, validation, early stopping, interruption and resume."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Tensor

from hr_search.bank import Bank
from hr_search.base.errors import InputError
from hr_search.base.peak import peak_memory
from hr_search.base.processes import Processes, make_accelerator
from hr_search.base.progress import bar
from hr_search.base.signals import Interrupted, leave, postponed
from hr_search.batches import Batch, Rows, ahead, describe_rows
from hr_search.checkpoint import Parts, random_state, require_own, restore, store
from hr_search.history import Clock, Progress
from hr_search.lessons import Lessons
from hr_search.mining import Miner
from hr_search.models.adapters import Adapters, adapted
from hr_search.models.interpolation import Interpolation
from hr_search.policies import loss_policy, mining_policy, mixing_policy, parameter_groups, plan_of, warmup_then_linear
from hr_search.settings import Settings
from hr_search.step import Context, run_step

if TYPE_CHECKING:
    from hr_search.encoder import Encoder
    from hr_search.fast.tokens import TokenTable

log = logging.getLogger(__name__)

ESTIMATED = 10  # steps after which the remaining time is estimated
VOTING = 10  # steps between the votes of several GPU processes on whether to stop


def fit(
    encoder: Encoder,
    rows: Rows,
    tokens: dict[str, TokenTable],
    settings: Settings,
    validate: Callable[[int], dict[str, float]],
    fingerprint: str = "",
    accelerator: Accelerator | None = None,
    report: Callable[[dict[str, float]], bool | None] = lambda row: None,
    lessons: Lessons | None = None,
) -> Progress:
    """Trains `encoder` in place and leaves the weights of the best validation in it, interpolated as `baseshare` says.

    Adapters (`lora`) are merged into it at the end; where the training is broken off they are taken out again.

    Args:
        encoder: compacted or whole; moved to the accelerator's device.
        rows: the training rows.
        tokens: token tables of `rows.queries` ("query") and `rows.documents` ("document").
        settings: loss, optimiser, stopping, checkpoints.
        validate: step -> metrics, the settings' goal among them; called at step 0 too. Where the goal is
            NaN (no validation rows) there is no best: the last weights stay and nothing stops the run early.
        fingerprint: of the data; a checkpoint of other data is refused.
        accelerator: device and processes; None = what is there.
        report: gets each row of the history as it comes; True ends the training there.
        lessons: a teacher's scores of the training rows, for a further term of the loss; None = no teacher.

    Returns:
        The history and the best step.

    Raises:
        InputError: the loss is NaN or infinite, or a checkpoint does not fit.
        KeyboardInterrupt, SystemExit: Ctrl-C, SIGTERM or SIGHUP came; a checkpoint of the last step was written first.

    Example:
        >>> tokens = {"query": encoder.tokens(rows.queries, "query")}
        >>> tokens["document"] = encoder.tokens(rows.documents, "document")
        >>> progress = fit(encoder, rows, tokens, Settings(epochs=2, maxsteps=2), lambda step: {"mrr": float(step)})
        >>> [row["step"] for row in progress.history]  # one validation before training, one after each epoch
        [0, 1, 2]
    """
    with adapted(encoder, settings.lora, settings.seed) as adapters:
        start = encoder, rows, tokens, settings, fingerprint, accelerator or make_accelerator()
        return carry_out(Training(*start, lessons, adapters), validate, report)


def carry_out(
    run: Training, validate: Callable[[int], dict[str, float]], report: Callable[[dict[str, float]], bool | None]
) -> Progress:
    """Takes a run to its end: `fit` for any kind of training, with its arguments, result and errors."""
    settings, progress, total = run.settings, run.progress, run.plan.total
    batches = run.batches()
    ticker = bar(what="training", unit="step", total=total, start=progress.step)
    with postponed(run.accelerator.num_processes > 1) as stop, contextlib.closing(batches), ticker:
        next_batch, validate = stop.at_once(next), stop.at_once(validate)
        try:
            if run.due() and not progress.validated(progress.step):
                run.validate(validate, report)
                run.clock.restart(progress.seconds)  # validating the base model does not count as training
            while progress.step < total and not progress.finished(settings.target, settings.patience, settings.goal):
                chosen, _, batch = next_batch(batches)
                run.step(chosen, batch)
                ticker.update()
                run.estimate()
                if run.due():
                    run.validate(validate, report)
                if progress.step % settings.checkpointsteps == 0:
                    run.checkpoint()
                if anywhere(bool(stop.signal), run.accelerator, progress.step):
                    raise Interrupted
        except Interrupted:
            run.checkpoint()
            run.accelerator.wait_for_everyone()
            log.warning(farewell := last_words(progress.step, total, settings.checkpointpath))
            leave(stop.signal, farewell)
    run.checkpoint()  # so that a finished run can go on for more epochs
    run.finish()
    return progress


class Training:
    """A run of `fit` under way: its parts, where it stands, and what happens at a step, a validation, a checkpoint.

    Attributes:
        plan: the steps and their rows.
        progress: where it stands; from the checkpoint where the run is resumed.
        clock: the time it takes.
    """

    def __init__(
        self,
        encoder: Encoder,
        rows: Rows,
        tokens: dict[str, TokenTable],
        settings: Settings,
        fingerprint: str,
        accelerator: Accelerator,
        lessons: Lessons | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        set_seed(settings.seed)
        per_step = settings.batchsize * accelerator.num_processes
        self.encoder, self.rows, self.settings, self.accelerator = encoder, rows, settings, accelerator
        self.lessons, self.adapters = lessons, adapters
        self.plan = plan_of(settings, rows, per_step)
        groups = parameter_groups(encoder, settings.weightdecay)
        optimiser = torch.optim.AdamW(groups, lr=settings.learningrate, fused=True)
        self.rate = warmup_then_linear(self.plan.total, settings.warmup)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: self.rate(step))
        self.model, self.optimiser = accelerator.prepare(encoder, optimiser)
        self.base = Interpolation(encoder, settings.baseshare)  # before a checkpoint brings other weights
        self.parts: Parts = {"model": adapters or encoder, "optimiser": self.optimiser}
        self.miner: Miner | None = None
        self.set_up(tokens)
        self.origin = f"{fingerprint} in steps of {per_step}" + (f" taught {lessons.fingerprint}" if lessons else "")
        self.origin += f" beside {adapters.base}" if adapters else ""
        self.progress = self.begin()
        self.clock = Clock(self.progress.seconds, self.progress.window)
        self.first = self.progress.step  # of this process
        self.mined = len(self.miner.history) if self.miner else 0  # before its clock started
        self.stored = self.progress.step or -1  # the step of the last checkpoint
        self.chosen = np.empty(0, np.int64)  # the rows of the last step

    def set_up(self, tokens: dict[str, TokenTable]) -> None:
        """What steps need besides model and optimiser: loss, mixing with its bank, mining."""
        rows, settings = self.rows, self.settings
        policies = loss_policy(settings, self.encoder.dimension), mixing_policy(settings)
        self.context = Context(rows, tokens, *policies, settings.seed, self.plan.total)
        self.context.budget, self.context.cached = settings.chunktokens, settings.gradcache
        if settings.mixing != "none" and settings.bank:
            self.context.bank = Bank(settings.bank, self.encoder.dimension, self.accelerator.device)
            self.parts["bank"] = self.context.bank
        if settings.negatives == "mined":
            self.miner = Miner(rows, tokens, mining_policy(settings), self.plan.per_epoch, settings.seed)
            self.parts["miner"] = self.miner

    def begin(self) -> Progress:
        """The progress of a run that starts, or of the checkpoint from which it goes on.

        Raises:
            InputError: the file is not a checkpoint, or belongs to another run.
        """
        settings, fresh = self.settings, Progress(sums=torch.zeros(4 if self.lessons else 3, dtype=torch.float64))
        if not settings.checkpointpath:
            return fresh
        if not settings.resume:
            require_own(settings.checkpointpath)
            return fresh
        found = restore(
            settings.checkpointpath,
            settings.to_dict(),
            self.origin,
            self.parts,
            self.schedule,
            self.accelerator.process_index,
            len(fresh.sums),
        )
        if found is None:
            return fresh
        progress, before = found
        if self.miner:
            # What was mined for a step that never happened is mined again.
            self.miner.history = [row for row in self.miner.history if row["step"] < progress.step]
        if (before["epochs"], before["maxsteps"]) != (settings.epochs, settings.maxsteps):
            self.extend(progress)
        self.rate = warmup_then_linear(self.plan.total, settings.warmup, progress.rewarmed)
        return progress

    def extend(self, progress: Progress) -> None:
        """Lets a run go on for another number of steps: the learning rate rises anew, and patience starts afresh.

        Raises:
            InputError: the run has already made more steps than it should have in all.
        """
        step, total = progress.step, self.plan.total
        if step > total:
            raise InputError(
                f"{self.settings.checkpointpath} stands at step {step}, and --epochs {self.settings.epochs} with "
                f"--maxsteps {self.settings.maxsteps} makes {total}; raise --epochs or --maxsteps."
            )
        progress.rewarmed, progress.stale = step, 0
        rate = warmup_then_linear(total, self.settings.warmup, step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learningrate * rate(step)
        rise = round((total - step) * self.settings.warmup)
        log.info(
            "going on to step %d: from step %d the learning rate rises for %d steps and then falls to 0",
            total,
            step,
            rise,
        )

    def batches(self) -> Iterator[tuple[np.ndarray, bool, Batch]]:
        """Row numbers of every step that is left, whether it ends an epoch, and its batch."""
        steps, done = self.plan.batches(self.progress.step), self.progress.step
        return (
            self.miner.batches(steps, done, self.encoder, self.accelerator) if self.miner else ahead(self.rows, steps)
        )

    def step(self, chosen: np.ndarray, batch: Batch) -> None:
        """One step: loss and gradients of the batch, clipping, update, figures."""
        self.encoder.train()
        figures, tokens = self.gradients(batch, chosen)
        self.chosen = chosen
        if self.accelerator.device.type == "cpu":  # elsewhere the check would wait for the device at every step
            self.refuse_nan(float(figures[0]), self.progress.step + 1)
        if self.settings.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.progress.count(figures, len(chosen), tokens)

    def gradients(self, batch: Batch, chosen: np.ndarray) -> tuple[Tensor, int]:
        """Adds the gradients of a batch; its figures (loss, active share, spread, ...) and its tokens."""
        done = self.progress.step
        lesson = self.lessons.lesson(batch, chosen, done) if self.lessons else None
        return run_step(self.model, self.accelerator, batch, self.context, done, lesson)

    def due(self) -> bool:
        """Whether the present step ends in a validation: the start, each epoch, every evalsteps, the end."""
        step, every = self.progress.step, self.settings.evalsteps
        return not step % self.plan.per_epoch or step == self.plan.total or bool(every and not step % every)

    def validate(
        self, validate: Callable[[int], dict[str, float]], report: Callable[[dict[str, float]], bool | None]
    ) -> None:
        """Validates the interpolated weights, adds a row to the history and keeps the best weights."""
        progress, settings = self.progress, self.settings
        self.refuse_nan(float(progress.sums[0]), progress.step)
        progress.seconds, progress.window = self.clock.seconds, self.clock.window
        shared = self.clock.sharing() if self.accelerator.device.type == "cpu" else ""
        with self.clock.validation():
            with self.base.blended(self.encoder):
                figures = {
                    "epoch": round(progress.step / self.plan.per_epoch, 4),
                    "learningrate": settings.learningrate * self.rate(progress.step - 1) if progress.step else 0.0,
                }
                metrics = validate(progress.step)
                figures["memory_gb"] = peak_memory(self.encoder.device)
                progress.record(metrics, settings.goal, self.parts["model"], figures)
            progress.log_last(settings.goal, self.plan.total)
            if shared:
                log.info(shared)
            progress.pruned = bool(report(progress.history[-1]))

    def checkpoint(self) -> None:
        """Writes the checkpoint where one is wanted and this step has none yet."""
        if not self.settings.checkpointpath or self.stored == self.progress.step:
            return
        self.refuse_nan(float(self.progress.sums[0]), self.progress.step)
        self.progress.seconds, self.progress.window = self.clock.seconds, self.clock.window
        randoms = gather_object([random_state()])
        if self.accelerator.is_main_process:
            config = self.settings.to_dict()
            store(self.settings.checkpointpath, config, self.origin, self.parts, self.schedule, self.progress, randoms)
        self.stored = self.progress.step

    def estimate(self) -> None:
        """After the first steps, logs about how long the others take; a GPU is not waited for."""
        steps = self.progress.step - self.first
        if steps == ESTIMATED and self.accelerator.device.type == "cpu":
            mining = sum(row["seconds"] for row in self.miner.history[self.mined :]) if self.miner else 0.0
            left = (self.clock.here - mining) / steps * (self.plan.total - self.progress.step)
            log.info("about %.0f min of training to go, by the first %d steps", max(1, left / 60), steps)

    def refuse_nan(self, loss: float, step: int) -> None:
        """Stops a run whose loss is NaN or infinite.

        Raises:
            InputError: naming the step, the batch rows and the likely setting.
        """
        if not math.isfinite(loss):
            raise InputError(
                f"the loss is {loss} at step {step} (with {describe_rows(self.rows, self.chosen)}); lower "
                f"--learningrate (now {self.settings.learningrate:g}), keep --clip above 0, or take --precision fp32."
            )

    def finish(self) -> None:
        """Leaves the best weights in the encoder, or the last ones where there is no best."""
        self.progress.seconds = self.clock.seconds
        log.info("training took %.0f s, %.0f s of it validation", self.progress.seconds, self.clock.validating)
        self.progress.mining = self.miner.history if self.miner else []
        if self.progress.best_weights:
            self.parts["model"].load_state_dict(self.progress.best_weights)
        else:
            self.base.blend(self.encoder)
        if self.adapters:
            self.adapters.merge()


# -- start and stop ------------------------------------------------------------------------------


def anywhere(asked: bool, accelerator: Accelerator, step: int) -> bool:
    """Whether any process of a launch was asked to stop: all of them must leave after the same step."""
    waits = accelerator.num_processes > 1 and accelerator.device.type != "cpu"
    if waits and step % VOTING:  # asking would wait for the GPU
        return False
    return Processes.of(accelerator).anywhere(asked)


def last_words(step: int, total: int, checkpointpath: str) -> str:
    """What a run that was asked to stop says about how to go on."""
    if not checkpointpath:
        return f"stopped after step {step} of {total}; nothing is kept, as no --checkpointpath was given."
    return f"stopped after step {step} of {total}; the same command with --resume goes on from {checkpointpath}."
