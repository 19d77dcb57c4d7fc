"""Encoding by int8: near the exact embeddings, its graph made once, and refused where it is no answer."""

from __future__ import annotations

import importlib.util
import json
import logging

import numpy as np
import pytest
from conftest import JOBS

from hr_search import Settings, load_encoder
from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.checks import check_settings
from hr_search.commands.parser import main
from hr_search.data.tasks import Task
from hr_search.export import loss
from hr_search.export.int8 import in_int8
from hr_search.search.identity import fingerprint

TEXTS = [*JOBS, *JOBS.values(), ""]


@pytest.fixture
def model(home, tiny_model) -> str:
    """A tiny model, where onnxruntime is installed."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    return str(tiny_model)


def quantised(model: str):
    return in_int8(load_encoder(model, precision="fp32"))


# -- embeddings ----------------------------------------------------------------------------------


def test_embeddings_are_near_the_exact_ones_and_not_the_same(model):
    exact, int8 = load_encoder(model, precision="fp32"), quantised(model)
    assert (exact.precision, int8.precision) == ("fp32", "int8")
    for side in ("query", "document"):
        left, right = exact.encode(TEXTS, side), int8.encode(TEXTS, side)
        assert right.dtype == np.float32 and left.shape == right.shape
        np.testing.assert_allclose(np.linalg.norm(right, axis=1), 1, atol=1e-5)
        cosines = (left * right).sum(1)
        assert cosines.min() > 0.98 and cosines.max() < 1 - 1e-7
    int8.model.truncate_dim = 8
    np.testing.assert_allclose(np.linalg.norm(int8.encode(TEXTS), axis=1), 1, atol=1e-5)
    assert int8.encode(TEXTS).shape == (len(TEXTS), 8)


def test_the_graph_is_made_once_and_again_where_it_is_damaged(model, caplog):
    caplog.set_level(logging.INFO, "hr_search")
    first = quantised(model).encode(TEXTS)
    (place,) = (paths.cache() / "int8").iterdir()
    assert [file.name for file in place.iterdir()] == ["model.onnx"]
    assert caplog.text.count("making the int8 graph") == 1
    np.testing.assert_array_equal(quantised(model).encode(TEXTS), first)
    assert caplog.text.count("making the int8 graph") == 1
    (place / "model.onnx").write_bytes(b"no graph")
    np.testing.assert_allclose(quantised(model).encode(TEXTS), first, atol=1e-6)
    assert "damaged" in caplog.text and caplog.text.count("making the int8 graph") == 2


def test_a_graph_that_gives_other_embeddings_is_not_kept(model, monkeypatch):
    from hr_search.export.int8 import Int8Graph

    plain = Int8Graph.__call__
    monkeypatch.setattr(Int8Graph, "__call__", lambda graph, rows: -plain(graph, rows))
    with pytest.raises(InputError, match=r"a mean cosine of -1.000 with the original's .* fp32 or bf16"):
        quantised(model)
    assert not list((paths.cache() / "int8").iterdir())


# -- the loss ------------------------------------------------------------------------------------


def test_a_sample_holds_all_that_is_relevant_and_counts_it_anew():
    count = 3000
    relevant = [np.array([query, count - 1 - query]) for query in range(400)]
    barred = [np.array([(query + 1) % count, 2999]) if query else np.array([]) for query in range(400)]
    texts = [f"document {at}" for at in range(count)]
    queries = [f"query {at}" for at in range(400)]
    grades = [np.array([1.0, query + 1]) for query in range(400)]
    task = Task("q2d", queries, texts, relevant, [str(at) for at in range(400)], barred, grades)
    part = loss.sample(task, np.random.default_rng(0))
    assert (len(part.queries), len(part.documents)) == (200, 2000) and part.tables is None
    for at, query in enumerate(part.queries):
        number = int(query.split()[1])
        assert [part.documents[place] for place in part.relevant[at]] == [texts[place] for place in relevant[number]]
        assert part.groups[at] == str(number) and part.grades[at][1] == number + 1
        left = {part.documents[place] for place in part.barred[at]}
        assert left == {texts[int(place)] for place in barred[number]} & set(part.documents)
    few = Task("q2d", ["a", "b"], ["c", "d", "e"], [np.array([2]), np.array([0, 1])], ["1", "2"])
    same = loss.sample(few, np.random.default_rng(0))
    assert (same.queries, same.documents) == (few.queries, few.documents)
    assert [indices.tolist() for indices in same.relevant] == [[2], [0, 1]]


def test_evaluate_prints_what_int8_costs_and_what_it_brings(model, jobs_file, capsys):
    words = ["evaluate", "--model", model, "--datapath", str(jobs_file), "--nofloors", "--precision", "int8"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["int8"]
    assert found["mrr_int8"] - found["mrr_exact"] == pytest.approx(found["difference"], abs=1e-9)
    assert found["low"] <= found["difference"] <= found["high"] and found["queries"] == len(JOBS)
    assert found["texts_s_int8"] > 0 and found["texts_s_exact"] > 0
    assert main(words) == 0
    assert "MRR" in (line := capsys.readouterr().out.splitlines()[-1]) and "texts a second" in line


# -- what is kept, and what is refused -----------------------------------------------------------


def test_what_int8_made_is_not_mixed_with_what_is_exact(model, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("\n".join(JOBS.values()))
    build = ["index", "--model", model, "--corpus", str(tmp_path / "corpus.txt")]
    assert main([*build, "--out", str(tmp_path / "int8"), "--precision", "int8"]) == 0
    assert main([*build, "--out", str(tmp_path / "exact")]) == 0
    ask = ["search", "welder", "--top", "1", "--index"]
    assert main([*ask, str(tmp_path / "int8"), "--precision", "int8"]) == 0
    capsys.readouterr()
    assert main([*ask, str(tmp_path / "int8")]) == 2
    assert "was built with --precision int8; search it with that, or build" in capsys.readouterr().err
    assert main([*ask, str(tmp_path / "exact"), "--precision", "int8"]) == 2
    assert "was built without --precision int8; search it without that, or" in capsys.readouterr().err
    with (tmp_path / "corpus.txt").open("a") as file:
        file.write("\nkneads dough at night")
    grow = ["index", "--append", "--corpus", str(tmp_path / "corpus.txt"), "--out", str(tmp_path / "int8"), "--json"]
    assert main(grow) == 0 and json.loads(capsys.readouterr().out)["added"] == 1
    assert fingerprint(load_encoder(model)) != fingerprint(quantised(model))  # on which a kept memory depends


def test_nothing_is_trained_in_int8(tiny_model):
    with pytest.raises(InputError, match="--precision int8 is for encoding .*; train with auto, fp32 or bf16"):
        check_settings(Settings(precision="int8"))
    with pytest.raises(InputError, match="int8 is a precision of the verbs"):
        load_encoder(str(tiny_model), precision="int8")


def test_a_missing_package_names_its_extra(home, tiny_model, monkeypatch):
    encoder, find = load_encoder(str(tiny_model)), importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("onnx", "onnxruntime") else find(name)
    )
    with pytest.raises(InputError, match=r"int8 needs the package onnx(runtime)?; .*hr_search\[export\]"):
        in_int8(encoder)
    assert encoder.engine is None
