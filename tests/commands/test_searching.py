"""`search` and `evaluate` as a user meets them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_model

from hr_search import encoder
from hr_search.commands import parser
from hr_search.commands.searching import best_rows


def test_search_finds_what_was_trained(home, tmp_path, tiny_model, jobs, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(jobs["positive"]), encoding="utf-8")
    words = ["search", "--model", str(tiny_model), "--corpus", str(corpus), "--top", "3", "--json", jobs["positive"][4]]
    assert parser.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 3 and found[0]["row"] == 5 and found[0]["score"] == pytest.approx(1.0, abs=1e-2)
    assert found[0]["score"] >= found[1]["score"] >= found[2]["score"]
    assert parser.main([word for word in words if word != "--json"]) == 0
    assert "row 5" in capsys.readouterr().out


def test_evaluate_prints_what_machines_can_read(home, tiny_model, jobs_file, capsys):
    assert parser.main(["evaluate", "--model", str(tiny_model), "--datapath", str(jobs_file), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert set(values) == {"bm25", "tfidf", str(tiny_model)}
    for directions in values.values():
        for metrics in directions.values():
            assert all(low <= value <= high for value, low, high in metrics.values())


class Indifferent:
    """An encoder to which all texts are the same."""

    def tokens(self, texts, side):
        return texts

    def embed(self, table, progress=False):
        return np.ones((len(table), 2), np.float32)

    def encode(self, texts, side):
        return np.ones((len(texts), 2), np.float32)


def test_of_equal_scores_the_first_row_comes_first(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoder, "load_encoder", lambda *_: Indifferent())
    (tmp_path / "corpus.txt").write_text("welder\nbaker\nnurse\n")
    assert parser.main(["search", "cook", "--corpus", str(tmp_path / "corpus.txt"), "--top", "2", "--json"]) == 0
    assert [item["row"] for item in json.loads(capsys.readouterr().out)] == [1, 2]
    assert best_rows(np.array([0.1, 0.9, 0.5, 0.9, 0.1]), 9).tolist() == [1, 3, 2, 0, 4]


def test_search_reads_html_as_text_unless_told_otherwise(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoder, "load_encoder", lambda *_: Indifferent())
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("<p>A&amp;B</p>", "<br>", "x < y > z")))
    for flags, texts in (([], ["A&B", "x < y > z"]), (["--keep-html"], ["<p>A&amp;B</p>", "<br>", "x < y > z"])):
        assert parser.main(["search", "cook", "--corpus", str(corpus), "--json", *flags]) == 0
        assert [item["text"] for item in json.loads(capsys.readouterr().out)] == texts
    corpus.write_text('{"text": "<br>"}')
    assert parser.main(["search", "cook", "--corpus", str(corpus)]) == 2
    assert "--keephtml" in capsys.readouterr().err


def test_search_and_evaluate_read_as_many_tokens_as_the_model_was_saved_with(home, tmp_path, capsys):
    encoder.load_encoder(str(make_model(tmp_path / "base", longest=300)), 160).save(tmp_path / "model")
    start, ends = " ".join(["welder joins metal parts"] * 36), ("bakes bread", "drives a truck")  # 144 words
    rows = [f"{start} {end} now,{start} {end}\n" for end in ends]
    (tmp_path / "pairs.csv").write_text(f"query,positive\n{''.join(rows)}")
    scores = {}
    for length in ("", "160", "128"):
        words = ["--model", str(tmp_path / "model"), "--precision", "fp32", "--json"] + ["--maxlength", length] * bool(
            length
        )
        assert parser.main(["search", "welder", "--corpus", str(tmp_path / "pairs.csv"), *words]) == 0
        found = [item["score"] for item in json.loads(capsys.readouterr().out)]
        assert parser.main(["evaluate", "--datapath", str(tmp_path / "pairs.csv"), "--nofloors", *words]) == 0
        scores[length] = found, json.loads(capsys.readouterr().out)[str(tmp_path / "model")]["q2d"]["mrr"][0]
    assert scores[""] == scores["160"]
    assert scores["128"][0][0] == scores["128"][0][1] and scores["128"][1] == 0.5  # one text twice, ties against us
    assert scores["160"][0][0] > scores["160"][0][1] and scores["160"][1] > 0.5
