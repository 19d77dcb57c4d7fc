"""Encoding by int8: what it costs is measured, its embeddings are not mixed with exact ones, and it may be refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import JOBS, make_model

from hr_search import Settings, load_encoder
from hr_search.base.devices import multiplies_integers
from hr_search.base.errors import InputError
from hr_search.checks import check_settings
from hr_search.commands.parser import main
from hr_search.data.tasks import Task
from hr_search.export import loss
from hr_search.export.int8 import exactly, in_int8
from hr_search.fast.integers import IntegerLayers
from hr_search.search.identity import fingerprint

TEXTS = [*JOBS, *JOBS.values(), ""]


@pytest.fixture
def model(home, tiny_model) -> str:
    """A tiny model, where the processor has integer products."""
    if not multiplies_integers():
        pytest.skip("this processor has no integer products")
    return str(tiny_model)


def quantised(model: str):
    return in_int8(load_encoder(model, precision="fp32"))


# -- the encoder ---------------------------------------------------------------------------------


def test_an_encoder_is_exact_again_for_a_block(model):
    exact, int8 = load_encoder(model, precision="bf16"), in_int8(load_encoder(model, precision="bf16"))
    before = int8.encode(TEXTS)
    with exactly(int8):
        assert (int8.precision, int8.engine) == ("bf16", None)
        np.testing.assert_array_equal(int8.encode(TEXTS), exact.encode(TEXTS))
    assert int8.precision == "int8"
    np.testing.assert_array_equal(int8.encode(TEXTS), before)
    assert not np.array_equal(before, exact.encode(TEXTS))


def test_a_model_that_int8_makes_another_stays_exact(model, monkeypatch):
    plain = IntegerLayers.forward
    monkeypatch.setattr(IntegerLayers, "forward", lambda *given, **more: -plain(*given, **more))
    encoder = load_encoder(model, precision="fp32")
    with pytest.raises(InputError, match=r"a mean cosine of -[.\d]+ with the original's .* fp32 or bf16"):
        in_int8(encoder)
    assert (encoder.engine, encoder.precision) == (None, "fp32")
    np.testing.assert_array_equal(encoder.encode(TEXTS), load_encoder(model, precision="fp32").encode(TEXTS))


def test_what_cannot_be_integers_is_refused(home, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    mpnet = load_encoder(str(make_model(tmp_path / "mpnet", "mpnet")))
    with pytest.raises(
        InputError, match="cannot be encoded with int8: it is for models of the types bert, .*mpnet; take"
    ):
        in_int8(mpnet)
    tanh = load_encoder(str(tiny_model))
    tanh.transformer.config.hidden_act = "gelu_new"
    with pytest.raises(InputError, match="with the activation gelu, and this has gelu_new"):
        in_int8(tanh)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    encoder = load_encoder(str(tiny_model))
    with pytest.raises(InputError, match=r"needs a processor with integer products \(VNNI\).*; take bf16 or fp32"):
        in_int8(encoder)
    assert encoder.engine is None


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
    exact, int8 = load_encoder(model), quantised(model)
    assert fingerprint(exact) != fingerprint(int8)  # on which a kept memory depends
    with torch.no_grad():
        exact.transformer.encoder.layer[1].output.dense.weight.mul_(2)
    assert fingerprint(in_int8(exact)) != fingerprint(int8)  # of the layers, too


def test_nothing_is_trained_in_int8(tiny_model):
    with pytest.raises(InputError, match="--precision int8 is for encoding .*; train with auto, fp32 or bf16"):
        check_settings(Settings(precision="int8"))
    with pytest.raises(InputError, match="int8 is a precision of the verbs"):
        load_encoder(str(tiny_model), precision="int8")
