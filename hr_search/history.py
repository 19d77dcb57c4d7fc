"""The history of a run: where it stands, one row per validation, the best weights so far, and the time it took."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hr_search.base import load
from hr_search.base.choices import COLLAPSED

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Progress:
    """Where a run stands, beside weights and optimiser; a checkpoint holds all of it.

    Attributes:
        step: steps made.
        history: one row per validation.
        best: the best value of the goal so far, and `best_se` its standard error over the validation queries.
        best_step: the step whose weights are kept: the last one within `best_se` of the best.
        stale: validations since the best one.
        seconds: of training, over all interruptions.
        best_weights: the encoder's state at that step, on the CPU.
        mining: one row per mining, once the run is over.
        sums: loss, active share and spread since the last validation, and a teacher's term where there is a teacher,
            summed over steps, (3,) or (4,) float64.
        single: steps of these that had no spread, a number; a tensor, so that a GPU need not be waited for.
        counts: rows, tokens and steps since then.
        window: seconds since then.
        rewarmed: the step at which the learning rate began to rise anew, when a finished run went on; else 0.
        pruned: whether what the validations were reported to has ended the run.
    """

    step: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: float = -math.inf
    best_se: float = 0.0
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    best_weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    mining: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    sums: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    single: Tensor = dataclasses.field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    counts: list[int] = dataclasses.field(default_factory=lambda: [0, 0, 0])
    window: float = 0.0
    rewarmed: int = 0
    pruned: bool = False

    def count(self, figures: Tensor, rows: int, tokens: int) -> None:
        """Adds a step: its figures, of the shape of `sums`, its rows and its tokens.

        A spread that is NaN, that of a single document, is left out of the mean.
        """
        self.step += 1
        loss, active, spread, *teacher = figures.unbind()
        self.single = self.single.to(figures.device) + spread.isnan()
        self.sums = self.sums.to(figures.device) + torch.stack([loss, active, spread.nan_to_num(0.0), *teacher])
        self.counts = [old + new for old, new in zip(self.counts, (rows, tokens, 1), strict=True)]

    def validated(self, step: int) -> bool:
        """Whether the history has a row for `step`."""
        return any(row["step"] == step for row in self.history)

    def record(self, metrics: dict[str, float], goal: str, model: Any, figures: dict[str, Any]) -> None:
        """Adds a row to the history and keeps the weights if they are the best so far, or as good as the best.

        Validations within one standard error of the best do not show which model is better; the last bits of a sum,
        and so the number of threads, decide which of them comes out best. The last of them is kept.

        Args:
            metrics: of the validation, the goal among them (NaN where there are no validation rows), and `se`, the
                standard error of the goal; without it only a better value is better.
            goal: the metric that decides.
            model: has a `state_dict` with the weights that were validated, or those of them that are trained.
            figures: further columns; `epoch` and `learningrate` come first, `rows_per_s` is filled in here.
        """
        rows, tokens, steps = self.counts
        divisors = torch.full_like(self.sums, steps)
        divisors[2] -= self.single
        loss, active, spread, *teacher = (self.sums / divisors).tolist()  # NaN where there was no step
        speeds = (rows / self.window, tokens / self.window) if steps else (math.nan, math.nan)
        self.history.append(
            {
                "step": self.step,
                "epoch": figures["epoch"],
                "loss": loss,
                **dict(zip(["teacher"], teacher, strict=False)),
                "active": active,
                "spread": spread,
                "collapsed": int(spread < COLLAPSED),
                "learningrate": figures["learningrate"],
                "rows_per_s": speeds[0],
                "tokens_per_s": speeds[1],
                "memory_gb": figures["memory_gb"],
                "seconds": self.seconds,
                **metrics,
            }
        )
        self.sums, self.counts = torch.zeros(len(self.sums), dtype=torch.float64), [0, 0, 0]
        self.single = torch.zeros((), dtype=torch.float64)
        value = metrics[goal]
        if math.isnan(value):
            self.best_step = self.step
            return
        better, tied = value > self.best, self.best_se > 0 and value >= self.best - self.best_se
        if better:
            self.best, self.best_se, self.stale = value, metrics.get("se", 0.0), 0
        else:
            self.stale += 1
        if better or tied:
            self.best_step = self.step
            state = model.state_dict().items()
            self.best_weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state}

    def log_last(self, goal: str, total: int) -> None:
        """Logs the last row of the history, and a warning where the embeddings have collapsed."""
        row = self.history[-1]
        words = ["no validation rows" if math.isnan(row[goal]) else f"{goal} {row[goal]:.4f}"]
        shorter = f"{goal}_"  # its values at leading sizes
        words += [f"{name} {value:.4f}" for name, value in row.items() if name.startswith(shorter)]
        if not math.isnan(row["loss"]):
            words += [f"loss {row['loss']:.4f}", f"active {row['active']:.0%}", f"{row['rows_per_s']:.1f} rows/s"]
        log.info("step %d of %d: %s", self.step, total, ", ".join(words))
        if row["collapsed"]:
            log.warning(
                "the embeddings have collapsed (spread %.4f): lower --learningrate, raise --batchsize or change --loss",
                row["spread"],
            )

    def finished(self, target: float, patience: int, goal: str) -> bool:
        """Whether the run ends early: the target is reached, patience (0 = endless) is used up, or it was pruned."""
        if self.pruned:
            return True
        if target and self.best >= target:
            log.info("stopping: %s reached %.4f, the target is %.4f", goal, self.best, target)
            return True
        if patience and self.stale >= patience:
            log.info("stopping: %d validations without a new best %s", self.stale, goal)
            return True
        return False


def checked_progress(state: dict[str, Any], weights: dict[str, Tensor], figures: int = 3) -> Progress:
    """The progress that a checkpoint holds.

    Args:
        state: of the progress.
        weights: of the model it should belong to.
        figures: that a step of the run has: 4 with a teacher, else 3.

    Raises:
        Exception: of any kind, where it is not the progress of such a run.
    """
    progress = Progress(**state)
    whole = (progress.step, progress.best_step, progress.stale, progress.rewarmed, *progress.counts)
    if not all(type(number) is int and number >= 0 for number in whole) or len(progress.counts) != 3:
        raise ValueError("a count of its progress is not a whole number")
    if not all(math.isfinite(number) and number >= 0 for number in (progress.seconds, progress.window)):
        raise ValueError("its times are not finite")
    if not all(isinstance(row, dict) and type(row["step"]) is int for row in [*progress.history, *progress.mining]):
        raise ValueError("its history is not a list of rows")
    if (
        progress.sums.shape != (figures,)
        or progress.single.shape != ()
        or not all(isinstance(number, float) for number in (progress.best, progress.best_se))
    ):
        raise ValueError("its sums or its best value have another type")
    shapes = [{name: tuple(value.shape) for name, value in part.items()} for part in (progress.best_weights, weights)]
    if progress.best_weights and shapes[0] != shapes[1]:
        raise ValueError("its best weights are those of another model")
    return progress


class Clock:
    """Seconds of a run: in all, since the last validation, and spent on validations.

    Attributes:
        validating: seconds spent on validations by this process.
    """

    def __init__(self, seconds: float = 0.0, window: float = 0.0) -> None:
        """Goes on from `seconds` in all and `window` since the last validation."""
        self.restart(seconds, window)

    def restart(self, seconds: float, window: float = 0.0) -> None:
        """As a new clock."""
        now = time.perf_counter()
        self._reading = load.reading()
        self.validating = 0.0
        self._here, self._begun, self._window = now, now - seconds, now - window

    @property
    def seconds(self) -> float:
        """Of the whole run, over all interruptions."""
        return time.perf_counter() - self._begun

    @property
    def window(self) -> float:
        """Since the last validation."""
        return time.perf_counter() - self._window

    @property
    def here(self) -> float:
        """Since this clock was started."""
        return time.perf_counter() - self._here

    def sharing(self) -> str:
        """A sentence if other programs have taken the cores since the last validation; "" if they have not."""
        return load.sharing(self._reading, load.reading(), torch.get_num_threads())

    @contextlib.contextmanager
    def validation(self) -> Iterator[None]:
        """A block that is a validation: it counts to none of the windows."""
        begun = time.perf_counter()
        yield
        self._window, self._reading = time.perf_counter(), load.reading()
        self.validating += self._window - begun
