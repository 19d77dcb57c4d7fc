"""Features of sentence-transformers models that a shortcut may skip: embeddings, training and what is saved."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from conftest import JOBS, make_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as parts
from tokenizers import Tokenizer
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from hr_search.base.errors import InputError
from hr_search.encoder import load_encoder

TEXTS = [*JOBS, *JOBS.values()]
SIDES = ("query", "document")
PROMPTS = {"query": "welder joins ", "document": "gives "}


def transformer(folder):
    return parts.Transformer(str(make_model(folder)))


def save(folder, *modules, **options):
    """The folder of a model of these modules, as sentence-transformers writes it."""
    SentenceTransformer(modules=list(modules), device="cpu", **{"prompts": PROMPTS, **options}).save(str(folder))
    return folder


def t5(folder):
    AutoTokenizer.from_pretrained(make_model(folder)).save_pretrained(folder)
    for left in ("config.json", "model.safetensors"):
        (folder / left).unlink()
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=149, **sizes, pad_token_id=1)).save_pretrained(folder)
    return folder


def tokenizer(folder):
    return Tokenizer.from_file(str(make_model(folder) / "tokenizer.json"))


def old_layout(folder):
    save(folder, transformer(folder / "base"), parts.Pooling(32))
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    (folder / "sentence_bert_config.json").unlink()
    (folder / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 9, "do_lower_case": false}')
    for module, name in zip(listed, ("Transformer", "Pooling"), strict=True):
        module["type"] = f"sentence_transformers.models.{name}"
    listed[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


def router(folder):
    routes = ([transformer(folder / side), parts.Pooling(32, mode)] for side, mode in (("q", "cls"), ("d", "mean")))
    return save(folder / "model", parts.Router.for_query_document(*routes))


KINDS = {
    "t5": lambda folder: t5(folder),
    "prompt left out": lambda folder: save(
        folder / "m", transformer(folder), parts.Pooling(32, "mean", include_prompt=False)
    ),
    "weighted, prompt left out": lambda folder: save(
        folder / "m", transformer(folder), parts.Pooling(32, "weightedmean", include_prompt=False)
    ),
    "dense": lambda folder: save(folder / "m", transformer(folder), parts.Pooling(32), parts.Dense(32, 8)),
    "layer norm": lambda folder: save(folder / "m", transformer(folder), parts.Pooling(32), parts.LayerNorm(32)),
    "two poolings": lambda folder: save(folder / "m", transformer(folder), parts.Pooling(32, ("cls", "mean"))),
    "truncated": lambda folder: save(
        folder / "m", transformer(folder), parts.Pooling(32), parts.Normalize(), truncate_dim=12
    ),
    "0_Transformer": old_layout,
    "router": router,
    "static": lambda folder: save(folder / "m", parts.StaticEmbedding(tokenizer(folder), embedding_dim=16)),
}


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    return KINDS[request.param](tmp_path / "made")


def difference(encoder, folder):
    """The largest difference between the embeddings of an encoder and those of a folder in sentence-transformers."""
    model = SentenceTransformer(str(folder), device="cpu")
    out = 0.0
    for side, encode in zip(SIDES, (model.encode_query, model.encode_document), strict=True):
        out = max(out, np.abs(encoder.encode(TEXTS, side) - encode(TEXTS, normalize_embeddings=True)).max())
    return out


def test_embeddings_are_those_of_the_model_before_and_after_training(folder, tmp_path):
    encoder = load_encoder(str(folder), precision="fp32")
    assert difference(encoder, folder) < 1e-5
    tables = {side: encoder.tokens(TEXTS, side) for side in SIDES}
    whole = {side: encoder.embed(table) for side, table in tables.items()}
    encoder.compact(list(tables.values()))
    assert max(np.abs(encoder.embed(table) - whole[side]).max() for side, table in tables.items()) < 1e-5
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for _ in range(3):  # both sides in one call, as a training step makes it
        embeddings = encoder([*tables["query"], *tables["document"]])
        (embeddings[: len(TEXTS)] - embeddings[len(TEXTS) :].flip(0)).pow(2).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    encoder.expand()
    assert max(np.abs(encoder.embed(table) - whole[side]).max() for side, table in tables.items()) > 1e-4
    encoder.save(tmp_path / "saved")
    assert difference(encoder, tmp_path / "saved") < 1e-5
    assert difference(load_encoder(str(tmp_path / "saved"), precision="fp32"), tmp_path / "saved") < 1e-5


def test_tied_tables_are_cut_down_together(tmp_path):
    encoder = load_encoder(str(t5(tmp_path)), precision="fp32", dropout=0.0)
    assert encoder.transformer.config.dropout_rate == 0
    table = encoder.tokens(["welder"], "query")
    assert encoder.compact([table]) < encoder.vocabulary == 149
    encoder([table[0]])[0, 0].backward()
    rows = encoder.transformer.encoder.embed_tokens.weight
    assert rows is encoder.transformer.shared.weight and rows.grad is not None
    encoder.expand()
    assert encoder.transformer.encoder.embed_tokens.weight.shape == (149, 32)


def test_a_vocabulary_that_cannot_be_cut_down_stays_whole(tiny_model, monkeypatch, caplog):
    encoder = load_encoder(str(tiny_model), precision="fp32")
    second = torch.nn.Embedding.from_pretrained(encoder.transformer.get_input_embeddings().weight.detach().clone())
    embeddings = encoder.transformer.embeddings
    plain = embeddings.forward

    def forward(input_ids=None, **options):  # a model that looks ids up in a table of its own besides
        return plain(input_ids=input_ids, **options) + second(input_ids)

    monkeypatch.setattr(embeddings, "forward", forward)
    table = encoder.tokens(TEXTS, "query")
    before = encoder.embed(table)
    assert encoder.compact([table]) == encoder.vocabulary
    assert "stays whole" in caplog.text
    assert np.array_equal(encoder.embed(table), before)


def test_a_load_leaves_random_numbers_alone_and_says_what_is_slower(tmp_path, caplog):
    caplog.set_level(logging.INFO, "hr_search")
    folders = {kind: KINDS[kind](tmp_path / kind) for kind in ("dense", "static")}
    encoders = {}
    for kind, folder in folders.items():
        state = torch.get_rng_state()
        encoders[kind] = load_encoder(str(folder), dropout=0.3)
        if kind == "static":  # transformers draws weights for what it then loads
            assert torch.equal(torch.get_rng_state(), state)
        assert all(module.training for module in encoders[kind].modules())
    assert encoders["dense"].packs and not encoders["dense"].foreign
    assert encoders["static"].foreign and "first module is a StaticEmbedding" in caplog.text
    assert caplog.text.count("slower") == 1


def test_what_cannot_be_repeated_goes_through_sentence_transformers(tmp_path, caplog):
    caplog.set_level(logging.INFO, "hr_search")
    folder = KINDS["dense"](tmp_path)
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps({**settings, "query_length": 4}))
    encoder = load_encoder(str(folder), precision="fp32")
    assert encoder.foreign and "tokenises a query in its own way" in caplog.text
    assert difference(encoder, folder) < 1e-5
    half = encoder.embed(encoder.tokens(TEXTS, "document", length=5))
    assert np.abs(half - encoder.encode(TEXTS)).max() > 1e-3


def test_static_embeddings_read_whole_texts(tmp_path):
    folder = KINDS["static"](tmp_path)
    encoder = load_encoder(str(folder), maxlength=3)
    long = ["welder " * 100 + "baker " * 100]
    assert np.abs(encoder.encode(long) - encoder.encode(["welder"])).max() > 1e-3


def test_weights_in_half_precision_are_trained_in_full(tmp_path):
    base = SentenceTransformer(str(make_model(tmp_path)), device="cpu").half()
    base.save(str(tmp_path / "half"))
    encoder = load_encoder(str(tmp_path / "half"), precision="fp32")
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert np.isfinite(encoder.encode(TEXTS)).all()


def test_an_activation_that_is_not_torchs_is_refused(tmp_path):
    folder = KINDS["dense"](tmp_path)
    (place,) = folder.glob("2_Dense/config.json")
    place.write_text(json.dumps({**json.loads(place.read_text()), "activation_function": "somebody.Swish"}))
    with pytest.raises(InputError, match="somebody.Swish"):
        load_encoder(str(folder))
