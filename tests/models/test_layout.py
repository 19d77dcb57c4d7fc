"""The layout of saved models: the names of sentence-transformers 5, and the same embeddings in version 6."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import JOBS, make_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as parts

from hr_search.encoder import load_encoder
from hr_search.models.layout import write_older


def saved(folder, *modules, **options):
    base = parts.Transformer(str(make_model(folder / "base")))
    SentenceTransformer(modules=[base, *modules], device="cpu", **options).save(str(folder / "model"))
    return folder / "model"


def read(path):
    return json.loads(path.read_text())


def vectors(folder):
    return SentenceTransformer(str(folder), device="cpu").encode(list(JOBS.values()))


def test_a_saved_model_has_the_names_of_version_5(tmp_path):
    load_encoder(str(make_model(tmp_path / "base")), maxlength=24).save(tmp_path / "model")
    kinds = [module["type"] for module in read(tmp_path / "model" / "modules.json")]
    assert kinds == [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")]
    assert read(tmp_path / "model" / "sentence_bert_config.json") == {"max_seq_length": 24, "do_lower_case": False}
    pooling = read(tmp_path / "model" / "1_Pooling" / "config.json")
    assert pooling["word_embedding_dimension"] == 32 and pooling["pooling_mode_mean_tokens"]
    assert sum(pooling[name] for name in pooling if name.startswith("pooling_mode_")) == 1
    assert read(tmp_path / "model" / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("cls", "mean"))


@pytest.mark.parametrize("mode", POOLINGS, ids=str)
def test_every_pooling_means_the_same_under_its_older_name(tmp_path, mode):
    folder = saved(tmp_path, parts.Pooling(32, mode), parts.Dense(32 * (1 + isinstance(mode, tuple)), 8))
    before = vectors(folder)
    assert write_older(folder, 64)
    assert np.array_equal(vectors(folder), before)


@pytest.mark.parametrize(
    "part",
    [
        lambda: parts.Dense(32, 32, use_residual=True),
        lambda: parts.Normalize("token_embeddings"),
        lambda: parts.WordWeights(["welder"], {"welder": 2.0}),
    ],
)
def test_what_version_5_lacks_stays_as_version_6_writes_it(tmp_path, part):
    folder = saved(tmp_path, parts.Pooling(32), part())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not write_older(folder, 64)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_fewer_dimensions_are_not_written_for_a_version_that_gives_all(tmp_path):
    assert not write_older(saved(tmp_path, parts.Pooling(32), truncate_dim=8), 64)
