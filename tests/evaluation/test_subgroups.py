"""Parts of test queries: cut evenly, named by their range, and compared with paired intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hr_search.base.errors import InputError
from hr_search.data.tasks import Task
from hr_search.evaluation import scoring, subgroups
from hr_search.evaluation.metrics import rank_all
from hr_search.evaluation.significance import bootstrap_interval

TITLES = ["Welder", "Night nurse", "Пекарь", "Водитель такси ночью"]
TEXTS = ["joins metal", "seam " * 100, "gives medicine", "печёт хлеб", "возит людей по городу", "ещё"]
RIGHT = [[0, 1], [2], [3], [4, 5]]
TASKS = {
    "q2d": Task("q2d", TITLES, TEXTS, [np.array(each) for each in RIGHT], list("abcd")),
    "d2q": Task("d2q", TEXTS, TITLES, [np.array([at]) for at in (0, 0, 1, 2, 3, 3)], list("aabcdd")),
}


def tables(direction: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Queries and documents of a direction, as a run writes and reads them."""
    shape = len(TASKS[direction].queries), len(TASKS[direction].documents)
    results = {("trained", direction): rank_all(TASKS[direction], lambda start, stop: np.eye(*shape)[start:stop])}
    train = pd.DataFrame({"query": ["WELDER!", "welder", "baker", "пекарь"]})
    queries = scoring.queries_table(results, scoring.seen_titles(train, TASKS))
    documents = scoring.documents_table(TASKS)
    return queries, documents[documents["direction"] == direction].reset_index(drop=True)


# Parts


def test_every_kind_of_part_of_titles():
    labels = subgroups.parts(*tables("q2d"))
    assert list(labels) == ["query length", "document length", "language", "right documents", "title"]
    assert labels["query length"].tolist() == ["1", "2", "1", "3"]
    # medians of 2 and 100, 2, 2, and of 4 and 1
    assert labels["document length"].tolist() == ["51", "2", "2", "2"]
    assert labels["language"].tolist() == ["Latin", "Latin", "Cyrillic", "Cyrillic"]
    assert labels["right documents"].tolist() == ["2", "1", "1", "2"]
    assert labels["title"].tolist() == ["seen in train", "not in train", "seen in train", "not in train"]
    assert all(column.cat.ordered for _, column in labels.items())
    assert labels["title"].cat.categories.tolist() == ["seen in train", "not in train"]


def test_parts_of_descriptions_count_whole_texts_and_know_their_titles():
    queries, documents = tables("d2q")
    assert queries["query"].str.len().max() == 300 and queries["length"].tolist() == [2, 100, 2, 2, 4, 1]
    labels = subgroups.parts(queries, documents)
    assert labels["query length"].tolist() == ["1–2", "4–100", "1–2", "1–2", "4–100", "1–2"]
    assert labels["title"].tolist() == ["seen in train"] * 2 + ["not in train", "seen in train"] + ["not in train"] * 2
    assert labels["document length"].tolist() == ["1", "1", "2", "1", "3", "3"]


def test_runs_of_older_versions_lack_what_they_did_not_record():
    queries, documents = tables("q2d")
    queries, documents = queries.drop(columns=["length", "seen"]), documents.drop(columns="length")
    assert list(subgroups.parts(queries, documents)) == ["query length", "language", "right documents"]
    queries, documents = (table.drop(columns="length") for table in tables("d2q"))
    labels = subgroups.parts(queries, documents)
    assert list(labels) == ["document length", "language", "right documents", "title"]
    assert labels["document length"].tolist() == ["1", "1", "2", "1", "3", "3"]


def test_a_language_that_is_known_counts_before_the_script():
    queries, documents = tables("q2d")
    labels = subgroups.parts(queries.assign(language=["en", "de", "", "ru"]), documents)
    assert labels["language"].tolist() == ["en", "de", "Cyrillic", "ru"]


def test_even_parts():
    parts = subgroups.even_parts(range(1, 101))
    assert parts.categories.tolist() == ["1–25", "26–50", "51–75", "76–100"]
    assert pd.Series(parts).value_counts().tolist() == [25] * 4
    assert subgroups.even_parts([7, 7, 7]).categories.tolist() == ["7"]
    assert subgroups.even_parts([1] * 90 + [1500]).categories.tolist() == ["1", "1,500"]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 9))
@settings(deadline=None, derandomize=True)
def test_parts_keep_the_order_and_equal_numbers_together(values, count):
    codes = subgroups.quantile_codes(np.array(values), count)
    assert len(codes) == len(values) and set(codes) == set(range(codes.max() + 1)) and codes.max() < count
    for code in range(codes.max()):
        assert np.array(values)[codes == code].max() < np.array(values)[codes == code + 1].min()


# Comparing


def test_each_part_is_compared_with_paired_intervals():
    random = np.random.default_rng(0)
    base = random.random(60)
    trained = base + np.repeat([0.3, 0.0, -0.1], 20) + random.normal(0, 0.01, 60)
    kind = pd.Categorical(np.repeat(["x", "y", "z"], 20), ["z", "x", "y"], ordered=True)
    labels = pd.DataFrame({"kind": kind, "size": pd.Categorical(["1"] * 55 + ["2"] * 5, ordered=True)})
    table = subgroups.compare_parts(labels, base, trained, seed=3)
    assert list(table) == ["by", "part", "queries", "system", "value", "low", "high"]
    parts = table.drop_duplicates(["by", "part"])
    assert parts["by"].tolist() == ["all", "kind", "kind", "kind", "size", "size"]
    assert parts["part"].tolist() == ["all", "z", "x", "y", "1", "2"]
    assert parts["queries"].tolist() == [60, 20, 20, 20, 55, 5]
    wide = table.set_index(["by", "part", "system"])
    assert wide.loc[("all", "all", "base"), "value"] == pytest.approx(base.mean())
    assert wide.loc[("kind", "x", "trained"), "value"] == pytest.approx(trained[:20].mean())
    row = wide.loc[("kind", "z", "difference")]
    assert row["value"] == pytest.approx((trained - base)[40:].mean())
    assert (row["low"], row["high"]) == bootstrap_interval((trained - base)[40:], 3, 2000)
    unpaired = wide.loc[("kind", "z", "base")]
    # pairing removes the spread between queries from the difference
    assert row["high"] - row["low"] < 0.02 < unpaired["high"] - unpaired["low"]
    assert wide.loc[("size", "2", "base"), ["low", "high"]].isna().all()
    pd.testing.assert_frame_equal(table, subgroups.compare_parts(labels, base, trained, seed=3))


def test_parts_of_few_groups_have_no_interval():
    random, groups = np.random.default_rng(0), np.repeat(np.arange(21), 4)
    base, trained = random.random((2, 84))
    labels = pd.DataFrame({"kind": pd.Categorical(["many"] * 48 + ["few"] * 36, ["many", "few"])})
    wide = subgroups.compare_parts(labels, base, trained, 3, groups).set_index(["part", "system"])
    assert wide.loc[("few", "base"), ["low", "high"]].isna().all()
    expected = bootstrap_interval(trained[:48], 3, 2000, groups[:48])
    assert tuple(wide.loc[("many", "trained"), ["low", "high"]]) == expected


def test_parts_need_a_value_for_each_query():
    labels = pd.DataFrame({"kind": pd.Categorical(["x"] * 3)})
    with pytest.raises(InputError, match="there are 3 and 2 values for 3 queries"):
        subgroups.compare_parts(labels, [1, 0, 1], [1, 0])


def test_a_table_to_read():
    labels = pd.DataFrame({"kind": pd.Categorical(["y"] * 12 + ["x"], ["y", "x"])})
    table = subgroups.readable(subgroups.compare_parts(labels, [0.5] * 13, [0.75] * 13))
    assert list(table) == ["by", "part", "queries", "base", "trained", "difference"]
    assert table["part"].tolist() == ["all", "y", "x"]
    assert table["trained"].tolist() == ["0.750 [0.750, 0.750]"] * 2 + ["0.750"]
    assert table["difference"].tolist()[-1] == "0.250"
