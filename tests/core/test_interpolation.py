"""Weight interpolation: arithmetic, and weights that come back to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hr_search.interpolation import Interpolation, interpolated


def test_a_straight_line_between_two_sets_of_weights():
    trained, base = torch.tensor([1.0, 2.0, -4.0]), torch.tensor([0.0, 4.0, -4.0])
    assert interpolated(trained, base, 0.25).tolist() == [0.75, 2.5, -4.0]
    assert torch.equal(interpolated(trained, base, 0.0), trained)
    assert torch.equal(interpolated(trained, trained, 0.3), trained)


def test_the_mixture_is_there_within_and_gone_after_even_if_something_fails():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    base = {name: value.clone() for name, value in model.state_dict().items()}
    interpolation = Interpolation(model, 0.5)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights))
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    with interpolation.mixed(model):
        for name, value in model.state_dict().items():
            assert torch.allclose(value, (trained[name] + base[name]) / 2)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    with pytest.raises(KeyError), interpolation.mixed(model):
        raise KeyError
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    interpolation.mix(model)
    assert torch.allclose(model[0].weight, (trained["0.weight"] + base["0.weight"]) / 2)


def test_a_share_of_nothing_costs_and_does_nothing():
    model = nn.Linear(2, 2)
    interpolation = Interpolation(model, 0.0)
    before = model.weight.clone()
    with interpolation.mixed(model):
        assert torch.equal(model.weight, before)
    interpolation.mix(model)
    assert torch.equal(model.weight, before) and not interpolation._base
