"""Hard negatives by hand, by brute force and against sentence-transformers; tables to read."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from scipy import sparse
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives

from hr_search import mining
from hr_search.base.errors import InputError
from hr_search.encoder import load_encoder
from hr_search.evaluation import hard_negatives
from hr_search.evaluation.hard_negatives import examples
from hr_search.mining import Mined, MiningPolicy, statistics
from hr_search.runs.ledgers import append_rows

QUERY = np.array([[1.0, 0.0]])


def mine(queries, documents, positives, own, *, seed=0, device=None, **policy) -> Mined:
    """`mining.mine` with a policy of these values."""
    return mining.mine(queries, documents, positives, own, MiningPolicy(**policy), seed, device)


def mine_texts(encode, queries, documents, positives=None, own=None, **policy) -> Mined:
    """`hard_negatives.mine_texts` with a policy of these values."""
    return hard_negatives.mine_texts(encode, queries, documents, positives, own, MiningPolicy(**policy))


def at(*cosines: float) -> np.ndarray:
    """Documents with these cosines to QUERY."""
    return np.array([[cosine, np.sqrt(1 - cosine**2)] for cosine in cosines])


def relevant(*rows: list[int], documents: int) -> sparse.csr_array:
    """The documents relevant to each query."""
    dense = np.zeros((len(rows), documents), bool)
    for row, indices in enumerate(rows):
        dense[row, indices] = True
    return sparse.csr_array(dense)


def noise(rows: int, seed: int = 0, dimension: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)


def grouped(queries: int, documents: int, groups: int, seed: int = 0) -> tuple[sparse.csr_array, np.ndarray]:
    """Relevance by random groups, and the own positive of each query, one of its group."""
    generator = np.random.default_rng(seed)
    group = np.concatenate([np.arange(groups), generator.integers(0, groups, documents - groups)])
    wanted = generator.integers(0, groups, queries)
    return sparse.csr_array(wanted[:, None] == group), np.array([np.argmax(group == one) for one in wanted])


# The filters


def test_relevant_documents_are_taken_out():
    documents = at(0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    mined = mine(QUERY, documents, relevant([0, 2], documents=6), np.array([0]), count=3, share=0)
    assert mined.negatives.tolist() == [[1, 3, 4]]
    assert mined.scores[0] == pytest.approx([0.8, 0.6, 0.5])
    assert mined.own_scores == pytest.approx([0.9])
    assert (mined.candidates.tolist(), mined.suspects.tolist()) == ([4], [0])
    assert mined.negatives.dtype == np.int64 and mined.scores.dtype == np.float32


def test_the_own_positive_is_never_a_negative():
    mined = mine(QUERY, at(0.9, 0.8, 0.7), sparse.csr_array((1, 3)), np.array([0]), count=2, share=0)
    assert mined.negatives.tolist() == [[1, 2]]


def test_stored_zeros_are_no_positives():
    positives = sparse.csr_array((np.array([0]), np.array([1]), np.array([0, 1])), shape=(1, 3))
    assert mine(QUERY, at(0.9, 0.8, 0.7), positives, np.array([0]), count=2).negatives.tolist() == [[1, 2]]


def test_ranks_are_counted_after_exclusion():
    documents = at(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    run = functools.partial(mine, QUERY, documents, relevant([0, 1], documents=7), np.array([0]), share=0)
    assert run(count=2, start=1).negatives.tolist() == [[3, 4]]
    assert run(count=2, start=1, stop=3).negatives.tolist() == [[3, 4]]
    assert run(count=2, start=1, stop=3).candidates.tolist() == [2]
    assert run(count=4, start=3).negatives.tolist() == [[5, 6, -1, -1]]
    assert run(count=4, start=3).scores[0, 2:].tolist() == [-np.inf, -np.inf]


def test_the_default_window_has_a_hundred_ranks_or_what_count_needs():
    documents, own = noise(500, 1), np.array([7])
    run = functools.partial(mine, noise(1), documents, sparse.csr_array((1, 500)), own, share=0)
    assert run().candidates.tolist() == [100]
    assert run(start=95).candidates.tolist() == [10]
    assert run(count=150).candidates.tolist() == [150]


def test_a_band_is_a_window_in_shares_of_the_corpus():
    documents = at(*np.linspace(0.99, 0, 200))  # document i has rank i - 1 once document 0 is out
    run = functools.partial(mine, QUERY, documents, relevant([0], documents=200), np.array([0]), share=0)
    assert run(count=2, band=(0.03, 0.04)).negatives.tolist() == [[7, 8]]
    assert run(count=2, band=(0.03, 0.06)).candidates.tolist() == [6]
    # With a window as well, a rank has to lie in both.
    assert run(count=2, band=(0.03, 0.06), start=8).negatives.tolist() == [[9, 10]]
    assert run(count=2, band=(0.03, 0.06), stop=9).candidates.tolist() == [3]
    # To the end of the corpus, where the excluded document leaves a rank without one.
    assert run(count=3, band=(0.985, 1)).negatives.tolist() == [[198, 199, -1]]


def test_the_share_rule_drops_what_scores_like_the_positive():
    documents = at(0.8, 0.9, 0.78, 0.76, 0.75, 0.1)
    run = functools.partial(mine, QUERY, documents, relevant([0], documents=6), np.array([0]), count=3)
    mined = run(share=0.95)  # at most 0.76
    assert mined.negatives.tolist() == [[3, 4, 5]]
    assert (mined.candidates.tolist(), mined.suspects.tolist()) == ([5], [2])
    assert run(share=0.5).negatives.tolist() == [[5, -1, -1]]
    for off in (0, 1):
        assert run(share=off).negatives.tolist() == [[1, 2, 3]]
        assert run(share=off).suspects.tolist() == [1]  # the one above the positive


def test_the_share_rule_below_zero():
    # 5 % of |-0.4| below it: at most -0.42, where the product -0.38 would let a false negative pass.
    documents = at(-0.4, -0.39, -0.41, -0.43, -0.5)
    mined = mine(QUERY, documents, relevant([0], documents=5), np.array([0]), count=2, share=0.95)
    assert mined.negatives.tolist() == [[3, 4]]
    assert mined.suspects.tolist() == [2]


def test_the_share_rule_does_not_move_the_window_on():
    documents = at(0.5, 0.9, 0.8, 0.7, 0.1)
    mined = mine(QUERY, documents, relevant([0], documents=5), np.array([0]), count=2, stop=3)
    assert mined.negatives.tolist() == [[-1, -1]]
    assert (mined.candidates.tolist(), mined.suspects.tolist()) == ([3], [3])


# Against sentence-transformers


def test_the_negatives_of_sentence_transformers(tiny_model, jobs):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    titles, texts = list(jobs["query"]), list(jobs["positive"])
    theirs = mine_hard_negatives(
        Dataset.from_dict({"query": titles, "positive": texts}),
        model, range_min=2, range_max=9, num_negatives=5, output_format="n-tuple", verbose=False,
    ).to_pandas()  # fmt: skip
    same = jobs["query"].to_numpy()[:, None] == jobs["query"].to_numpy()
    mined = mine_texts(model, titles, texts, sparse.csr_array(same), count=5, start=2, stop=9, share=0)
    expected = [row[2:] for row in theirs.itertuples(index=False)]
    assert theirs[["query", "positive"]].to_numpy().tolist() == [list(pair) for pair in zip(titles, texts, strict=True)]
    assert [tuple(texts[index] for index in row) for row in mined.negatives] == [tuple(row) for row in expected]


# Texts and encoders


class Letters:
    """An encoder that counts letters and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts, side):
        self.asked.append((side, list(texts)))
        return np.array([[text.count(letter) for letter in "abcdef"] for text in texts], dtype=np.float32)


def test_each_distinct_text_is_encoded_once():
    letters = Letters()
    queries = ["ab", "cd", "ab"]
    documents = ["aab", "ccd", "abb", "ccd", "ef", "abc", "cdd"]
    mined = mine_texts(letters, queries, documents, own=np.array([0, 1, 2]), count=2, share=0)
    assert letters.asked == [("query", ["ab", "cd"]), ("document", ["aab", "ccd", "abb", "ef", "abc", "cdd"])]
    # "aab" and "abb" belong to both "ab"; "ccd" comes once and never for "cd", whichever copy is its own.
    found = [[documents[index] for index in row] for row in mined.negatives]
    assert found == [["abc", "ccd"], ["cdd", "abc"], ["abc", "ccd"]]
    swapped = mine_texts(letters, queries, documents, own=np.array([0, 3, 2]), count=2, share=0)
    assert (swapped.negatives == mined.negatives).all()


def test_indices_point_into_the_documents_as_given():
    documents = ["ab", "ab", "ab", "cd", "cd", "ace"]
    mined = mine_texts(Letters(), ["ab"], documents, own=np.array([2]), count=2, share=0)
    assert mined.negatives.tolist() == [[5, 3]]


def test_groups_of_texts_are_excluded_and_padding_stays():
    positives = relevant([1, 2], documents=5)
    documents = ["aab", "abc", "abd", "ef", "abe"]
    mined = mine_texts(Letters(), ["ab"], documents, positives, np.array([0]), count=2, share=0.5)
    assert mined.negatives.tolist() == [[3, -1]]
    assert mined.suspects.tolist() == [1]


def test_our_encoder(tiny_model, jobs):
    encoder = load_encoder(str(tiny_model), device="cpu", precision="fp32")
    titles, texts = list(jobs["query"]), list(jobs["positive"])
    run = functools.partial(mine_texts, queries=titles, documents=texts, count=3)
    assert (run(encoder).negatives == run(encoder.encode).negatives).all()


# Tables


def made() -> Mined:
    """Three queries: two negatives, one, none."""
    return Mined(
        np.array([[4, 2], [0, -1], [-1, -1]]),
        np.array([[0.7, 0.5], [0.3, -np.inf], [-np.inf, -np.inf]], dtype=np.float32),
        np.array([0.8, 0.2, 0.5], dtype=np.float32),
        np.array([10, 5, 5]),
        np.array([1, 4, 5]),
    )


def test_statistics_by_hand():
    row = statistics(made()).iloc[0].to_dict()
    gaps = [0.1, 0.3, -0.1]
    assert row == {
        "queries": 3, "count": 2, "negatives_mean": 1, "negatives_min": 0, "without": 1,
        "positive_mean": pytest.approx(0.5), "negative_mean": pytest.approx(0.5), "gap_mean": pytest.approx(0.1),
        "gap_05": pytest.approx(np.quantile(gaps, 0.05)), "gap_50": pytest.approx(0.1),
        "gap_95": pytest.approx(np.quantile(gaps, 0.95)), "suspected": 0.5,
    }  # fmt: skip


def test_statistics_of_nothing():
    documents = at(0.5, 0.9, 0.8)
    table = statistics(mine(QUERY, documents, relevant([0], documents=3), np.array([0]), count=2))
    assert table["without"].item() == 1 and table["suspected"].item() == 1
    assert table[["negative_mean", "gap_mean", "gap_05", "gap_50", "gap_95"]].isna().all(axis=None)


def test_statistics_grow_row_by_row_in_a_file(tmp_path):
    for _ in range(2):
        append_rows(tmp_path / "mining.csv", statistics(made()))
    table = pd.read_csv(tmp_path / "mining.csv")
    assert len(table) == 2 and list(table) == list(statistics(made()))


def test_examples_to_read():
    texts = [f"document {number}" for number in range(5)]
    table = examples(["a", "b", "c"], texts, made(), np.array([1, 1, 3]))
    assert table.drop(columns=["positive_score", "negative_score"]).to_numpy().tolist() == [
        ["a", "document 1", 1, "document 4"],
        ["a", "document 1", 2, "document 2"],
        ["b", "document 1", 1, "document 0"],
        ["c", "document 3", 0, ""],
    ]
    assert table["positive_score"].tolist() == pytest.approx([0.8, 0.8, 0.2, 0.5])
    assert table["negative_score"].tolist() == pytest.approx([0.7, 0.5, 0.3, np.nan], nan_ok=True)


def test_examples_are_chosen_by_seed():
    positives, own = grouped(40, 100, 10)
    mined = mine(noise(40), noise(100, 1), positives, own, share=0)
    queries, texts = [f"query {i}" for i in range(40)], [f"document {i}" for i in range(100)]
    shown = [set(examples(queries, texts, mined, own, 4, seed)["query"]) for seed in (1, 1, 2)]
    assert shown[0] == shown[1] != shown[2] and len(shown[0]) == 4


# Mistakes

FIT = {"queries": noise(3), "documents": noise(30, 1), "positives": sparse.csr_array((3, 30)), "own": np.arange(3)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": noise(2)}, r"own is an array of shape \(3,\) .* for each of 2 queries"),
        ({"own": np.array([0.0, 1, 2])}, "own is an array of shape .* and type float64"),
        ({"own": np.array([0, 1, 30])}, "own: row 3 is 30; document indices are from 0 to 29"),
        ({"own": np.array([0, -1, 2])}, "own: row 2 is -1"),
        ({"positives": sparse.csr_array((3, 29))}, r"positives have shape \(3, 29\); .* of shape \(3, 30\)"),
        ({"positives": np.zeros((3, 30))}, "they must be a sparse array"),
        ({"positives": None}, "positives have shape None"),
        ({"queries": noise(3, dimension=8)}, "8 dimensions and document embeddings 16"),
        ({"queries": np.full((3, 16), np.nan)}, "query embeddings: row 1 holds NaN"),
        ({"queries": noise(0), "positives": sparse.csr_array((0, 30)), "own": np.arange(0)}, "query embeddings are"),
        ({"count": 0}, "count is 0; it must be at least 1"),
        ({"start": -1}, "the rank window from -1 to 0 does not fit"),
        ({"start": 5, "stop": 5}, "the rank window from 5 to 5 does not fit"),
        ({"stop": 31}, "from 0 to 31 does not fit; .* the number of documents, 30"),
        ({"stop": 9}, "the window holds 9 ranks of 30 documents, fewer than count 10"),
        ({"start": 25}, "the window holds 5 ranks of 30 documents, fewer than count 10"),
        ({"start": 50}, "the window holds 0 ranks"),
        ({"band": (0.03, 0.04)}, "the window holds 0 ranks of 30 documents"),
        ({"band": (0.5, 0.4)}, "the band is 0.5 to 0.4; take two shares"),
        ({"band": (0.5, 1.1)}, "the band is 0.5 to 1.1"),
        ({"band": (0.0, float("nan"))}, "the band is 0 to nan"),
        ({"share": 1.5}, "share is 1.5; it must be from 0 to 1"),
        ({"share": float("nan")}, "share is nan"),
        ({"sampling": "best"}, 'sampling "best" is unknown; valid names: top, random'),
        ({"positives": relevant([1], range(25), [], documents=30)}, "query row 2 has only 5 documents .* count 10"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(InputError, match=message):
        mine(**{**FIT, **changes})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Letters(), ["a"], ["a", "b"]), "there are 1 queries and 2 documents; give each query's own"),
        ((Letters(), ["a"], ["a", "b"], sparse.csr_array((2, 2)), [0]), r"positives have shape \(2, 2\), not \(1, 2\)"),
        ((Letters(), ["a", None], ["a", "b"]), "query row 2 is empty; drop it"),
        ((Letters(), ["a", "b"], ["a", 3]), "document row 2 is not text but 3"),
        ((Letters(), ["a"], ["a", "b"], None, [2]), "own: row 1 is 2"),
        ((lambda texts, side: np.eye(3), ["a"], ["a", "b"], None, [0]), "returned 3 embeddings for 1 query texts"),
    ],
)
def test_mistakes_of_texts(arguments, message):
    with pytest.raises(InputError, match=message):
        mine_texts(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b"], ["d"] * 5, made(), [1, 1]), "2 queries and 5 documents do not fit .* 3 queries"),
        ((["a", "b", "c"], ["d"] * 4, made(), [1, 1, 3]), "3 queries and 4 documents do not fit"),
        ((["a", "b", "c"], ["d"] * 5, made(), [1, 1]), "for each of 3 queries"),
        ((["a", "b", "c"], ["d"] * 5, made(), [1, 1, 3], 0), "count is 0"),
    ],
)
def test_mistakes_of_examples(arguments, message):
    with pytest.raises(InputError, match=message):
        examples(*arguments)
