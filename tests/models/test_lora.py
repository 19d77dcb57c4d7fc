"""Adapters: they alone are trained and kept in checkpoints, and merged they make a plain model."""

from __future__ import annotations

import importlib.util
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import job_pairs
from sentence_transformers import SentenceTransformer

from hr_search import train
from hr_search.base.errors import InputError
from hr_search.batches import index_rows
from hr_search.checks import check_settings
from hr_search.encoder import load_encoder
from hr_search.models import adapters
from hr_search.settings import Settings

FLAGS = {"lora": 4, "loss": "infonce", "learningrate": 1e-2, "batchsize": 8, "epochs": 2, "patience": 0, "precision": "fp32"}  # fmt: skip
TEXTS = ["welder", "joins metal parts with an electric arc", "bread"]


def weights(encoder) -> dict[str, torch.Tensor]:
    """The parameters by their names without adapters."""
    state = encoder.state_dict().items()
    return {name.replace(".base_layer", ""): value.clone() for name, value in state if ".lora_" not in name}


def trained(model, validate=lambda encoder, step: math.nan, encoder=None, **changes):
    """An encoder trained on the toy jobs; `validate(encoder, step)` gives the goal."""
    settings = Settings(modelname=str(model), **{**FLAGS, **changes})
    encoder = encoder or load_encoder(str(model), precision=settings.precision)
    rows = index_rows(job_pairs())
    tokens = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
    encoder.compact([*tokens.values(), encoder.tokens(TEXTS, "query")])
    try:
        progress = train.fit(encoder, rows, tokens, settings, lambda step: {"mrr": validate(encoder, step)}, "toy")
    finally:
        encoder.expand()
    return encoder, progress


def test_the_saved_model_embeds_as_the_trained_one_and_only_adapters_change(tiny_model, tmp_path):
    base, seen = load_encoder(str(tiny_model), precision="fp32"), {}
    frozen = weights(base)

    def validate(encoder, step):
        table = encoder.tokens(TEXTS, "query")
        seen["packed"] = encoder.embed(table)
        encoder.packs = False
        seen["padded"] = encoder.embed(table)
        encoder.packs = True
        cut = "word_embeddings.weight"  # to the texts of the run
        kept = {name: value for name, value in weights(encoder).items() if not name.endswith(cut)}
        assert len(kept) == len(frozen) - 1 and all(torch.equal(value, frozen[name]) for name, value in kept.items())
        return float(step)

    path = tmp_path / "c.pt"
    encoder, progress = trained(tiny_model, validate, checkpointpath=str(path))
    assert progress.best_step == 6 and progress.history[-1]["loss"] < progress.history[1]["loss"]
    assert np.abs(seen["packed"] - base.encode(TEXTS, "query")).max() > 0.01
    np.testing.assert_allclose(seen["padded"], seen["packed"], atol=1e-5)
    encoder.save(tmp_path / "model")
    again = SentenceTransformer(str(tmp_path / "model")).encode_query(TEXTS)
    for found in (encoder.encode(TEXTS, "query"), again):
        np.testing.assert_allclose(found, seen["packed"], atol=1e-5)
    changed = weights(encoder)
    moved = {name for name in frozen if not torch.equal(frozen[name], changed[name])}
    # Query, key, value, output and the two of the MLP in each of two layers.
    assert changed.keys() == frozen.keys() and len(moved) == 12
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    kept = torch.load(path, weights_only=True)
    assert {
        len(kept["parts"]["model"]),
        len(kept["progress"]["best_weights"]),
        len(kept["parts"]["optimiser"]["state"]),
    } == {24}
    assert all(".lora_A." in name or ".lora_B." in name for name in kept["parts"]["model"])


def test_a_run_that_is_broken_off_leaves_the_base_model_and_goes_on_to_the_same_weights(tiny_model, tmp_path):
    path, base = str(tmp_path / "c.pt"), weights(load_encoder(str(tiny_model)))
    whole, _ = trained(tiny_model, baseshare=0.3, dropout=0.1)

    def broken(encoder, step):
        if step == 6:
            raise RuntimeError("power")
        return math.nan

    encoder = load_encoder(str(tiny_model), precision="fp32")
    with pytest.raises(RuntimeError, match="power"):
        trained(tiny_model, broken, encoder, baseshare=0.3, dropout=0.1, checkpointpath=path, checkpointsteps=2)
    left = weights(encoder)
    assert left.keys() == base.keys() and all(torch.equal(left[name], base[name]) for name in base)
    more = {"baseshare": 0.3, "dropout": 0.1, "checkpointpath": path, "resume": True, "checkpointsteps": 2}
    resumed, progress = trained(tiny_model, encoder=encoder, **more)
    assert progress.step == 6
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    with torch.no_grad():
        encoder.transformer.encoder.layer[0].output.dense.weight.add_(0.1)
    with pytest.raises(InputError, match="was made on other data"):  # adapters belong to their base model
        trained(tiny_model, encoder=encoder, **more)


def test_a_share_of_the_base_model_is_a_share_of_what_the_adapters_add(tiny_model):
    base = weights(load_encoder(str(tiny_model)))
    full, half = (weights(trained(tiny_model, baseshare=share, maxsteps=3)[0]) for share in (0.0, 0.5))
    gained = {name: (full[name] - base[name], half[name] - base[name]) for name in base}
    assert max(float(one.abs().max()) for one, _ in gained.values()) > 1e-3
    for one, other in gained.values():
        torch.testing.assert_close(other, one / 2, atol=1e-6, rtol=1e-4)


def test_adapters_train_in_bf16_and_with_gradient_caching(tiny_model):
    _, rough = trained(tiny_model, precision="bf16")
    _, exact = trained(tiny_model)
    _, parts = trained(tiny_model, gradcache=True, chunktokens=40)
    losses = [[row["loss"] for row in progress.history[1:]] for progress in (exact, parts, rough)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(losses[2], losses[0], rtol=0.05)


def test_what_cannot_be_is_refused_in_a_sentence(monkeypatch):
    with pytest.raises(InputError, match="words has no linear layers, so no adapters can be trained; take --lora 0"):
        adapters.linear_layers(SimpleNamespace(name="words", transformer=None))
    for stage in ("rerank", "search"):
        with pytest.raises(InputError, match=f"not in --stage {stage}; take --lora 0"):
            check_settings(Settings(datapath="sample_ru", lora=4, stage=stage))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else found(name))
    with pytest.raises(InputError, match=r"--lora needs the package peft; run `pip install 'hr_search\[lora\]'`"):
        check_settings(Settings(datapath="sample_ru", lora=4))
    check_settings(Settings(datapath="sample_ru"))
