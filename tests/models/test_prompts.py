"""Prompts that models store under many names: used, or a line says what to do."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from conftest import make_model
from sentence_transformers import SentenceTransformer

from hr_search.base.errors import InputError
from hr_search.encoder import load_encoder
from hr_search.models.prompts import side_prompts


@pytest.mark.parametrize(
    ("stored", "query", "document"),
    [
        ({"query": "q: ", "document": "d: "}, "q: ", "d: "),
        ({"query": "q: ", "passage": "p: "}, "q: ", "p: "),
        ({"search_query": "q: ", "search_document": "d: ", "clustering": "c: "}, "q: ", "d: "),
        ({"query": "", "document": "", "retrieval.query": "q: ", "retrieval.passage": "p: "}, "q: ", "p: "),
        ({"web_search_query": "Instruct: find\nQuery: ", "sts_query": "Instruct: compare\nQuery: "},
         "Instruct: find\nQuery: ", ""),
        ({"query": None, "document": None}, "", ""),
    ],
)  # fmt: skip
def test_prompts_are_found_by_the_names_that_models_use(stored, query, document, caplog):
    found = side_prompts(stored, {}, "somebody/model")
    assert (found["query"], found["document"]) == (query, document)
    assert set(stored) <= set(found)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_is_given_wins():
    found = side_prompts({"search_query": "q: ", "document": "d: "}, {"query": "mine: ", "document": ""}, "model")
    assert (found["query"], found["document"]) == ("mine: ", "d: ")


def test_prompts_of_other_names_are_named(caplog):
    side_prompts({"clustering": "c: ", "sts": "s: "}, {}, "model")
    assert "not used here (clustering, sts); --queryprompt" in caplog.text
    caplog.clear()
    side_prompts({"clustering": "c: "}, {"query": "q: "}, "model")
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("intfloat/multilingual-e5-base", '"query: "'),
        ("models/multilingual-e5-large-instruct/", "Instruct"),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query"),
        ("ai-forever/FRIDA", "search_document"),
        ("intfloat/e5-mistral-7b-instruct", "Instruct"),
        ("sentence-transformers/all-MiniLM-L6-v2", ""),
        ("models/house5-base", ""),
    ],
)
def test_families_that_want_prompts_and_store_none_are_told(name, words, caplog):
    side_prompts({"query": "", "document": ""}, {}, name)
    assert words in caplog.text and bool(caplog.text) == bool(words)
    caplog.clear()
    side_prompts({"query": "", "document": ""}, {"query": "mine: "}, name)
    assert not caplog.text


def test_a_prompt_is_a_text():
    with pytest.raises(InputError, match="prompt query of the model m is not text"):
        side_prompts({"query": ["q"]}, {}, "m")


def test_a_model_gives_the_same_with_its_prompts_under_any_name(tmp_path):
    base = SentenceTransformer(str(make_model(tmp_path / "base")), device="cpu")
    base.prompts = {"search_query": "welder joins ", "search_document": "baker "}
    base.save(str(tmp_path / "model"))
    encoder = load_encoder(str(tmp_path / "model"), precision="fp32")
    expected = base.encode(["metal"], prompt="welder joins ", normalize_embeddings=True)
    assert np.abs(encoder.encode(["metal"], "query") - expected).max() < 1e-5
    encoder.save(tmp_path / "saved")
    stored = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())["prompts"]
    assert stored["query"] == "welder joins " and stored["document"] == "baker "
    assert (
        np.abs(SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode_query(["metal"]) - expected).max()
        < 1e-5
    )
