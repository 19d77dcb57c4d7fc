"""Weight interpolation: arithmetic, and weights that come back to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hr_search.models.interpolation import Interpolation


def test_a_straight_line_between_two_sets_of_weights():
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 4.0, -4.0]]))
        interpolation = Interpolation(model, 0.25)
        model.weight.copy_(torch.tensor([[1.0, 2.0, -4.0]]))
    interpolation.blend(model)
    assert model.weight.tolist() == [[0.75, 2.5, -4.0]]


def test_the_blend_is_there_within_and_gone_after_even_if_something_fails():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    base = {name: value.clone() for name, value in model.state_dict().items()}
    interpolation = Interpolation(model, 0.5)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights))
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    with interpolation.blended(model):
        for name, value in model.state_dict().items():
            assert torch.allclose(value, (trained[name] + base[name]) / 2)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    with pytest.raises(KeyError), interpolation.blended(model):
        raise KeyError
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    interpolation.blend(model)
    assert torch.allclose(model[0].weight, (trained["0.weight"] + base["0.weight"]) / 2)


def test_a_share_of_nothing_costs_and_does_nothing():
    model = nn.Linear(2, 2)
    interpolation = Interpolation(model, 0.0)
    before = model.weight.clone()
    with interpolation.blended(model):
        assert torch.equal(model.weight, before)
    interpolation.blend(model)
    assert torch.equal(model.weight, before) and not interpolation._base
