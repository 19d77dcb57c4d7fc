"""The memory of a search: mixing by a plain loop, what is left out, and the folder it is kept in."""

from __future__ import annotations

import ast
import inspect
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hr_search.base import arrays
from hr_search.base.errors import InputError
from hr_search.encoder import load_encoder
from hr_search.search import fusion, memory
from hr_search.search.identity import fingerprint
from hr_search.search.memory import (
    Memory,
    build_memory,
    centred,
    kept_memory,
    keys_of,
    mixed,
    open_memory,
    refuse_known,
    save_memory,
)
from hr_search.search.policy import SearchPolicy

PAIRS = [(0, 0), (0, 1), (1, 1), (2, 2), (2, 3), (2, 4), (3, 5), (4, 0)]
SIDES = pytest.mark.parametrize("side", ["query", "document"])


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def made(seed: int = 0, pairs=PAIRS) -> Memory:
    """A memory of 5 titles and 6 vacancies in 4 dimensions."""
    generator = np.random.default_rng(seed)
    vectors = {side: generator.normal(size=(n, 4)) + 0.5 for side, n in (("query", 5), ("document", 6))}
    vectors = {side: unit(table).astype(np.float16).astype(np.float32) for side, table in vectors.items()}
    rows, columns = zip(*pairs, strict=True)
    keys = {side: keys_of([f"{side} {at}" for at in range(len(table))]) for side, table in vectors.items()}
    return Memory(vectors, arrays.incidence(rows, columns, (5, 6)), keys, fusion.frequencies(["a word"]))


def partners_of(side: str) -> list[list[int]]:
    """The partners of each text, by a plain loop."""
    found = [[] for _ in range(5 if side == "query" else 6)]
    for title, vacancy in PAIRS:
        found[title if side == "query" else vacancy].append(vacancy if side == "query" else title)
    return found


def slow(vectors, side, known, policy, own=None):
    """`mixed` by plain loops; `own` holds the known text that each text is."""
    other, partners, out = {"query": "document", "document": "query"}[side], partners_of(side), []
    for row, vector in enumerate(vectors):
        there = range(len(known.vectors[side]))
        if own is not None:
            there = [at for at in there if not set(partners[at]) & set(partners[own[row]])]
        cosines = {at: float(unit(vector) @ unit(known.vectors[side][at])) for at in there}
        near = sorted(there, key=lambda at: -cosines[at])[: policy.k]
        if not near:
            out.append(vector)
            continue
        target = np.zeros(4)
        for at in near:
            mean = known.vectors[other][partners[at]].mean(axis=0) * np.sqrt(len(partners[at]))
            target += np.exp(cosines[at] / policy.temperature) * mean
        target = unit(target)
        if policy.strategy == "slerp":
            angle = np.arccos(vector @ target)
            shares = np.sin((1 - policy.weight) * angle), np.sin(policy.weight * angle)
            out.append((shares[0] * vector + shares[1] * target) / np.sin(angle))
        else:
            out.append(unit((1 - policy.weight) * vector + policy.weight * target))
    return np.array(out)


@SIDES
@pytest.mark.parametrize("strategy", ["weighted", "slerp"])
@pytest.mark.parametrize(("k", "temperature", "weight"), [(1, 0.05, 0.5), (3, 0.1, 0.3), (5, 1.0, 0.9)])
def test_mixing_equals_a_plain_loop(side, strategy, k, temperature, weight):
    known, vectors = made(), unit(np.random.default_rng(1).normal(size=(7, 4))).astype(np.float32)
    policy = SearchPolicy(mixing="both", strategy=strategy, k=k, temperature=temperature, weight=weight)
    found = mixed(vectors, side, known, policy)
    np.testing.assert_allclose(found, slow(vectors, side, known, policy), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert found.dtype == np.float32


@SIDES
def test_a_text_in_the_memory_can_be_kept_from_its_own_answers(side):
    known, policy = made(), SearchPolicy(mixing="both", k=3, weight=0.5)
    order = np.random.default_rng(0).permutation(len(known.vectors[side]))
    vectors, keys = known.vectors[side][order], known.keys[side][order]
    found = mixed(vectors, side, known, policy, keys)
    np.testing.assert_allclose(found, slow(vectors, side, known, policy, own=order), atol=1e-4)
    assert np.abs(found - mixed(vectors, side, known, policy)).max() > 0.05
    strange = keys_of(["elsewhere"] * len(keys))
    np.testing.assert_array_equal(mixed(vectors, side, known, policy, strange), mixed(vectors, side, known, policy))


def test_nothing_of_an_own_partner_reaches_a_text_that_is_left_out():
    known, policy = made(), SearchPolicy(mixing="both", k=5, weight=0.5)
    before = mixed(known.vectors["query"], "query", known, policy, known.keys["query"])
    known.vectors["document"][0] *= -1  # a vacancy of titles 0 and 4
    known.__dict__.pop("partners", None)
    after = mixed(known.vectors["query"], "query", known, policy, known.keys["query"])
    moved = np.abs(after - before).max(axis=1) > 1e-6
    # Title 1 shares vacancy 1 with title 0, but may still learn vacancy 0 from title 4.
    assert moved.tolist() == [False, True, True, True, False]


def test_a_text_without_neighbours_stays():
    known = made(pairs=[(title, 0) for title in range(5)])
    policy = SearchPolicy(mixing="queries", k=2, weight=0.9)
    vectors = known.vectors["query"]
    np.testing.assert_allclose(mixed(vectors, "query", known, policy, known.keys["query"]), vectors, atol=1e-6)


@SIDES
@pytest.mark.parametrize("strategy", ["weighted", "slerp"])
def test_weight_0_changes_nothing_and_weight_1_forgets_the_text(side, strategy):
    known, vectors = made(), unit(np.random.default_rng(1).normal(size=(3, 4))).astype(np.float32)
    policy = SearchPolicy(mixing="both", strategy=strategy, k=5, temperature=10, weight=0)
    np.testing.assert_allclose(mixed(vectors, side, known, policy), vectors, atol=1e-5)
    forgotten = mixed(vectors, side, known, policy.replace(k=len(known.vectors[side]), weight=1))
    assert np.abs(forgotten - forgotten[0]).max() < 0.1  # all partners in the memory, with nearly equal weights


def test_a_text_with_many_partners_counts_by_the_root_of_their_number():
    known = made()
    expected = known.vectors["document"][[2, 3, 4]].sum(axis=0) / np.sqrt(3)
    np.testing.assert_allclose(known.partners["query"][2], expected, atol=1e-6)
    np.testing.assert_allclose(known.partners["document"][5], known.vectors["query"][3], atol=1e-6)


def test_centring_subtracts_the_mean_of_each_side():
    known = made()
    for side in ("query", "document"):
        expected = unit(known.vectors[side] - known.vectors[side].mean(axis=0))
        np.testing.assert_allclose(known.centred.vectors[side], expected, atol=1e-6)
        np.testing.assert_allclose(centred(known.vectors[side], known.means[side]), expected, atol=1e-6)
    sums = known.centred.vectors["document"][[0, 1]].sum(axis=0) / np.sqrt(2)
    np.testing.assert_allclose(known.centred.partners["query"][0], sums, atol=1e-6)


@SIDES
def test_k_larger_than_the_memory_is_refused(side):
    known = made()
    size, words = {"query": (5, "queries"), "document": (6, "documents")}[side]
    mixed(known.vectors[side], side, known, SearchPolicy(mixing="both", k=size))
    with pytest.raises(InputError, match=f"k is {size + 1}, and the memory has only {size} distinct {words}"):
        mixed(known.vectors[side], side, known, SearchPolicy(mixing="both", k=size + 1))


def test_keys_are_equal_for_spellings_of_one_text():
    keys = keys_of(["Сварщик", "сварщик!", "  СВАРЩИК\u00ad ", "сварщики", "C++", "C#"])
    assert keys.dtype == np.uint64 and len({*keys[:3].tolist()}) == 1 and len({*keys.tolist()}) == 4


def test_rows_of_a_test_are_refused():
    known = made()
    refuse_known(known, ["query 0", "another document"])
    with pytest.raises(InputError, match=r"holds 2 of the 3 documents .*; give other rows as the memory\.$"):
        refuse_known(known, ["Document 1", "another", "document 5."])


# -- made from pairs -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return load_encoder(str(tiny_model), precision="fp32")


def test_a_memory_holds_distinct_texts_and_all_their_pairs(home, encoder):
    rows = [("Welder", "joins metal"), ("baker", "kneads dough"), ("welder!", "Joins metal."), ("welder", "grinds")]
    known = build_memory(encoder, pd.DataFrame(rows, columns=["query", "positive"]), "rows")
    assert known.pairs.toarray().tolist() == [[1, 0, 1], [0, 1, 0]]
    np.testing.assert_allclose(known.vectors["query"], encoder.encode(["Welder", "baker"], "query"), atol=5e-4)
    assert (known.keys["document"] == keys_of(["joins metal", "kneads dough", "grinds"])).all()
    assert known.background[-1] == 5 and known.source == "rows"


def test_a_memory_without_pairs_is_refused(encoder, jobs):
    with pytest.raises(InputError, match="rows.csv has no pairs; give a table"):
        build_memory(encoder, jobs.iloc[:0], "rows.csv")


def test_an_embedding_that_is_nan_is_refused(home, encoder, jobs, monkeypatch):
    monkeypatch.setattr(encoder, "embed", lambda table, progress: np.full((len(table), 4), np.nan))
    with pytest.raises(InputError, match=r"row 1 holds NaN"):
        build_memory(encoder, jobs)


def test_the_fingerprint_changes_with_any_pair():
    prints = [made().fingerprint, made(1).fingerprint]
    assert prints[0] == prints[1]  # of texts and pairs; the model has a fingerprint of its own
    # The same columns in the same order, but one pair belongs to another title.
    moved = [(0, 0), (1, 1), (1, 1), (2, 2), (2, 3), (2, 4), (3, 5), (4, 0)]
    shifted = [(0, 0), (0, 1), (0, 1), (2, 2), (2, 3), (2, 4), (3, 5), (4, 0)]
    assert len({prints[0], made(pairs=moved).fingerprint, made(pairs=shifted).fingerprint}) == 3


def test_no_order_of_a_set_decides_anything():
    for module in (memory, fusion):
        tree = ast.parse(inspect.getsource(module))
        calls = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "id")]
        assert not {"set", "frozenset", "hash"} & set(calls) and not any(isinstance(n, ast.Set) for n in ast.walk(tree))


# -- kept ----------------------------------------------------------------------------------------


def test_a_kept_memory_searches_to_the_last_digit(home, tmp_path, encoder, jobs):
    known = build_memory(encoder, jobs)
    save_memory(known, tmp_path / "memory", "model")
    opened = open_memory(tmp_path / "memory", "model")
    policy, vectors = SearchPolicy(mixing="both", k=4), encoder.encode(["cook"], "query")
    for side in ("query", "document"):
        np.testing.assert_array_equal(opened.vectors[side], known.vectors[side])
        np.testing.assert_array_equal(mixed(vectors, side, opened, policy), mixed(vectors, side, known, policy))
    np.testing.assert_array_equal(opened.background, known.background)
    assert opened.fingerprint == known.fingerprint and opened.vectors["query"].dtype == np.float32
    assert np.load(tmp_path / "memory" / "query.npy").dtype == np.float16
    save_memory(opened, tmp_path / "again", "model")
    for path in (tmp_path / "memory").glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_kept_memory_of_the_same_pairs_is_not_embedded_again(home, encoder, jobs, monkeypatch):
    known = build_memory(encoder, jobs)
    fewer = build_memory(encoder, jobs.iloc[1:], kept=known)
    assert sum(map(len, fewer.vectors.values())) < sum(map(len, known.vectors.values()))
    monkeypatch.setattr(encoder, "embed", lambda *_, **__: pytest.fail("the texts are embedded again"))
    again = build_memory(encoder, jobs, kept=known)
    assert again.fingerprint == known.fingerprint and again.vectors is known.vectors


def test_the_same_pairs_in_other_words_are_embedded_again(home, tmp_path, encoder, jobs):
    save_memory(build_memory(encoder, jobs), tmp_path / "memory", "model")
    kept = open_memory(tmp_path / "memory", "model")
    assert build_memory(encoder, jobs, kept=kept).vectors is kept.vectors
    spelt = jobs.assign(query=jobs["query"].str.upper())
    fresh = build_memory(encoder, spelt, kept=kept)
    assert fresh.fingerprint == kept.fingerprint
    np.testing.assert_array_equal(fresh.vectors["query"], build_memory(encoder, spelt).vectors["query"])
    assert (fresh.vectors["query"] != kept.vectors["query"]).any()


def test_the_memory_in_a_model_folder_is_kept_only_by_its_own_encoder(home, tmp_path, encoder, jobs, monkeypatch):
    monkeypatch.setattr(encoder, "name", str(tmp_path))
    assert kept_memory(encoder) is None
    save_memory(build_memory(encoder, jobs), tmp_path / "memory", fingerprint(encoder))
    assert kept_memory(encoder).fingerprint == build_memory(encoder, jobs).fingerprint
    monkeypatch.setattr(encoder, "maxlength", encoder.maxlength - 1)
    assert kept_memory(encoder) is None


def test_the_memory_of_another_model_is_refused(tmp_path):
    save_memory(made(), tmp_path / "memory", "one")
    with pytest.raises(InputError, match="embedded by another model"):
        open_memory(tmp_path / "memory", "two")
    with pytest.raises(InputError, match="holds no memory; run `tune`"):
        open_memory(tmp_path, "one")


def broken(array, how):
    """The array, damaged."""
    if how == "short":
        return array[:-1]
    if how == "text":
        return np.array(["a"])
    if how == "pickled":
        return np.array([{}], object)
    return (
        np.full_like(array, -1 if array.dtype.kind == "i" else np.nan) if array.dtype.kind in "if" else array[:, None]
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with a memory, to be copied."""
    save_memory(made(), folder := tmp_path_factory.mktemp("kept") / "memory", "model")
    return folder


NAMES = ["query", "document", "query_keys", "pairs_data", "pairs_indices", "pairs_indptr", "background"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["missing", "cut", "header", "short", "text", "pickled", "values"])
def test_a_damaged_memory_is_refused_in_one_sentence(kept, tmp_path, name, how):
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    path = tmp_path / f"{name}.npy"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif how == "header":
        path.write_bytes(path.read_bytes().replace(b"'shape': (", b"'shape': (((", 1))
    elif how == "missing":
        path.unlink()
    elif (name, how) not in [("pairs_data", "values"), ("background", "values")]:
        array = broken(np.load(path), how)
        path.unlink()
        np.save(path, array, allow_pickle=True)
    else:
        return  # any whole numbers will do there
    with pytest.raises(InputError, match=r"memory in .* is damaged \(.*\); run `tune` again\.$"):
        open_memory(tmp_path, "model")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 99, "model": "model"}'])
def test_a_damaged_manifest_is_refused(kept, tmp_path, content):
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    (tmp_path / "memory.json").write_text(content)
    with pytest.raises(InputError):
        open_memory(tmp_path, "model")


def test_a_memory_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    save_memory(made(), tmp_path / "memory", "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "memory").iterdir()}
    calls = []

    def full(path, array):
        calls.append(path.name)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        np.save(path, array)

    monkeypatch.setattr(arrays, "save", full)
    with pytest.raises(InputError, match="No space left"):
        save_memory(made(1), tmp_path / "memory", "other")
    assert {path.name: path.read_bytes() for path in (tmp_path / "memory").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["memory"]


def test_the_manifest_says_how_much_is_kept(kept, tmp_path):
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    told = json.loads((tmp_path / "memory.json").read_text())
    assert (told["query"], told["document"], told["pairs"]) == (5, 6, len(PAIRS))
    assert isinstance(open_memory(tmp_path, "model").pairs, sparse.csr_array)
