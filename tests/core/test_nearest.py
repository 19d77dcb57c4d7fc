"""Nearest documents by hand, by brute force and by FAISS; ties, exclusions, memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from hr_search import nearest as neighbours
from hr_search.base.errors import InputError
from hr_search.evaluation.metrics import embedding_scores
from hr_search.nearest import nearest, nearest_chunks, pair_scores


def noise(rows: int, dimension: int = 16, seed: int = 0) -> np.ndarray:
    """Random float32 embeddings whose lengths differ."""
    return np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)


def corners(draws: list[int]) -> np.ndarray:
    """Vectors of four numbers whose cosines are exactly -1, -.5, 0, .5 or 1, so that most of them tie."""
    one_hot = np.concatenate([np.eye(4), -np.eye(4)])
    signs = np.array([[1 - 2 * (number >> bit & 1) for bit in range(4)] for number in range(16)])
    return np.concatenate([one_hot, signs, np.zeros((1, 4))])[draws].astype(np.float32)


def brute_force(
    queries: np.ndarray, documents: np.ndarray, k: int, exclude: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All scores at once, sorted by score and then by index."""
    scores = embedding_scores(queries, documents)(0, len(queries))
    if exclude is not None:
        scores = np.where(exclude, -np.inf, scores)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(scores, order, axis=1)
    return np.where(np.isinf(values), -1, order), values


def same(found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> None:
    assert found[0].dtype == np.int64 and found[1].dtype == np.float32
    # Two libraries may round one score to neighbouring steps, and then two documents change places.
    assert (found[0] != expected[0]).mean() < 1e-3
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1.1e-6)


# Answers


def test_known_answers():
    documents = np.array([[0, 1], [3, 3], [5, 0], [-1, 0]], dtype=np.float32)
    indices, scores = nearest(np.array([[2, 0], [0, 0.5]]), documents, 3)
    assert indices.tolist() == [[2, 1, 0], [0, 1, 2]]
    assert scores == pytest.approx(np.array([[1, 0.707107, 0], [1, 0.707107, 0]]), abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ties_and_exclusions_as_brute_force(data):
    queries = corners(data.draw(st.lists(st.integers(0, 24), min_size=1, max_size=7)))
    documents = corners(data.draw(st.lists(st.integers(0, 24), min_size=1, max_size=60)))
    k = data.draw(st.integers(1, len(documents)))
    chunk = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 20)))
    pairs = st.tuples(st.integers(0, len(queries) - 1), st.integers(0, len(documents) - 1))
    exclude = np.zeros((len(queries), len(documents)), bool)
    for pair in data.draw(st.lists(pairs, max_size=80)):
        exclude[pair] = True
    expected = brute_force(queries, documents, k, exclude)
    found = nearest(queries, documents, k, sparse.csr_array(exclude), chunk)
    assert found[0].tolist() == expected[0].tolist()
    assert found[1].tolist() == expected[1].tolist()


@pytest.mark.parametrize("k", [1, 50, 700])
def test_as_brute_force_over_many_chunks(k):
    queries, documents = noise(90), noise(3000, seed=1)
    expected = brute_force(queries, documents, k)
    same(nearest(queries, documents, k, chunk=(32, 256)), expected)
    same(nearest(queries, documents, k), expected)


def test_default_chunks_of_many_documents():
    queries, documents = noise(40, 8), noise(20_000, 8, seed=1)
    same(nearest(queries, documents, 20), brute_force(queries, documents, 20))


def test_documents_that_come_ever_nearer():
    angles = np.linspace(np.pi, 0.1, 3000)
    documents = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    indices, scores = nearest(np.array([[1.0, 0.0]]), documents, 5, chunk=(1, 64))
    assert indices.tolist() == [[2999, 2998, 2997, 2996, 2995]]
    assert scores[0] == pytest.approx(np.cos(angles[:-6:-1]), abs=1e-6)


def test_a_collapsed_model_gives_the_first_documents():
    one = noise(1, 24)
    indices, scores = nearest(np.repeat(one, 5, axis=0), np.repeat(one, 3001, axis=0), 4, None, (0, 128))
    assert indices.tolist() == [[0, 1, 2, 3]] * 5
    assert (scores == 1).all()


def test_equal_embeddings_tie_across_chunks():
    documents = noise(1000, 24)
    documents[[3, 400, 777, 999]] = documents[500]
    found, scores = nearest(documents[[500]], documents, 5, chunk=(1, 100))
    assert found.tolist() == [[3, 400, 500, 777, 999]]
    assert (scores == 1).all()


def test_a_tie_within_the_rounding_goes_to_the_lower_index():
    angles = np.array([0.50001, 0.5, 0.5 - 1e-8, 0.4])  # the middle two differ by less than a step
    documents = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    indices, scores = nearest(np.array([[1.0, 0.0]]), documents, 2)
    assert indices.tolist() == [[3, 1]]
    assert scores.tolist() == [[np.float32(0.921061), np.float32(0.877583)]]


def small(*millionths: float) -> np.ndarray:
    """Documents with these cosines to (1, 0), in millionths."""
    cosines = np.array(millionths) / 1e6
    return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)


def test_a_later_document_one_step_nearer_is_found():
    documents = small(*[10] * 9, 10.45, 10.55, 10.3)
    indices, scores = nearest(np.array([[1.0, 0.0]]), documents, 1, chunk=(1, 8))
    assert indices.tolist() == [[10]]
    assert scores.tolist() == [[np.float32(11e-6)]]


def test_many_ties_within_the_rounding():
    documents = small(*np.linspace(9.6, 10.4, 200))  # ever nearer, and all of one rounded score
    assert nearest(np.array([[1.0, 0.0]]), documents, 3)[0].tolist() == [[0, 1, 2]]


def test_scores_are_those_of_the_metrics():
    queries, documents = noise(30), noise(400, seed=1)
    indices, scores = nearest(queries, documents, 400)
    expected = np.take_along_axis(embedding_scores(queries, documents)(0, 30), indices, axis=1)
    assert np.abs(scores - expected).max() < 1.1e-6
    assert (scores == np.round(scores, 6)).all()


def test_all_zero_embeddings_have_cosine_zero():
    documents = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    indices, scores = nearest(np.array([[1.0, 0.0], [0.0, 0.0]]), documents, 3)
    assert indices.tolist() == [[2, 1, 0], [0, 1, 2]]
    assert scores.tolist() == [[1, 0, -1], [0, 0, 0]]


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int32])
def test_other_number_types(kind):
    queries, documents = (noise(5) * 8).round().astype(kind), (noise(40, seed=1) * 8).round().astype(kind)
    same(nearest(queries, documents, 3), nearest(queries.astype(np.float32), documents.astype(np.float32), 3))


# Exclusion


def test_excluded_rows_are_padded():
    documents = noise(6, seed=1)
    exclude = sparse.csr_array(np.array([[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]))
    indices, scores = nearest(noise(3), documents, 2, exclude)
    assert indices[:2].tolist() == [[-1, -1], [1, -1]]
    assert np.isinf(scores[:2]).tolist() == [[True, True], [False, True]]
    assert (scores[np.isinf(scores)] < 0).all() and (indices[2] >= 0).all()


def test_most_of_a_large_corpus_excluded():
    # More excluded documents among the nearest than FAISS fetches, so the exact search has to step in.
    queries, documents = noise(20), noise(2000, seed=1)
    exclude = np.zeros((20, 2000), bool)
    exclude[:10, :1900] = True
    exclude[10, 1:] = True
    same(
        nearest(queries, documents, 30, sparse.csr_array(exclude), (7, 300)),
        brute_force(queries, documents, 30, exclude),
    )


def test_stored_zeros_exclude_nothing_and_the_array_stays():
    exclude = sparse.csr_array((np.array([0, 1]), np.array([2, 1]), np.array([0, 2])), shape=(1, 3))
    documents = np.array([[0.0, 1.0], [1.0, 0.1], [1.0, 0.0]])
    assert nearest(np.array([[1.0, 0.0]]), documents, 2, exclude)[0].tolist() == [[2, 0]]
    assert exclude.nnz == 2


@pytest.mark.parametrize("make", [sparse.coo_array, sparse.csc_array, sparse.csr_matrix])
def test_any_sparse_form(make):
    exclude = make(np.eye(4, dtype=bool))
    assert nearest(np.eye(4), np.eye(4), 1, exclude)[0].tolist() == [[1], [0], [0], [0]]


# Chunks and machines


def test_chunks_of_the_result():
    queries, documents = noise(25), noise(60, seed=1)
    parts = list(nearest_chunks(queries, documents, 4, chunk=(10, 0)))
    assert [(start, found.shape, scores.shape) for start, found, scores in parts] == [
        (0, (10, 4), (10, 4)), (10, (10, 4), (10, 4)), (20, (5, 4), (5, 4)),
    ]  # fmt: skip
    assert np.concatenate([found for _, found, _ in parts]).tolist() == nearest(queries, documents, 4)[0].tolist()


def test_a_deep_k_takes_fewer_queries_at_a_time():
    device = torch.device("cpu")
    assert neighbours._chunk((0, 0), 50, device) == (1024, 4096)
    assert neighbours._chunk((0, 0), 100_000, device) == (27, 100_000)
    assert neighbours._chunk((0, 0), 10**8, device)[0] == 1
    assert neighbours._chunk((3, 5), 50, device) == (3, 5)
    rows, columns = neighbours._chunk((0, 0), 50, torch.device("cuda"))
    assert rows * columns * 4 <= 2**30  # bytes


def test_places_above_the_bar_as_torch_finds_them():
    block = torch.from_numpy(noise(6, 9))
    bar = block.mean(dim=1, keepdim=True)
    rows, columns = neighbours._above(block, bar)
    assert torch.equal(torch.stack([rows, columns]), (block > bar).nonzero().T)


def test_twice_the_same():
    queries, documents = noise(50), noise(3000, seed=1)
    first, second = (nearest(queries, documents, 40, chunk=(16, 500)) for _ in range(2))
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()


def test_full_precision_inside_a_training_loop(monkeypatch):
    queries, documents = noise(20), noise(200, seed=1)
    expected, before, product = nearest(queries, documents, 10), torch.get_float32_matmul_precision(), torch.mm
    used = []

    def watched(*arguments, **options):
        # What the setting does depends on the hardware, so the setting itself is looked at.
        used.append(torch.get_float32_matmul_precision())
        return product(*arguments, **options)

    monkeypatch.setattr(torch, "mm", watched)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = nearest(queries, documents, 10)
        assert torch.get_float32_matmul_precision() == "medium" and set(used) == {"highest"}
    finally:
        torch.set_float32_matmul_precision(before)
    assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()


def test_memory_maps_are_read_in_chunks(tmp_path):
    shape = (100_000, 64)  # 25.6 MB
    np.save(tmp_path / "documents.npy", noise(*shape))
    documents = np.load(tmp_path / "documents.npy", mmap_mode="r")
    expected = nearest(documents[:5], np.array(documents), 3)
    nearest(documents[:5], documents[:100], 3)
    tracemalloc.start()  # sees numpy's arrays, and a copy would be one
    found = nearest(documents[:5], documents, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    same(found, expected)
    assert found[0][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert peak < 8e6


def test_memory_stays_bounded():
    code = """
import resource
import sys
import numpy as np
from hr_search.nearest import nearest

documents = np.random.default_rng(0).standard_normal((200_000, 64), dtype=np.float32)
nearest(documents[:500], documents[:6000], 50)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nearest(documents[:500], documents, 50)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    grown = done.stdout
    # All scores at once are 400 MB, a copy of the documents is 51 MB.
    assert int(grown) * (1 if sys.platform == "darwin" else 1024) < 45e6


# Pairs of rows


def test_pair_scores():
    scores = pair_scores(np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), np.array([[5, 0], [-3, 0], [1, 1]]))
    assert scores.dtype == np.float32
    assert scores.tolist() == [1, np.float32(-0.707107), 0]


def test_pair_scores_are_those_of_the_search():
    queries, documents = noise(300), noise(50, seed=1)
    indices, scores = nearest(queries, documents, 3)
    assert np.abs(pair_scores(queries, documents[indices[:, 2]]) - scores[:, 2]).max() < 1.1e-6


# Mistakes


def broken(value: float) -> np.ndarray:
    vectors = noise(5000, 4)
    vectors[4500, 2] = value
    return vectors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((noise(3)[0], noise(4), 1), r"query embeddings are an array of shape \(16,\)"),
        ((noise(3), np.array([["a"]]), 1), "document embeddings are an array of shape .* and type <U1"),
        ((noise(0), noise(4), 1), r"query embeddings are an array of shape \(0, 16\)"),
        ((noise(3, 8), noise(4), 1), "query embeddings have 8 dimensions and document embeddings 16"),
        ((noise(3), noise(4), 0), "k is 0; with 4 documents it must be from 1 to 4"),
        ((noise(3), noise(4), 5), "k is 5; with 4 documents it must be from 1 to 4"),
        ((broken(np.nan), noise(4, 4), 1), "query embeddings: row 4501 holds NaN or infinity"),
        ((noise(3, 4), broken(np.inf), 1), "document embeddings: row 4501 holds NaN or infinity"),
        ((noise(3, 4), broken(1).astype(np.float64) * 1e300, 1), "document embeddings: row 1 holds NaN or infinity"),
        ((noise(3), noise(4), 1, sparse.csr_array((4, 3))), r"have shape \(4, 3\); .* of shape \(3, 4\)"),
        ((noise(3), noise(4), 1, np.zeros((3, 4))), r"excluded pairs have shape \(3, 4\); they must be a sparse array"),
        ((noise(3), noise(4), 1, [1]), "excluded pairs have shape None"),
        ((noise(3), noise(4), 1, None, (0, -1)), r"chunk is \(0, -1\)"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(InputError, match=message):
        nearest_chunks(*arguments)  # already the call, before any chunk is asked for


def test_mistakes_of_pairs():
    with pytest.raises(InputError, match="do not pair up"):
        pair_scores(noise(3), noise(4))
    with pytest.raises(InputError, match="row 4501 holds NaN"):
        pair_scores(broken(1), broken(np.nan))
