"""Layers of integers: products by hand, outliers that cost nothing, embeddings that do not depend on their company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import JOBS, make_model
from torch import nn

from hr_search import load_encoder
from hr_search.base.devices import multiplies_integers
from hr_search.encoder import Encoder
from hr_search.export.int8 import in_int8
from hr_search.fast import integers

TEXTS = [*JOBS, *JOBS.values(), ""]
vnni = pytest.mark.skipif(not multiplies_integers(), reason="this processor has no integer products")


def test_a_row_gets_a_step_of_its_own():
    numbers, steps = integers._centred(torch.tensor([[1.27, -0.64, 0.0], [127.0, -127.0, 0.6]]))
    assert numbers.tolist() == [[255, 64, 128], [255, 1, 129]]
    torch.testing.assert_close(steps, torch.tensor([[0.01], [1.0]]))
    silent, steps = integers._centred(torch.zeros(1, 3))
    assert silent.tolist() == [[128, 128, 128]] and torch.isfinite(steps).all()


def test_what_gelu_gives_takes_all_integers_from_its_minimum_on():
    numbers, steps = integers._positive(torch.tensor([[2.38, -0.17, 0.0, 1.0]]))  # 2.55 in 255 steps
    assert numbers.tolist() == [[255, 0, 17, 117]]
    torch.testing.assert_close(steps, torch.tensor([[0.01]]))
    assert float(nn.functional.gelu(torch.linspace(-5, 0, 10_001)).min()) > -integers._LOW


@vnni
def test_products_by_hand():
    product = integers._Product(torch.tensor([[1.0, -127.0], [2.0, 0.5]]), torch.tensor([10.0, 0.0]))
    rows = torch.tensor([[128 + 3, 128 + 1], [128, 128 - 2]], dtype=torch.uint8)  # 3 and 1; 0 and -2
    # The steps of the matrix are 1 and 2/127: .5 is stored as 32 of them.
    half = 32 * 2 / 127
    torch.testing.assert_close(product.fixed(rows), torch.tensor([[3 - 127 + 10.0, 6 + half], [254 + 10.0, -2 * half]]))
    each = product.rows(rows, torch.tensor([[0.5], [2.0]]))
    torch.testing.assert_close(each, torch.tensor([[-62 + 10.0, 3 + half / 2], [508 + 10.0, -4 * half]]))
    after = nn.functional.gelu(product.fixed(rows))
    torch.testing.assert_close(product.fixed(rows, "gelu"), after, atol=1e-5, rtol=1e-5)
    low = integers._Product(torch.tensor([[1.0, -127.0]]), torch.tensor([0.0]), low=0.5)
    torch.testing.assert_close(
        low.rows(torch.tensor([[3, 1]], dtype=torch.uint8), torch.tensor([[0.5]]), zero=0),
        torch.tensor([[(1.5 - 0.5) - 127 * (0.5 - 0.5)]]),
    )


def test_one_large_dimension_leaves_the_others_their_digits():
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(200, 16, generator=generator), torch.randn(8, 16, generator=generator)
    rows[:, 3] *= 60
    weight[:, 3] /= 60  # so that the large dimension matters as much as any
    exact = rows @ weight.T

    def loss(steps: torch.Tensor | float) -> float:
        numbers = integers._rounded(weight * steps, integers._row_steps(weight * steps))
        return float((integers._rounded(rows, steps) / steps @ numbers.T - exact).square().mean().sqrt())

    even = torch.full((16,), float(rows.abs().max()) / 127)
    assert loss(integers.balanced_steps(rows, weight)) < 0.15 * loss(even)


def strengthened(encoder: Encoder) -> Encoder:
    """A random model whose layers count beside the embeddings that they are added to."""
    with torch.no_grad():
        for weight in encoder.transformer.encoder.layer.parameters():
            if weight.dim() == 2:
                weight.mul_(10)
    return encoder


@vnni
@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_embeddings_are_near_the_exact_ones_alone_and_in_company(tmp_path, architecture):
    folder = str(make_model(tmp_path / architecture, architecture))
    exact, int8 = (strengthened(load_encoder(folder, precision="fp32")) for _ in range(2))
    in_int8(int8)
    assert (exact.precision, int8.precision) == ("fp32", "int8")
    for side in ("query", "document"):
        left, right = exact.encode(TEXTS, side), int8.encode(TEXTS, side)
        assert right.dtype == np.float32 and left.shape == right.shape
        np.testing.assert_allclose(np.linalg.norm(right, axis=1), 1, atol=1e-5)
        cosines = (left * right).sum(1)
        assert cosines.min() > 0.99 and np.abs(left - right).max() > 1e-4
        alone = np.concatenate([int8.encode([text], side) for text in TEXTS])
        np.testing.assert_allclose(alone, right, atol=5e-3)
    int8.model.truncate_dim = 8
    assert int8.encode(TEXTS).shape == (len(TEXTS), 8)
