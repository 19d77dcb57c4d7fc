"""Condensed texts: the sentences that name jobs stay, in their order, and nothing is rewritten."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hr_search.base.errors import InputError
from hr_search.encoder import load_encoder
from hr_search.models import condenser
from hr_search.models.condenser import Condenser, learn

TITLES = ["Сварщик на полуавтомат", "Бухгалтер", "Python developer"] * 3
EMPLOYER = "Мы дружная компания с кофе и печеньем. "
DUTIES = ["Ищем сварщика на полуавтомат.", "Ищем бухгалтера на участок.", "We need a Python developer."]
DOCUMENTS = [EMPLOYER * 5 + duty + " Офис у метро." for duty in DUTIES] * 3


@pytest.mark.parametrize(("at", "word"), [(0, "сварщика"), (1, "бухгалтера"), (2, "Python")])
def test_the_sentence_that_names_the_job_stays(at, word):
    short = learn(TITLES, DOCUMENTS, 20)(DOCUMENTS[at])
    assert word in short and "кофе" not in short and len(short) < len(DOCUMENTS[at]) / 3


def test_short_texts_stay_as_they_are():
    text = "  Любой   текст - без правки "
    assert learn(TITLES, DOCUMENTS, 100)(text) is text


def test_sentences_keep_their_order_and_words():
    text = "Опыт сварщика. Кофе и печенье каждый день для всех. Бухгалтер в помощь."
    assert learn(TITLES, DOCUMENTS, 35)(text) == "Опыт сварщика. Бухгалтер в помощь."


def test_the_same_sentences_stay_in_every_process():
    """Python shuffles sets from process to process, and .1 + .2 + .3 + .7 has another last bit in another order."""
    words = [f"{letter * 3}{number:03}" for number in range(40) for letter in "abcd"]
    weights = dict(zip(words, [0.1, 0.2, 0.3, 0.7] * 40, strict=True))
    text = " ".join(" ".join(words[at : at + 4]) + "." for at in range(0, len(words), 4))
    script = "import json, sys; from hr_search.models.condenser import Condenser; c, t = json.load(sys.stdin)"
    script += "; print(Condenser.from_dict(c)(t))"
    kept = [
        subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps([{"characters": 300, "weights": weights}, text]),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert kept[0] == kept[1] and 300 < len(kept[0]) < len(text)


def test_bullets_and_glued_sentences_are_parts():
    text = "Обязанности: варить трубы. Требования: - опыт - допуск • аттестатУсловия: офис"
    parts = ["Обязанности:", "варить трубы.", "Требования:", "опыт", "допуск", "аттестат", "Условия:", "офис"]
    assert condenser.sentences(text) == parts


def test_words_count_by_how_often_they_come_back_in_the_query():
    queries = ["welder", "welder", "cook", "office", "office a1x"]
    documents = ["welder team", "welder team", "cook team", "team welder", "team a1x"]
    weights = learn(queries, documents, 10).weights
    assert set(weights) == {"welder"} and weights["welder"] == pytest.approx(2 / (3 + 5))


def test_forms_of_a_word_are_one():
    assert condenser.stems("Сварщиками СВАРЩИК ёлочка елочка, ab") == ["сварщи", "сварщи", "елочка", "елочка"]


def test_it_survives_json_and_refuses_what_is_no_condenser():
    made = learn(TITLES, DOCUMENTS, 30)
    again = Condenser.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made and again(DOCUMENTS[0]) == made(DOCUMENTS[0])
    for wrong in ([], {"characters": 3}, {"characters": "x", "weights": {}}, {"characters": 3, "weights": [1]}):
        with pytest.raises(InputError, match="damaged"):
            Condenser.from_dict(wrong)


@pytest.mark.parametrize("text", ["", "   ", "a" * 5000, "." * 5000, "\n" * 5000, "слово " * 5000])
def test_texts_without_sentences_keep_what_they_have(text):
    assert learn(TITLES, DOCUMENTS, 30)(text).strip() == text.strip()


def test_an_encoder_condenses_documents_only_and_its_folder_keeps_that(tiny_model, tmp_path):
    encoder = load_encoder(str(tiny_model), 16)
    plain = {side: encoder.encode(DOCUMENTS, side) for side in ("query", "document")}
    encoder.condenser = learn(TITLES, DOCUMENTS, 20)
    short = [encoder.condenser(text) for text in DOCUMENTS]
    assert np.allclose(encoder.encode(DOCUMENTS, "query"), plain["query"], atol=1e-6)
    condensed = encoder.encode(DOCUMENTS, "document")
    assert not np.allclose(condensed, plain["document"], atol=1e-3)
    encoder.save(tmp_path / "model")
    again = load_encoder(str(tmp_path / "model"), 16)
    assert again.condenser == encoder.condenser
    assert np.allclose(again.encode(DOCUMENTS, "document"), condensed, atol=1e-6)
    again.condenser = None
    assert np.allclose(again.encode(short, "document"), condensed, atol=1e-6)


def test_a_model_that_reads_half_as_many_tokens_condenses_to_half_as_many_characters(tiny_model, tmp_path):
    encoder = load_encoder(str(tiny_model), 16)
    encoder.condenser = Condenser(100, {"weld": 0.5})
    encoder.save(tmp_path / "model")
    assert load_encoder(str(tmp_path / "model")).condenser.characters == 100
    assert load_encoder(str(tmp_path / "model"), 8).condenser.characters == 50


def test_a_damaged_condenser_is_refused(tiny_model, tmp_path):
    encoder = load_encoder(str(tiny_model), 16)
    encoder.save(tmp_path / "model")
    (tmp_path / "model" / "condenser.json").write_text('{"characters": 5}')
    with pytest.raises(InputError, match="condenser.json"):
        load_encoder(str(tmp_path / "model"), 16)


def test_a_scaled_condenser_keeps_a_share_of_the_characters():
    whole = Condenser(1000, {"weld": 0.5})
    assert whole.scaled(0.5) == Condenser(500, {"weld": 0.5})
    assert whole.scaled(1) == whole and whole.scaled(0).characters == 1
