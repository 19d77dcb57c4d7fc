"""Which weights a run keeps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hr_search.history import Progress, checked_progress

FIGURES = {"epoch": 0.0, "learningrate": 1e-4, "memory_gb": 1.0}


def kept(*values: tuple[float, float] | tuple[float]) -> tuple[int, float, int]:
    """The step kept, the weight kept and the validations since the best one, after validations (value, se)."""
    progress, model = Progress(), nn.Linear(1, 1, bias=False)
    for step, (value, *se) in enumerate(values):
        progress.step = step
        nn.init.constant_(model.weight, step)
        progress.record({"mrr": value} | ({"se": se[0]} if se else {}), "mrr", model, FIGURES)
    weight = progress.best_weights["weight"].item() if progress.best_weights else math.nan
    return progress.best_step, weight, progress.stale


def test_a_tie_within_the_standard_error_goes_to_the_later_step():
    assert kept((0.5, 0.1), (0.8, 0.05), (0.76, 0.05), (0.74, 0.05)) == (2, 2, 2)
    assert kept((0.5, 0.1), (0.8, 0.05), (0.76, 0.05), (0.81, 0.001), (0.8, 0.05)) == (3, 3, 1)


def test_without_a_standard_error_only_a_better_value_is_better():
    assert kept((0.5,), (0.8,), (0.8,), (0.79,)) == (1, 1, 2)
    assert kept((0.8, math.nan), (0.79, math.nan)) == (0, 0, 1)  # a single validation query


def test_last_bits_do_not_decide():
    one, two = (kept((0.9450, 0.005), (0.9442 + bits, 0.005)) for bits in (0.0, 0.0009))
    assert one == (1, 1, 1) and two == (1, 1, 0)


def test_without_validation_rows_the_last_step_stands():
    step, weight, _ = kept((math.nan,), (math.nan,))
    assert step == 1 and math.isnan(weight)


def test_the_history_has_the_standard_error():
    progress = Progress()
    progress.record({"mrr": 0.5, "se": 0.1}, "mrr", nn.Linear(1, 1), FIGURES)
    assert progress.history[0]["se"] == 0.1 and progress.best == pytest.approx(0.5)
    assert torch.equal(progress.sums, torch.zeros(3, dtype=torch.float64))


def recorded(progress: Progress, *steps: list[float]) -> dict:
    """The history's row after steps with these figures."""
    for figures in steps:
        progress.count(torch.tensor(figures, dtype=torch.float64), 2, 10)
    progress.record({"mrr": 0.5}, "mrr", nn.Linear(1, 1), FIGURES)
    return progress.history[-1]


def test_a_step_with_one_document_has_no_part_in_the_mean_spread():
    progress = Progress(window=1.0)
    row = recorded(progress, [1.0, 0.5, 0.4], [3.0, 0.5, math.nan], [2.0, 0.5, 0.2])
    assert (row["loss"], row["active"], row["collapsed"]) == (2.0, 0.5, 0) and row["spread"] == pytest.approx(0.3)
    row = recorded(progress, [1.0, 0.5, math.nan])
    assert row["loss"] == 1.0 and math.isnan(row["spread"]) and row["collapsed"] == 0
    assert recorded(progress, [1.0, 0.5, 0.01])["collapsed"] == 1  # what was counted before is gone


@pytest.mark.parametrize("history", [[], [{"step": 0}], [{"step": 0, "teacher": math.nan}]])
@pytest.mark.parametrize("figures", [3, 4])
def test_the_sums_are_those_of_the_run_whatever_its_history_holds(history, figures):
    state = vars(Progress(history=history, sums=torch.zeros(figures, dtype=torch.float64)))
    assert checked_progress(state, {}, figures).history == history
    with pytest.raises(ValueError, match="its sums"):
        checked_progress(state, {}, 7 - figures)
