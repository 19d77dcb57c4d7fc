"""Lists for approximate search: what they find, how they are built and counted, and which are refused."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from hr_search.base.errors import InputError
from hr_search.base.files import read_json, write_json
from hr_search.index import approximate, exact, lists
from hr_search.index import folder as saved
from hr_search.index.answers import Searcher
from hr_search.search.policy import SearchPolicy

COUNT, SIZE = 1200, 16


def generated(folder, vectors):
    """An index of made-up embeddings."""
    manifest = dict.fromkeys(("prompts", "condenser", "memory", "words", "fingerprint"), "")
    manifest |= {"format": 1, "model": "generated", "dimension": vectors.shape[1], "maxlength": 8, "precision": "fp32"}
    manifest |= {"direction": "q2d", "numbers": "fp32", "policy": {}, "corpora": [], "proof": {}}
    texts = [f"text {at}" for at in range(len(vectors))]
    saved.write_folder(folder, manifest, iter([vectors]), np.arange(1, len(vectors) + 1), texts, None)
    return saved.open_index(folder)


@pytest.fixture(scope="module")
def vectors():
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((30, SIZE))
    found = centres[generator.integers(30, size=COUNT)] + 0.5 * generator.standard_normal((COUNT, SIZE))
    found[700:705] = found[3]  # copies
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def built(vectors, tmp_path_factory):
    """An index with 16 lists, and the table of their recall."""
    return lists.build_lists(generated(tmp_path_factory.mktemp("lists") / "i", vectors), nlist=16)


def files_of(index):
    return {path.name: path.read_bytes() for path in sorted((index.folder / approximate.FOLDER).iterdir())}


# -- what is found -------------------------------------------------------------------------------


def test_all_lists_and_all_candidates_are_the_exact_search(built, vectors):
    index, _ = built
    queries = np.concatenate([vectors[[3, 10, 500]], -vectors[:1]])
    search = approximate.open_lists(index, nprobe=16, rescore=COUNT)
    expected = [exact.best(row, 12) for row in exact.dot_products(vectors, queries)]
    for (places, values), (right, scores) in zip(search.best(queries, 12), expected, strict=True):
        assert places.tolist() == right.tolist()
        np.testing.assert_allclose(values, scores, atol=1.5e-6)  # summed in another order
    assert expected[0][0][:6].tolist() == [3, 700, 701, 702, 703, 704]  # copies, in the order of their rows


def test_codes_alone_give_scores_near_the_exact_ones(built, vectors):
    index, _ = built
    (places, values), *_ = approximate.open_lists(index, nprobe=16, rescore=0).best(vectors[40:41], 30)
    right = vectors[places] @ vectors[40]
    assert (np.diff(values) <= 0).all() and len(set(places.tolist())) == 30
    assert 0 < np.abs(values - right).max() < 0.5  # two bytes an embedding


def test_more_lists_are_read_until_there_are_enough_texts(built, vectors):
    index, _ = built
    search = approximate.open_lists(index, nprobe=1, rescore=20)
    first = next(search.best(vectors[:1], 5))[0]
    assert len(first) == 5 and first[0] == 0
    for count in (COUNT, 9 * COUNT):
        assert sorted(next(search.best(vectors[:1], count))[0].tolist()) == list(range(COUNT))


def test_a_query_that_is_not_finite_is_refused(built, vectors):
    index, _ = built
    with pytest.raises(InputError, match="embedding of a query holds NaN"):
        next(approximate.open_lists(index).best(np.full((1, SIZE), np.nan, np.float32), 3))


class Backwards:
    """A second stage that prefers what stands last."""

    def score(self, queries, documents):
        return np.array([int(document.split()[1]) for document in documents], np.float32)


class Given:
    """An encoder whose texts are the numbers of embeddings."""

    def __init__(self, vectors):
        self.vectors = vectors

    def tokens(self, texts, side, cached=True):
        return [int(text) for text in texts]

    def embed(self, table, progress=False):
        return self.vectors[table]


def test_a_second_stage_reads_the_candidates(built, vectors):
    index, _ = built
    policy = SearchPolicy(reranktop=4)
    parts = Given(vectors), index.vectors, index.rows, index.texts, "q2d", policy, None, None, Backwards()
    search = approximate.open_lists(index, nprobe=16, rescore=COUNT)
    whole, few = (list(Searcher(*parts, way).answers(["3", "9"], 6)) for way in (None, search))
    assert whole == few
    assert [hit.row for hit in few[0]][:4] == [703, 702, 701, 4]  # the four copies first found, turned round


# -- recall --------------------------------------------------------------------------------------


def test_recall_counts_what_is_as_near_as_the_tenth(tmp_path):
    angles = np.concatenate([[0.0] * 3, np.arange(1, 300) / 100])  # three copies, then ever farther
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    index = generated(tmp_path / "i", circle)
    queries, own = circle[[1, 0]], np.array([1, 0])
    np.testing.assert_allclose(approximate._tenth_best(index, queries, own), [math.cos(0.08)] * 2, atol=1e-6)
    np.testing.assert_allclose(approximate._tenth_best(index, queries, None), [math.cos(0.07)] * 2, atol=1e-6)
    least = approximate._tenth_best(index, queries, own)
    found = [
        (np.array([0, 1, 2, *range(3, 11)]), None),
        (np.array([0, 1, 2, 3, 4, 200, 201, 202, 203, 204, 205]), None),
    ]
    # The first finds its ten; of the second's ten, its own left out, places 1 to 4 count.
    assert approximate._recall(circle, queries, found, least, own) == (10 + 4) / 20
    assert approximate._recall(circle, queries[:1], [(np.array([0]), None)], least[:1], None) == 1 / 10


def test_the_table_rises_to_one_and_decides_how_many_lists_are_read(built):
    index, table = built
    assert [row["nprobe"] for row in table] == [1, 2, 4, 8, 16]
    last = table[-1]
    assert last["rescored_200"] > 0.99 > table[0]["rescored_200"] and last["codes"] < last["rescored_200"]
    assert list(last) == ["nprobe", "codes", "rescored_200", "rescored_1000", "ms_200", "ms_1000"]
    entry = index.manifest["approximate"]
    assert entry["queries"] == "200 texts of the index" and entry["texts"] == COUNT
    assert entry["recall@10"] == [{name: row[name] for name in list(row)[:4]} for row in table]
    search = approximate.open_lists(index)
    assert (search.nprobe, search.rescore) == (entry["nprobe"], entry["rescore"]) == lists.chosen(table)
    measured = ((1, 0.5, 0.7), (2, 0.7, 0.95), (4, 0.95, 0.99), (8, 0.97, 1.0))
    rows = [{"nprobe": nprobe, "rescored_200": few, "rescored_1000": many} for nprobe, few, many in measured]
    assert lists.chosen(rows) == (4, 200)
    assert lists.chosen(rows[:2]) == (2, 1000) and lists.chosen(rows[:1]) == (1, 1000)


def test_queries_of_ones_own_decide_as_well(built, vectors, tmp_path):
    index, table = lists.build_lists(
        generated(tmp_path / "i", vectors), nlist=16, queries=vectors[:20], asked="20 of t.txt"
    )
    assert index.manifest["approximate"]["queries"] == "20 of t.txt"
    assert table[-1]["rescored_1000"] == 1  # a query finds itself


# -- building ------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_in_parts_of_any_size(built, vectors, tmp_path, monkeypatch):
    index, _ = built
    files = files_of(index)
    assert list(files) == ["centres.faiss", "lists.bin", "sizes.npy"] and len(files["lists.bin"]) == COUNT * (2 + 8)
    monkeypatch.setattr(approximate, "SLICE", 250)
    monkeypatch.setattr(lists, "_PART", 500)
    again, _ = lists.build_lists(generated(tmp_path / "i", vectors), nlist=16)
    assert files_of(again) == files and again.manifest["approximate"] == index.manifest["approximate"]
    other, _ = lists.build_lists(again, nlist=16, seed=1)
    assert files_of(other)["centres.faiss"] != files["centres.faiss"]


def test_sizes_follow_the_number_of_texts():
    assert lists.sizes(1_000_000, 384) == (2048, 48)
    assert lists.sizes(100_000_000, 768) == (16384, 96)
    assert lists.sizes(256, 32) == (4, 4)  # 39 texts a list: at most 6
    assert lists.sizes(1000, 7) == (16, 1) and lists.sizes(1000, 514)[1] == 257
    assert lists.sizes(1000, 32, 25, 16) == (25, 16)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((255, 32), "needs at least 256 texts and the index has 255"),
        ((1000, 32, 26), "--nlist is 26; with 1000 texts it must be between 1 and 25"),
        ((1000, 12, 0, 5), r"--codebytes is 5; it must divide the 12 numbers of an embedding \(1, 2, 3, 4, 6, 12\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(numbers, words):
    with pytest.raises(InputError, match=words):
        lists.sizes(*numbers)


def test_a_failed_build_keeps_the_lists_before_it(vectors, tmp_path, monkeypatch):
    index, _ = lists.build_lists(generated(tmp_path / "i", vectors[:300]))
    files = files_of(index)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lists, "_write_part", full)
    with pytest.raises(InputError, match="cannot be written .*No space left.* the one written before is kept"):
        lists.build_lists(index, seed=1)
    assert files_of(index) == files and sorted(path.name for path in index.folder.iterdir())[0] == "approximate"
    approximate.open_lists(saved.open_index(index.folder))


def test_a_broken_embedding_is_named(vectors, tmp_path):
    broken = vectors[:300].copy()
    broken[41, 5] = np.inf
    with pytest.raises(InputError, match="embedding 42 of the index holds NaN or infinity"):
        lists.build_lists(generated(tmp_path / "i", broken))
    assert not (tmp_path / "i" / "approximate").exists()


# -- what is refused -----------------------------------------------------------------------------


def test_an_index_without_lists_names_the_command(vectors, tmp_path):
    with pytest.raises(InputError, match="has no lists for --approximate; build them with `python -m hr_search index"):
        approximate.open_lists(generated(tmp_path / "i", vectors[:300]))


def test_lists_of_other_texts_are_refused(vectors, tmp_path):
    old, _ = lists.build_lists(generated(tmp_path / "i", vectors[:300]))
    entry = old.manifest["approximate"]
    grown = generated(tmp_path / "i", vectors[:400])
    write_json(grown.folder / saved.MANIFEST, {**grown.manifest, "approximate": entry})
    with pytest.raises(InputError, match=r"built for 300 texts, and the index has changed since \(it holds 400\)"):
        approximate.open_lists(saved.open_index(grown.folder))


@pytest.mark.parametrize("harm", ["short", "missing", "other", "digests", "nprobe", "rescore"])
def test_damaged_lists_are_refused(vectors, tmp_path, harm):
    index, _ = lists.build_lists(generated(tmp_path / "i", vectors[:300]))
    folder = index.folder / approximate.FOLDER
    if harm == "short":
        (folder / "lists.bin").write_bytes((folder / "lists.bin").read_bytes()[:-1])
    elif harm == "missing":
        (folder / "sizes.npy").unlink()
    elif harm == "other":
        (folder / "centres.faiss").write_bytes(b"no index")
    else:
        manifest = read_json(index.folder / saved.MANIFEST)
        del manifest["approximate"][harm]
        write_json(index.folder / saved.MANIFEST, manifest)
    with pytest.raises(InputError, match="are damaged .*; build them again with `python -m hr_search index"):
        approximate.open_lists(saved.open_index(index.folder))


def test_more_lists_than_there_are_cannot_be_read(built):
    with pytest.raises(InputError, match="--nprobe is 17; the index has 16 lists, so give 1 to 16"):
        approximate.open_lists(built[0], nprobe=17)


def test_a_missing_package_is_named(built, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"needs the package faiss-cpu; run `pip install 'hr_search\[faiss\]'`"):
        approximate.open_lists(built[0])
