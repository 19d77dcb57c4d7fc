"""`index --approximate` and `search --approximate` as a user meets them."""

from __future__ import annotations

import itertools
import json

import pytest
from conftest import JOBS

from hr_search.commands import parser
from hr_search.index import approximate

WORDS = sorted({word for text in JOBS.values() for word in text.split()})
TEXTS = [" ".join(words) for words in itertools.islice(itertools.permutations(WORDS[::3], 4), 0, None, 97)][:300]


def run(capsys, *words):
    capsys.readouterr()
    assert parser.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def refused(capsys, *words):
    capsys.readouterr()
    assert parser.main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("hr_search: ") and captured.err.count("\n") == 1 and not captured.out
    return captured.err


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


@pytest.fixture
def kept(home, tmp_path, tiny_model, corpus, capsys):
    """A plain index of 300 texts."""
    run(capsys, "index", "--model", tiny_model, "--corpus", corpus, "--out", tmp_path / "i")
    return tmp_path / "i"


def test_lists_are_built_told_and_searched(kept, capsys):
    told = run(capsys, "index", "--out", kept, "--approximate", "--codebytes", 8)
    assert "300 texts (0 new)" in told and "4 lists, 8 bytes of each embedding" in told
    assert "recall@10 of 200 texts of the index by lists read" in told and "rescored" in told
    words = ["search", "--index", kept, "--top", 7, "--json", TEXTS[17]]
    near = ["--approximate", "--nprobe", 4, "--rescore", 300]
    assert run(capsys, *words, *near) == run(capsys, *words)
    alone = json.loads(run(capsys, *words, "--approximate", "--rescore", 0))  # stdout holds nothing else
    assert len(alone) == 7 and {item["text"] for item in alone} <= set(TEXTS)


def test_a_corpus_is_indexed_and_measured_with_queries(home, tmp_path, tiny_model, corpus, capsys):
    (tmp_path / "asked.txt").write_text("\n".join(TEXTS[:30]) + "\n")
    words = ["--approximate", "--nlist", 5, "--queries", tmp_path / "asked.txt", "--json"]
    told = json.loads(run(capsys, "index", "--model", tiny_model, "--corpus", corpus, "--out", tmp_path / "i", *words))
    assert told["texts"] == told["added"] == 300
    lists = told["approximate"]
    assert (lists["nlist"], lists["codebytes"]) == (5, 4) and lists["queries"].startswith("30 texts of ")
    assert [row["nprobe"] for row in lists["recall@10"]] == [1, 2, 4] and lists["seconds"] > 0
    folder = tmp_path / "i" / approximate.FOLDER
    assert lists["bytes"] == sum(path.stat().st_size for path in folder.iterdir())


def test_a_grown_index_refuses_its_lists_until_they_are_built_again(kept, corpus, capsys):
    run(capsys, "index", "--out", kept, "--approximate")
    words = ["search", "--index", kept, "--json", "--approximate", TEXTS[0]]
    first = run(capsys, *words)
    run(capsys, "index", "--append", "--corpus", corpus, "--out", kept)  # nothing new
    assert run(capsys, *words) == first
    corpus.write_text("\n".join(TEXTS) + "\n\n")
    run(capsys, "index", "--append", "--corpus", corpus, "--out", kept)  # the same texts in another file
    assert run(capsys, *words, "--corpus", corpus) == first
    corpus.write_text("\n".join([*TEXTS, *reversed(WORDS)]) + "\n")
    run(capsys, "index", "--append", "--corpus", corpus, "--out", kept)
    told = refused(capsys, *words)
    assert f"built for 300 texts, and the index has changed since (it holds {300 + len(WORDS)})" in told
    run(capsys, "index", "--append", "--corpus", corpus, "--out", kept, "--approximate")
    assert json.loads(run(capsys, *words))[0]["text"] == TEXTS[0]


def test_what_does_not_fit_is_refused(kept, home, tmp_path, tiny_model, corpus, capsys):
    assert "has no lists for --approximate; build them with" in refused(
        capsys, "search", "cook", "--index", kept, "--approximate"
    )
    few = tmp_path / "few.txt"
    few.write_text("\n".join(TEXTS[:255]))
    made = ["index", "--model", tiny_model, "--out", tmp_path / "new"]
    for words, sentence in {
        (*made, "--corpus", few, "--approximate"): "--approximate needs at least 256 texts and the index has 255",
        (*made, "--corpus", corpus, "--approximate", "--nlist", 8): "--nlist is 8; with 300 texts it must be",
        (*made, "--corpus", corpus, "--nlist", 4): "--nlist belongs to --approximate",
        (*made, "--corpus", corpus, "--approximate", "--codebytes", 0): "--codebytes is 0; it must be at least 1",
        tuple(made): "the following arguments are required: --corpus",
        ("index", "--out", kept, "--approximate", "--numbers", "fp32"): "--numbers does not apply without --corpus",
        ("index", "--out", kept, "--approximate", "--k", 3): "--k does not apply without --corpus",
        ("search", "cook", "--corpus", corpus, "--approximate"): "--approximate searches the lists of an index",
        ("search", "cook", "--index", kept, "--nprobe", 3): "--nprobe belongs to --approximate",
        ("search", "cook", "--index", kept, "--approximate", "--rescore", -1): "--rescore is -1; it must be at least 0",
    }.items():
        assert sentence in refused(capsys, *words), words
    assert not (tmp_path / "new").exists()


def test_word_scores_need_all_cosines(home, tmp_path, tiny_model, corpus, capsys):
    words = ["--model", tiny_model, "--corpus", corpus, "--out", tmp_path / "i", "--fusion", 0.3, "--words", "bm25"]
    run(capsys, "index", *words, "--approximate")
    told = refused(capsys, "search", "cook", "--index", tmp_path / "i", "--approximate")
    assert "--approximate cannot add word scores (fusion 0.3)" in told and "--fusion 0" in told
    assert "row" in run(capsys, "search", "cook", "--index", tmp_path / "i", "--approximate", "--plain")
