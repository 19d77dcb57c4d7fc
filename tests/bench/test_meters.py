"""The meters of the speed benchmark: steps, memory and the rate of matrix products."""

from __future__ import annotations

import numpy as np
import torch

from hr_search.bench import meters


def test_the_step_clock_counts_steps_of_any_optimiser():
    weight = torch.nn.Parameter(torch.ones(1))
    with meters.step_clock(1, 2) as ticks:
        for optimiser in (torch.optim.AdamW([weight]), torch.optim.SGD([weight])):
            weight.sum().backward()
            optimiser.step()
    torch.optim.SGD([weight]).step()
    assert len(ticks) == 2 and ticks[0] < ticks[1]


def test_the_matrix_rate_is_that_of_the_fastest_product(monkeypatch):
    products = []

    def durations(work, seconds):
        products.append(work())
        return np.array([2.0, 0.5])

    monkeypatch.setattr(meters, "durations", durations)
    monkeypatch.setitem(meters._SHAPES, "cpu", [(4, 3, 2), (8, 8, 8)])
    assert meters.matrix_rate("bf16", torch.device("cpu")) == 2 * 8**3 / 0.5
    assert [tuple(product.shape) for product in products] == [(4, 2), (8, 8)]
    assert {product.dtype for product in products} == {torch.bfloat16}


def test_the_first_call_is_not_counted():
    calls = []
    assert len(meters.durations(lambda: calls.append(1), 0.0, 4)) == 4
    assert len(calls) == 5
