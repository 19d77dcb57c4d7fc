"""`index` and `search` as a user meets them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import JOBS, make_model

from hr_search import encoder
from hr_search.base import claims
from hr_search.commands import parser
from hr_search.index.folder import open_index
from hr_search.search.policy import SearchPolicy, write_policies


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


class Indifferent:
    """An encoder to which all texts are the same."""

    def tokens(self, texts, side, cached=True):
        return texts

    def embed(self, table, progress=False):
        return np.ones((len(table), 2), np.float32)


def test_of_equal_scores_the_first_row_comes_first(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoder, "load_encoder", lambda *_: Indifferent())
    (tmp_path / "corpus.txt").write_text("welder\nbaker\nnurse\n")
    assert parser.main(["search", "cook", "--corpus", str(tmp_path / "corpus.txt"), "--top", "2", "--json"]) == 0
    assert [item["row"] for item in json.loads(capsys.readouterr().out)] == [1, 2]


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


# -- a saved index -------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path, jobs):
    """A .txt file of 24 descriptions."""
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(jobs["positive"]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def model(tiny_model, tmp_path):
    """A tiny model in a folder that a test may change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def run(capsys, *words):
    """What a command line prints."""
    capsys.readouterr()
    assert parser.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def refused(capsys, *words):
    """The sentence with which a command line is refused."""
    capsys.readouterr()
    assert parser.main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("hr_search: ") and captured.err.count("\n") == 1 and not captured.out
    return captured.err


def test_an_index_answers_as_its_corpus_does(home, tmp_path, model, corpus, capsys, jobs):
    told = run(capsys, "index", "--model", model, "--corpus", corpus, "--out", tmp_path / "i", "--numbers", "fp32")
    assert "24 texts (24 new), 32 numbers each (fp32)" in told
    words = ["search", "bakes bread", "--top", "99", "--json"]
    direct = json.loads(run(capsys, *words, "--corpus", corpus, "--model", model))
    indexed = json.loads(run(capsys, *words, "--index", tmp_path / "i"))
    assert [item["row"] for item in direct] == [item["row"] for item in indexed] and len(indexed) == 24
    assert [item["text"] for item in indexed] == [jobs["positive"][item["row"] - 1] for item in indexed]
    assert [a["score"] for a in direct] == pytest.approx([b["score"] for b in indexed], abs=2e-4)
    again = json.loads(run(capsys, *words, "--index", tmp_path / "i", "--model", model, "--corpus", corpus))
    assert again == indexed
    assert "row 3" in run(capsys, "search", jobs["positive"][2], "--index", tmp_path / "i")


def test_many_queries_are_answered_into_a_table(home, tmp_path, model, corpus, capsys):
    run(capsys, "index", "--model", model, "--corpus", corpus, "--out", tmp_path / "i")
    (tmp_path / "q.txt").write_text("bakes bread\n\ndigs coal\n")
    words = ["search", "--index", tmp_path / "i", "--queries", tmp_path / "q.txt", "--top", "2"]
    printed = json.loads(run(capsys, *words))
    assert [(row["queryrow"], row["rank"]) for row in printed] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    alone = json.loads(run(capsys, "search", "digs coal", "--index", tmp_path / "i", "--top", "2", "--json"))
    assert [row["row"] for row in printed[2:]] == [item["row"] for item in alone]
    run(capsys, *words, "--out", tmp_path / "a.csv")
    told = json.loads(run(capsys, *words, "--out", tmp_path / "a.jsonl", "--json"))
    assert told == {"queries": 2, "out": str(tmp_path / "a.jsonl")}
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table.columns) == ["queryrow", "query", "rank", "score", "row", "text"]
    assert table.to_dict("records") == printed
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == printed
    (tmp_path / "q.csv").write_text("title,description,other\nbakes bread,digs coal,x\n")
    for flags, query in (
        ([], "bakes bread"),
        (["--column", "other"], "x"),
        (["--querycolumn", "description"], "digs coal"),
    ):
        told = run(capsys, "search", "--index", tmp_path / "i", "--queries", tmp_path / "q.csv", "--top", "1", *flags)
        assert [row["query"] for row in json.loads(told)] == [query]
    told = run(capsys, "search", "--corpus", corpus, "--model", model, "--queries", tmp_path / "q.txt", "--top", "2")
    assert [row["row"] for row in json.loads(told)] == [row["row"] for row in printed]


def test_titles_are_searched_with_vacancies(home, tmp_path, model, jobs_file, capsys, jobs):
    words = ["--model", model, "--corpus", jobs_file, "--direction", "d2q"]
    run(capsys, "index", *words, "--out", tmp_path / "i", "--numbers", "fp32")
    search = ["search", jobs["positive"][6], "--top", "3", "--json"]
    indexed = json.loads(run(capsys, *search, "--index", tmp_path / "i"))
    assert all(item["text"] in JOBS for item in indexed)
    assert [item["row"] for item in json.loads(run(capsys, *search, *words))] == [item["row"] for item in indexed]
    search[1] = f"<p>{search[1]}</p>"  # as in a file of queries
    assert json.loads(run(capsys, *search, "--index", tmp_path / "i")) == indexed
    assert json.loads(run(capsys, *search, "--index", tmp_path / "i", "--keephtml")) != indexed
    assert "leave --direction out" in refused(capsys, *search, "--index", tmp_path / "i", "--direction", "q2d")


def test_append_encodes_new_texts_only(home, tmp_path, model, corpus, capsys):
    words = ["index", "--model", model, "--corpus", corpus, "--out", tmp_path / "i"]
    run(capsys, *words)
    corpus.write_text(corpus.read_text() + "sails a ship over the sea\n")
    search = ["search", "ship", "--index", tmp_path / "i", "--corpus", corpus, "--json"]
    assert "has changed since" in refused(capsys, *search)
    assert "25 texts (1 new)" in run(capsys, *words, "--append")
    assert json.loads(run(capsys, *words, "--append", "--json"))["added"] == 0
    assert "row 25" in run(capsys, "search", "sails a ship over the sea", "--index", tmp_path / "i", "--top", "1")
    run(capsys, *search)
    for flags in (["--numbers", "fp32"], ["--direction", "d2q"], ["--plain"], ["--fusion", "0.1"], ["--centre"]):
        assert "does not apply to --append" in refused(capsys, *words, "--append", *flags)
    assert "was built with keephtml False" in refused(capsys, *words, "--append", "--keephtml")
    assert "was built with maxlength 64" in refused(capsys, *words, "--append", "--maxlength", "9")
    assert "is not an index" in refused(capsys, *words[:-1], tmp_path / "none", "--append")
    assert len(open_index(tmp_path / "i")) == 25


def test_an_index_is_written_by_one_process_at_a_time(home, tmp_path, model, corpus, capsys):
    words = ["index", "--out", tmp_path / "i", "--corpus", corpus]
    with claims.claimed(claims.beside(tmp_path / "i"), "it", "wait"):
        for flags in (["--model", model], ["--append"]):
            assert f"the index {tmp_path / 'i'} is being written" in refused(capsys, *words, *flags)
    assert not (tmp_path / "i").exists()


def test_an_index_of_another_model_is_refused(home, tmp_path, model, corpus, capsys):
    index, search = tmp_path / "i", ["search", "welder", "--index", tmp_path / "i"]
    run(capsys, "index", "--model", model, "--corpus", corpus, "--out", index)
    make_model(tmp_path / "other", architecture="distilbert")
    assert "was built with another model" in refused(capsys, *search, "--model", tmp_path / "other")
    assert "was built with maxlength 64" in refused(capsys, *search, "--maxlength", "8")
    changed = encoder.load_encoder(str(model), prompts={"query": "q: "})
    changed.save(model)
    assert "was built with the prompts" in refused(capsys, *search)


def test_stages_chosen_for_the_model_are_used(home, tmp_path, model, corpus, jobs_file, capsys):
    write_policies(model, {"q2d": SearchPolicy(centre=True, mixing="both", k=3, fusion=0.2)})
    index = ["index", "--model", model, "--corpus", corpus, "--out", tmp_path / "i"]
    assert "need known pairs" in refused(capsys, *index)
    assert not (tmp_path / "i").exists()
    run(capsys, *index, "--memory", jobs_file)
    search = ["search", "bakes bread", "--top", "4", "--json"]
    indexed = json.loads(run(capsys, *search, "--index", tmp_path / "i"))
    direct = json.loads(run(capsys, *search, "--corpus", corpus, "--model", model, "--memory", jobs_file))
    assert [item["row"] for item in indexed] == [item["row"] for item in direct]
    moved = model.rename(tmp_path / "moved")
    assert f'the model folder "{model}" does not exist' in refused(capsys, *search, "--index", tmp_path / "i")
    assert json.loads(run(capsys, *search, "--index", tmp_path / "i", "--model", moved)) == indexed
    moved.rename(model)
    assert "--memory does not apply" in refused(capsys, *search, "--index", tmp_path / "i", "--memory", jobs_file)
    run(capsys, *search, "--index", tmp_path / "i", "--fusion", "0")
    assert "built with k 3, and this search wants 2" in refused(capsys, *search, "--index", tmp_path / "i", "--k", "2")
    assert "built with centre True" in refused(capsys, *search, "--index", tmp_path / "i", "--plain")
    write_policies(model, {"q2d": SearchPolicy(fusion=0.2)})
    assert "built with centre True" in refused(capsys, *search, "--index", tmp_path / "i")
    assert "--k is a knob of mixing" in refused(capsys, *index, "--k", "2")
    run(capsys, *index, "--plain")
    assert open_index(tmp_path / "i").policy == SearchPolicy()
    assert "has no word scores" in refused(capsys, *search, "--index", tmp_path / "i", "--fusion", "0.5")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "x"], "required: --corpus or --index"),
        (["search", "--index", "i"], "required: query"),
        (["search", "x", "--index", "i", "--queries", "q.txt"], "leave one of them out"),
        (["search", "x", "--index", "i", "--out", "a.csv"], "give --queries"),
        (["search", "--index", "i", "--queries", "q.txt", "--out", "a.xml"], "must end in .csv or .jsonl"),
        (["search", "x", "--index", "i", "--top", "0"], "--top is 0"),
        (["search", "x", "--index", "none"], "is not an index: it has no manifest.json"),
        (["index", "--corpus", "none.txt", "--out", "i"], "none.txt does not exist"),
        (["index", "--corpus", "q.txt", "--out", "."], "holds files that are no index"),
        (["index", "--corpus", "q.txt", "--out", "i", "--fusion", "2"], "must be between 0 and 1"),
        (
            ["index", "--corpus", "q.txt", "--out", "i", "--positivecolumn", "b"],
            "name a column of the corpus with --column",
        ),
        (
            ["search", "x", "--corpus", "q.txt", "--positivecolumn", "b"],
            "names the document column of a --memory, and none",
        ),
    ],
)
def test_bad_flags_are_one_sentence(home, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.txt").write_text("welder\n")
    assert message in refused(capsys, *words)
