"""The saved index: round trips, growth, exact search, and what is refused."""

from __future__ import annotations

import gc
import itertools
import json
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import JOBS, job_pairs, make_model

from hr_search.base.errors import InputError
from hr_search.encoder import load_encoder
from hr_search.index import agreement, exact, growth, proof
from hr_search.index import folder as saved
from hr_search.index.answers import Searcher
from hr_search.index.texts import Corpus, StoredTexts, file_digest, read_corpus, write_texts
from hr_search.models import fidelity
from hr_search.search.memory import build_memory
from hr_search.search.policy import SearchPolicy

TEXTS = list(JOBS.values())


def corpus_of(texts, name="corpus.txt", rows=None):
    rows = range(1, len(texts) + 1) if rows is None else rows
    return Corpus(np.array(rows, np.int64), list(texts), name, "d" * 32)


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return load_encoder(str(tiny_model), precision="fp32")


@pytest.fixture(scope="module")
def stored(encoder, tmp_path_factory):
    return saved.write_index(tmp_path_factory.mktemp("indexes") / "plain", encoder, corpus_of(TEXTS))


# -- exact search --------------------------------------------------------------------------------


def naive(scores, count):
    steps = np.round(scores.astype(np.float64) * 1e6)
    return sorted(range(len(scores)), key=lambda at: (-steps[at], at))[:count]


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("queries", [1, 3])
def test_search_equals_a_naive_one(kind, queries):
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((2500, 16)).astype(np.float32)
    vectors[1700:1710] = vectors[3]  # ties across blocks
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(kind)
    left = np.concatenate([vectors[3:4], generator.standard_normal((queries - 1, 16))]).astype(np.float32)
    scores = exact.dot_products(vectors, left)
    expected = left.astype(np.float64) @ vectors.astype(np.float64).T
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    for row in scores:
        places, values = exact.best(row, 20)
        assert places.tolist() == naive(row, 20)
        np.testing.assert_allclose(values, row[places], atol=1e-6)
    assert exact.best(scores[0], 11)[0].tolist() == [3, *range(1700, 1710)]


@pytest.mark.parametrize("queries", [1, 3])
def test_threads_change_nothing(monkeypatch, queries):
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((5003, 8)).astype(np.float16)
    left = generator.standard_normal((queries, 8)).astype(np.float32)
    alone = exact.dot_products(vectors, left)
    before = torch.get_num_threads()
    monkeypatch.setattr(exact, "_SMALL", 0)
    try:
        torch.set_num_threads(3)
        shared = exact.dot_products(vectors, left)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(shared, alone, atol=1e-5)


def test_more_than_all_is_all_and_equal_scores_come_in_order():
    assert exact.best(np.zeros(5, np.float32), 99)[0].tolist() == [0, 1, 2, 3, 4]
    assert exact.best(np.zeros(5, np.float32), 2)[0].tolist() == [0, 1]
    noisy = np.array([0.5, 0.9, 0.9 + 1e-7, 0.9 - 1e-7], np.float32)
    assert exact.best(noisy, 2)[0].tolist() == [1, 2]


def test_blocks_hold_every_query_once_and_fit():
    parts = list(exact.blocks(70, 1_000_000))
    assert [at for part in parts for at in range(70)[part]] == list(range(70))
    assert max(part.stop - part.start for part in parts) * 1_000_000 <= 2**24
    assert list(exact.blocks(2, 10**9)) == [slice(0, 1), slice(1, 2)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_broken_row_is_named(value):
    vectors = np.eye(4, 8, dtype=np.float16)
    vectors[2, 5] = value
    with pytest.raises(InputError, match="embedding 3 of the index holds NaN or infinity"):
        exact.dot_products(vectors, np.eye(1, 8, dtype=np.float32))
    with pytest.raises(InputError, match="4 dimensions and the query embedding 8"):
        exact.dot_products(np.eye(4, dtype=np.float32), np.eye(1, 8, dtype=np.float32))


# -- texts ---------------------------------------------------------------------------------------


def test_texts_come_back_one_by_one(tmp_path):
    texts = ["", "сварщик", "a\nb\0", "😀" * 3, "x" * 70_000, "e\u0301"]
    digest = write_texts(tmp_path, texts)
    back = StoredTexts(tmp_path, len(texts))
    assert list(back) == texts and back[1:3] == texts[1:3] and back[-1] == texts[-1] and len(back) == 6
    assert back.digest() == digest != write_texts(tmp_path, [*texts[1:], ""])
    with pytest.raises(IndexError):
        back[6]


@pytest.mark.parametrize("harm", ["short", "missing", "offsets", "count", "letters"])
def test_damaged_texts_are_refused(tmp_path, harm):
    write_texts(tmp_path, ["сварщик", "b"])
    blob = tmp_path / "texts.bin"
    if harm == "short":
        blob.write_bytes(blob.read_bytes()[:-1])
    elif harm == "missing":
        blob.unlink()
    elif harm == "offsets":
        np.save(tmp_path / "offsets.npy", np.array([0, 99, 15]))
    elif harm == "letters":
        blob.write_bytes(b"\xff" * 15)
    with pytest.raises(InputError, match="is damaged .*; build it again"):
        StoredTexts(tmp_path, 3 if harm == "count" else 2)[0]


# -- write and open ------------------------------------------------------------------------------


def test_an_index_keeps_what_was_embedded(encoder, stored):
    expected = encoder.encode(TEXTS)
    assert stored.vectors.dtype == np.float16 and isinstance(stored.vectors, np.memmap)
    np.testing.assert_allclose(stored.vectors, expected, atol=5e-4)
    assert stored.rows.tolist() == list(range(1, 13)) and list(stored.texts) == TEXTS
    assert stored.manifest["direction"] == "q2d" and stored.manifest["model"] == encoder.name
    assert sorted(path.name for path in stored.folder.iterdir()) == [
        "embeddings.npy", "manifest.json", "offsets.npy", "rows.npy", "texts.bin",
    ]  # fmt: skip
    agreement.require_model(stored, encoder)
    agreement.require_knobs(stored, SearchPolicy(mixing="queries", fusion=0.3, k=3))


def test_five_lines_of_numpy_read_it(stored):
    folder = stored.folder
    vectors, rows = np.load(folder / "embeddings.npy", mmap_mode="r"), np.load(folder / "rows.npy")
    offsets, blob = np.load(folder / "offsets.npy"), (folder / "texts.bin").read_bytes()
    texts = [blob[start:stop].decode() for start, stop in itertools.pairwise(offsets)]
    assert texts == TEXTS and len(vectors) == len(rows) == len(texts)


def test_numbers_may_be_fp32_and_an_index_is_replaced_whole(encoder, tmp_path):
    saved.write_index(tmp_path / "i", encoder, corpus_of(TEXTS[:3]))
    again = saved.write_index(tmp_path / "i", encoder, corpus_of(TEXTS), numbers="fp32")
    np.testing.assert_allclose(again.vectors, encoder.encode(TEXTS), atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_nothing_is_left_where_writing_fails(encoder, tmp_path, monkeypatch):
    saved.write_index(tmp_path / "i", encoder, corpus_of(TEXTS[:3]))
    monkeypatch.setattr(encoder, "embed", lambda table, progress: np.full((len(table), 32), np.nan, np.float32))
    with pytest.raises(InputError, match="document embeddings: row 1 holds NaN"):
        saved.write_index(tmp_path / "i", encoder, corpus_of(TEXTS))
    assert list(saved.open_index(tmp_path / "i").texts) == TEXTS[:3]
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_other_files_are_not_overwritten(encoder, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds files that are no index"):
        saved.write_index(tmp_path, encoder, corpus_of(TEXTS))
    with pytest.raises(InputError, match="is a file"):
        saved.write_index(tmp_path / "thesis.txt", encoder, corpus_of(TEXTS))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_job_titles_are_encoded_as_queries(encoder, tmp_path):
    titles = list(JOBS)
    made = saved.write_index(tmp_path / "i", encoder, corpus_of(titles), "d2q", numbers="fp32")
    np.testing.assert_allclose(made.vectors, encoder.encode(titles, "query"), atol=1e-6)
    hits = next(Searcher(encoder, made.vectors, made.rows, made.texts, "d2q").answers([TEXTS[0]], 99))
    cosines = encoder.encode(titles, "query") @ encoder.encode([TEXTS[0]])[0]
    assert [hit.row - 1 for hit in hits] == naive(cosines, 99) and len(hits) == 12


def test_stages_are_kept_and_searched_as_without_an_index(encoder, tmp_path):
    memory = build_memory(encoder, job_pairs())
    policy = SearchPolicy(centre=True, mixing="both", k=3, fusion=0.3)
    made = saved.write_index(tmp_path / "i", encoder, corpus_of(TEXTS), "q2d", policy, memory, "fp32")
    again = saved.open_index(tmp_path / "i")
    assert again.policy == policy and again.memory().fingerprint == memory.fingerprint
    from hr_search.search.fusion import WordIndex
    from hr_search.search.stages import placed

    fresh = placed(encoder.encode(TEXTS), "document", True, memory, policy)
    words = WordIndex.fit(TEXTS, "tfidf", memory.background)
    both = [
        Searcher(encoder, vectors, made.rows, TEXTS, "q2d", policy, known, found)
        for vectors, known, found in ((fresh, memory, words), (again.vectors, again.memory(), again.words(policy)))
    ]
    one, two = ([list(hits) for hits in each.answers(list(JOBS), 4)] for each in both)
    assert [[hit.row for hit in hits] for hits in one] == [[hit.row for hit in hits] for hits in two]
    with pytest.raises(InputError, match="built with k 3, and this search wants 5"):
        agreement.require_knobs(again, policy.replace(k=5))
    with pytest.raises(InputError, match="built with centre True, and this search wants False"):
        agreement.require_knobs(again, SearchPolicy())
    with pytest.raises(
        InputError, match="word scores of the kind tfidf; build it again with --fusion and --words bm25"
    ):
        again.words(policy.replace(words="bm25"))
    shutil.rmtree(again.folder / "memory")
    with pytest.raises(InputError, match="is damaged"):
        again.memory()


class Backwards:
    """A second stage that prefers long documents."""

    def score(self, queries, documents):
        self.seen = list(zip(queries, documents, strict=True))
        return np.array([len(document) for document in documents], np.float32)


def test_the_second_stage_reads_the_first_documents_only(encoder, stored):
    reads = Backwards()
    policy = SearchPolicy(reranktop=4)
    plain = Searcher(encoder, stored.vectors, stored.rows, stored.texts)
    first = [hit.text for hit in next(plain.answers(["welder"], 12))]
    staged = Searcher(encoder, stored.vectors, stored.rows, stored.texts, policy=policy, reads=reads)
    for top in (2, 12):
        found = [hit.text for hit in next(staged.answers(["welder"], top))]
        assert sorted(reads.seen) == sorted(("welder", text) for text in first[:4])
        assert found == (sorted(first[:4], key=len, reverse=True) + first[4:])[:top]


# -- growth --------------------------------------------------------------------------------------


def test_a_grown_corpus_gives_what_a_fresh_index_gives(encoder, tmp_path, monkeypatch):
    old = corpus_of([TEXTS[0], TEXTS[1], TEXTS[3]], rows=[1, 2, 5])  # rows 3 and 4 were empty
    grown = Corpus(np.array([1, 2, 3, 5, 6, 7, 8]), [*TEXTS[:3], TEXTS[3], TEXTS[6], TEXTS[0], TEXTS[6]], "c", "e" * 32)
    policy = SearchPolicy(fusion=0.2)
    index = saved.write_index(tmp_path / "a", encoder, old, policy=policy)
    fresh = saved.write_index(tmp_path / "b", encoder, grown, policy=policy)
    embedded = []
    tokens = encoder.tokens
    monkeypatch.setattr(
        encoder, "tokens", lambda texts, *rest, **more: embedded.extend(texts) or tokens(texts, *rest, **more)
    )
    index, added = growth.append(index, encoder, grown)
    assert embedded == [TEXTS[2], TEXTS[6]] and added == 4
    assert index.rows.tolist() == fresh.rows.tolist() and list(index.texts) == list(fresh.texts)
    np.testing.assert_allclose(index.vectors, fresh.vectors, atol=1e-3)
    assert (index.words(policy).scores(["coal"]) == fresh.words(policy).scores(["coal"])).all()
    index, added = growth.append(index, encoder, grown)
    assert added == 0 and len(embedded) == 2
    agreement.require_corpus(index, "c", "e" * 32)
    with pytest.raises(InputError, match="has changed since"):
        agreement.require_corpus(index, "c", "d" * 32)


def test_new_texts_are_counted_on(encoder, tmp_path):
    index = saved.write_index(tmp_path / "i", encoder, corpus_of(TEXTS[:3]))
    before = np.array(index.vectors)
    new = Corpus(np.array([1, 2, 4]), [TEXTS[8], TEXTS[2], TEXTS[9]], "new.txt", "f" * 32)
    for expected in (2, 0):
        index, added = growth.append(index, encoder, new)
        assert added == expected and index.rows.tolist() == [1, 2, 3, 4, 7]
        assert list(index.texts) == [*TEXTS[:3], TEXTS[8], TEXTS[9]]
    assert (index.vectors[:3] == before).all()
    for digest in ("d" * 32, "f" * 32):
        agreement.require_corpus(index, "c", digest)


def test_a_corpus_with_changed_rows_is_refused(encoder, tmp_path):
    index = saved.write_index(tmp_path / "i", encoder, corpus_of(TEXTS[:3]))
    with pytest.raises(InputError, match="row 2 of corpus.txt is no longer the text"):
        growth.append(index, encoder, corpus_of([TEXTS[0], "other", TEXTS[2], "more"]))
    (index.folder / "texts.bin").write_bytes((index.folder / "texts.bin").read_bytes().replace(b"bread", b"braed"))
    with pytest.raises(InputError, match="its texts are not those"):
        growth.append(saved.open_index(index.folder), encoder, corpus_of(TEXTS))


# -- what is refused -----------------------------------------------------------------------------


def _manifest(**changes):
    def harm(folder):
        place = folder / "manifest.json"
        values = json.loads(place.read_text())
        place.write_text(json.dumps({name: value for name, value in (values | changes).items() if value is not None}))

    return harm


def _array(name, array):
    return lambda folder: np.save(folder / name, array)


def _cut(name):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "is not an index: it has no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not a readable JSON file"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "has the format none"),
        (_manifest(format=99), "has the format 99 and this version reads 1"),
        (_manifest(fingerprint=None), "is damaged"),
        (_manifest(texts=13), "does not hold 13 times 32"),
        (_manifest(texts="many"), "is damaged"),
        (_manifest(dimension=33), "is damaged"),
        (_manifest(numbers="fp8"), "is damaged"),
        (_manifest(direction="sideways"), "is damaged"),
        (_cut("embeddings.npy"), "is damaged"),
        (_cut("offsets.npy"), "is damaged"),
        (_cut("rows.npy"), "is damaged"),
        (_cut("texts.bin"), "is damaged"),
        (lambda folder: (folder / "rows.npy").unlink(), "is damaged"),
        (_array("rows.npy", np.arange(12.0)), "does not hold 12 rows"),
        (_array("embeddings.npy", np.zeros((12, 32))), "is damaged"),
        (lambda folder: np.save(folder / "rows.npy", np.array([None] * 12), allow_pickle=True), "is damaged"),
    ],
)
def test_a_damaged_index_is_one_sentence(stored, tmp_path, harm, message):
    folder = shutil.copytree(stored.folder, tmp_path / "i")
    harm(folder)
    with pytest.raises(InputError, match=message) as told:
        saved.open_index(folder)
    assert "\n" not in str(told.value)


def test_nan_in_a_stored_embedding_is_found_by_the_search(encoder, stored, tmp_path):
    folder = shutil.copytree(stored.folder, tmp_path / "i")
    vectors = np.array(stored.vectors)
    vectors[7, 0] = np.nan
    np.save(folder / "embeddings.npy", vectors)
    index = saved.open_index(folder)
    with pytest.raises(InputError, match="embedding 8 of the index holds NaN"):
        next(Searcher(encoder, index.vectors, index.rows, index.texts).answers(["welder"], 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maxlength": 7}, "was built with maxlength 64, and the model .* has 7"),
        ({"prompts": {"query": "q: "}}, "was built with the prompts"),
    ],
)
def test_a_model_that_reads_otherwise_is_refused(tiny_model, stored, change, message):
    with pytest.raises(InputError, match=message):
        agreement.require_model(stored, load_encoder(str(tiny_model), **change))


def test_another_model_is_refused_by_its_weights(encoder, tiny_model, stored, tmp_path):
    other = load_encoder(str(tiny_model))
    with torch.no_grad():
        next(other.model[0].parameters()).add_(0.001)
    with pytest.raises(InputError, match="was built with another model than"):
        agreement.require_model(stored, other)
    agreement.require_model(stored, other, proven=True)


# -- the proof -----------------------------------------------------------------------------------


def test_a_proven_model_is_not_checked_again_and_a_changed_one_is(tmp_path, monkeypatch):
    folder = make_model(tmp_path / "model")
    first = load_encoder(str(folder))
    evidence = json.loads(json.dumps(proof.proof_of(first)))
    checks = []
    deviation = fidelity.deviation
    monkeypatch.setattr(fidelity, "deviation", lambda encoder: checks.append(1) or deviation(encoder))
    second, holds = proof.open_proven(str(folder), 0, "auto", evidence)
    assert gc.isenabled() and holds and not checks and (second.packs, second.foreign) == (first.packs, first.foreign)
    np.testing.assert_array_equal(second.encode(TEXTS), first.encode(TEXTS))
    (folder / "README.md").write_text("a card changes nothing")
    assert proof.open_proven(str(folder), 0, "auto", evidence)[1]
    os.utime(folder / "config.json", ns=(1, 1))
    assert not proof.open_proven(str(folder), 0, "auto", evidence)[1] and checks
    for broken in (None, {}, {"files": {}}, evidence | {"versions": {}}, evidence | {"device": "tpu"}):
        assert not proof.open_proven(str(folder), 0, "auto", broken)[1]


def test_a_corpus_is_read_by_column_and_fingerprinted(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("title,description\nwelder,<p>joins</p>\nbaker,\nnurse,<br>\n")
    corpus = read_corpus(str(path))
    assert corpus.rows.tolist() == [1] and corpus.texts == ["joins"] and corpus.name == "c.csv"
    titles = read_corpus(str(path), side="query")
    assert titles.texts == ["welder", "baker", "nurse"] and titles.digest == corpus.digest == file_digest(path)
    path.write_text("title,description\nwelder,joins\n")
    assert file_digest(path) != corpus.digest
    with pytest.raises(InputError, match="cannot be read"):
        file_digest(tmp_path / "none")
