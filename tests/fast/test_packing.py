"""Packed texts: the same embeddings and gradients as padded ones, without the padding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import make_model

from hr_search.encoder import load_encoder
from hr_search.fast import packing

LENGTHS = [3, 7, 3, 12, 1, 7, 7]


def rows(lengths=LENGTHS):
    generator = np.random.default_rng(0)
    return [generator.integers(5, 60, length).astype(np.int32) for length in lengths]


def test_a_packing_knows_where_every_token_lies():
    packed = packing.pack([2, 3, 2])
    assert packed.order.tolist() == [1, 0, 2]
    assert packed.runs == [(0, 1, 3), (3, 2, 2), (7, 1, 57)] and packed.filling == 57
    assert packing.pack([64]).runs == [(0, 1, 64)] and packing.pack([64]).filling == 0
    assert packing.pack([100] * 5).runs[:3] == [(0, 3, 100), (300, 2, 100), (500, 1, 12)]
    assert packed.positions.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert packed.places.tolist() == [3, 4, 5, 0, 1, 6, 7]


def test_unpacking_brings_every_token_home():
    texts = rows()
    packed = packing.pack([len(text) for text in texts])
    stream = torch.from_numpy(np.concatenate([texts[i] for i in packed.order]))[:, None].float()
    padded, mask = packing.unpack(stream, packed)
    assert padded.shape == (7, 12, 1)
    for text, values, kept in zip(texts, padded[:, :, 0], mask.bool(), strict=True):
        assert values[kept].tolist() == text.tolist()
        assert not values[~kept].any()


def test_chunks_hold_every_text_once_and_about_the_budget():
    lengths = np.random.default_rng(1).integers(1, 50, 200)
    groups = packing.chunks(lengths, 100)
    assert sorted(np.concatenate(groups)) == list(range(200))
    assert max(lengths[group].sum() for group in groups) <= 150
    assert [len(group) for group in packing.chunks([500, 3], 100)] == [1, 1]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_packed_equals_padded_in_values_and_gradients(tmp_path, architecture):
    texts, out = rows(), []
    for packs in (True, False):
        encoder = load_encoder(str(make_model(tmp_path / f"{architecture}{packs}", architecture)), 64, "fp32")
        assert encoder.packs
        encoder.packs = packs
        encoder.train()
        embeddings = encoder(texts)
        embeddings.pow(3).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
        out.append((embeddings.detach(), gradient))
    assert torch.allclose(out[0][0], out[1][0], atol=1e-6)
    assert torch.allclose(out[0][1], out[1][1], atol=1e-5)


def test_families_with_other_positions_are_padded(tmp_path):
    for architecture in ("mpnet", "distilbert"):
        encoder = load_encoder(str(make_model(tmp_path / architecture, architecture)), 64, "fp32")
        assert not encoder.packed
        assert encoder(rows()).shape == (7, 32)


def test_attention_is_that_of_torch_and_differentiable():
    torch.manual_seed(0)
    lengths = [3, 3, 2]
    packed = packing.pack(lengths)
    packed = dataclasses.replace(packed, runs=packed.runs[:-1])  # no filling here
    shape = (1, 2, sum(lengths), 4)  # heads 2, dimensions 4
    query, key, value = (torch.randn(shape).transpose(1, 2).contiguous().transpose(1, 2) for _ in range(3))
    out, _ = packing.attend(torch.nn.Identity(), query, key, value, None, scaling=0.5, packing=packed)
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        alone = torch.nn.functional.scaled_dot_product_attention(
            *(x[:, :, part] for x in (query, key, value)), scale=0.5
        )
        assert torch.allclose(out[:, part], alone.transpose(1, 2), atol=1e-6)
        start += length
    # The kernel works in float32, so its gradient is compared with torch's own instead of gradcheck's float64.
    tensors = [x.detach().clone().requires_grad_() for x in (query, key, value)]
    packing.attend(torch.nn.Identity(), *tensors, None, scaling=0.5, packing=packed)[0].pow(2).sum().backward()
    again = [x.detach().clone().requires_grad_() for x in (query, key, value)]
    block = torch.block_diag(*(torch.ones(length, length) for length in lengths)).bool()
    torch.nn.functional.scaled_dot_product_attention(*again, attn_mask=block, scale=0.5).pow(2).sum().backward()
    for ours, theirs in zip(tensors, again, strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


def test_attention_dropout_drops_weights_and_its_backward_uses_the_same_mask():
    packed = packing.pack([40])
    packed = dataclasses.replace(packed, runs=packed.runs[:-1])
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 40, 8), torch.zeros(1, 1, 40, 8)
    value = torch.eye(40).repeat(1, 1, 1, 1).requires_grad_()  # the output then shows the attention weights
    out, _ = packing.attend(torch.nn.Identity(), query, key, value, None, scaling=1.0, packing=packed, dropout=0.25)
    weights = out[0, :, 0] * 40
    assert weights.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert 0.15 < (weights == 0).float().mean() < 0.35
    out.sum().backward()
    assert torch.allclose(value.grad[0, 0].sum(dim=1) / 40, weights.sum(dim=0) / 40, atol=1e-5)


def test_the_attention_of_a_model_is_left_as_it_was(tiny_model):
    encoder = load_encoder(str(tiny_model), 64, "fp32")
    before = encoder.transformer.config._attn_implementation
    encoder(rows())
    assert encoder.transformer.config._attn_implementation == before
