"""The fingerprint of an encoder: equal for the same model wherever it lies, other for whatever changes an embedding."""

from __future__ import annotations

import shutil

import pytest
import torch
from conftest import make_model

from hr_search.encoder import load_encoder
from hr_search.models.condenser import Condenser
from hr_search.search.identity import fingerprint


@pytest.fixture(scope="module")
def loaded(tiny_model):
    return load_encoder(str(tiny_model), precision="fp32")


def test_a_model_is_the_same_wherever_it_lies(tmp_path, tiny_model, loaded):
    shutil.copytree(tiny_model, tmp_path / "copy")
    loaded.save(tmp_path / "saved")
    load_encoder(str(tmp_path / "saved")).save(tmp_path / "twice")
    for place in ("copy", "saved", "twice"):
        assert fingerprint(load_encoder(str(tmp_path / place), precision="bf16")) == fingerprint(loaded), place


def test_whatever_changes_an_embedding_changes_it(tmp_path, tiny_model, loaded):
    prints = [fingerprint(loaded), fingerprint(load_encoder(str(tiny_model), maxlength=32))]
    prints.append(fingerprint(load_encoder(str(tiny_model), prompts={"query": "query: "})))
    prints.append(fingerprint(load_encoder(str(tiny_model), condenser=Condenser(100, {"welder": 0.5}))))
    prints.append(fingerprint(load_encoder(str(tiny_model), condenser=Condenser(100, {"welder": 0.6}))))
    prints.append(fingerprint(load_encoder(str(make_model(tmp_path / "roberta", "roberta")))))
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.bias"):
        changed = load_encoder(str(tiny_model))
        with torch.no_grad():
            dict(changed.transformer.named_parameters())[name].add_(1e-3)
        prints.append(fingerprint(changed))
    assert len(set(prints)) == len(prints)
    assert fingerprint(loaded) == prints[0]
