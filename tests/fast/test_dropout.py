"""Dropout masks from a pool."""

from __future__ import annotations

import pytest
import torch

from hr_search.encoder import load_encoder
from hr_search.fast.dropout import POOL, PooledDropout, noise, pool_dropout


@pytest.mark.parametrize("shape", [(1000, 300), (POOL // 1000 + 1, 1000)])
def test_masks_have_the_wanted_share_and_mean_one(shape):
    torch.manual_seed(0)
    mask = noise(shape, torch.float32, 0.1)
    assert mask.shape == shape
    assert (mask == 0).float().mean() == pytest.approx(0.1, abs=0.003)
    assert mask.mean() == pytest.approx(1, abs=0.003)
    assert not torch.equal(mask, noise(shape, torch.float32, 0.1))


def test_the_global_generator_decides():
    torch.manual_seed(7)
    first = noise((50, 50), torch.bfloat16, 0.2).clone()
    noise((3,), torch.bfloat16, 0.2)
    torch.manual_seed(7)
    assert torch.equal(first, noise((50, 50), torch.bfloat16, 0.2))


def test_the_module_drops_in_training_only_and_passes_the_gradient():
    module, x = PooledDropout(0.5), torch.ones(200, 100, requires_grad=True)
    assert module.eval()(x) is x
    assert PooledDropout(0.0).train()(x) is x
    out = module.train()(x)
    out.sum().backward()
    assert torch.equal(out.detach(), x.grad)
    assert set(out.unique().tolist()) == {0.0, 2.0}


def test_every_dropout_of_a_model_is_replaced_once(tiny_model):
    encoder = load_encoder(str(tiny_model), 64, "fp32", dropout=0.3)
    found = [module for module in encoder.modules() if isinstance(module, torch.nn.Dropout)]
    assert found
    assert all(type(module) is PooledDropout and module.p == 0.3 for module in found)
    pool_dropout(encoder)
    assert all(type(module) is PooledDropout for module in encoder.modules() if isinstance(module, torch.nn.Dropout))
    encoder.train()
    rows = [torch.arange(5, 30).numpy()]
    assert not torch.equal(encoder(rows), encoder(rows))
    encoder.eval()
    assert torch.equal(encoder(rows), encoder(rows))
