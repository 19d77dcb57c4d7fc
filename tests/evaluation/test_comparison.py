"""Runs and what is read from them, on small folders that the real writers made."""

from __future__ import annotations

import math
import os

import numpy as np
import pandas as pd
import pytest

from hr_search.base import files
from hr_search.base.choices import METRICS
from hr_search.base.errors import InputError
from hr_search.data.tasks import Task
from hr_search.evaluation import comparison, scoring
from hr_search.evaluation.metrics import rank_all
from hr_search.evaluation.significance import bootstrap_interval, holm, paired_comparison
from hr_search.runs import folders
from hr_search.runs.folders import Run
from hr_search.settings import Settings

COUNT = 8
QUERIES = ["NA", "007", "null", "a\rb", 'say "x", y', "ёж", "1e5", "long " * 90]
"""Queries that a careless reader mistakes for gaps, numbers or ends of rows."""
DOCUMENTS = [str(number) for number in range(COUNT)]  # texts all the same
TASKS = {
    name: Task(name, left, right, [np.array([at]) for at in range(COUNT)], [str(at % 3) for at in range(COUNT)])
    for name, left, right in (("q2d", QUERIES, DOCUMENTS), ("d2q", DOCUMENTS, QUERIES))
}


def results(ranks: dict[str, list[int]], tasks: dict[str, Task] = TASKS) -> scoring.Results:
    """Per-query tables of systems that put the right document at the given rank of each query."""
    found = {}
    for system, places in ranks.items():
        scores = np.zeros((COUNT, COUNT))
        for query, place in enumerate(places):
            order = [at for at in range(COUNT) if at != query]
            order.insert(place - 1, query)
            scores[query, order] = -np.arange(COUNT)
        for direction, task in tasks.items():
            found[system, direction] = rank_all(task, lambda start, stop, scores=scores: scores[start:stop])
    return found


BASE = [2, 2, 2, 1, 4, 3, 2, 2]
RANKS = {"bm25": [8] * COUNT, "tfidf": [4] * COUNT, "base": BASE, "trained": [1, 1, 1, 2, 1, 1, 2, 2]}


@pytest.fixture(scope="module")
def tables() -> dict[str, dict[str, pd.DataFrame]]:
    """The tables of three tests: a good model, a perfect one, and the good one on other rows."""
    reordered = {
        name: Task(name, task.queries[::-1], task.documents, task.relevant, task.groups) for name, task in TASKS.items()
    }
    perfect = [1] * COUNT
    kinds = {
        "good": (RANKS, TASKS),
        "perfect": ({"base": BASE, "trained": perfect}, TASKS),
        "other rows": ({"trained": perfect}, reordered),
    }
    made = {}
    for name, (ranks, tasks) in kinds.items():
        found = results(ranks, tasks)
        made[name] = {
            "metrics": scoring.metrics_table(found, 0),
            "queries": scoring.queries_table(found),
            "documents": scoring.documents_table(tasks),
            "comparison": scoring.comparison_table(found, 0),
        }
    return made


@pytest.fixture
def make_run(home, tables):
    """Makes a finished run; each is a minute younger than the one before."""
    made: list[Run] = []

    def make(runid: str, kind: str = "good", data: str = "jobs", **changes) -> Run:
        run = folders.create_run(runid)
        for name, table in tables.get(kind, {}).items():
            run.write(name, table)
        files.write_json(run.folder / "config.json", Settings(**changes).to_dict())
        files.write_json(run.folder / "environment.json", {"commit": "abc"})
        metrics = scoring.nested(tables[kind]["metrics"]) if kind in tables else {}
        summary = {"run_id": runid, "data": {"name": data, "fingerprint": "f" * 16, "train": 100}, "metrics": metrics}
        files.write_json(run.folder / "summary.json", summary | {"steps": 12, "training_seconds": 90.0})
        made.append(run)
        os.utime(run.folder / "summary.json", (len(made) * 60, len(made) * 60))
        return run

    return make


# -- leaderboard ---------------------------------------------------------------------------------


def test_leaderboard_best_first(make_run):
    make_run("a-good")
    make_run("b-perfect", "perfect")
    make_run("c-untested", "none")
    table = comparison.leaderboard()
    assert table["run"].tolist() == ["b-perfect", "a-good", "c-untested"]
    assert list(table) == ["run", "data", "fingerprint", "rows", "steps", "minutes", "trained", "base", "bm25", "tfidf"]
    first = table.set_index("run").loc["a-good"]
    assert first["trained"] == pytest.approx(np.mean([1 / rank for rank in RANKS["trained"]]))
    assert (first["bm25"], first["tfidf"], first["minutes"], first["rows"]) == (0.125, 0.25, 1.5, 100)
    assert table["trained"].isna().tolist() == [False, False, True] and math.isnan(table["bm25"][0])


def test_leaderboard_of_chosen_runs_and_figures(make_run):
    run = make_run("a")
    make_run("b")
    table = comparison.leaderboard([run], "d2q", "pass@1")
    assert table["run"].tolist() == ["a"] and table["trained"][0] == 5 / 8 and table["base"][0] == 1 / 8


def test_leaderboard_without_runs(home):
    assert comparison.leaderboard().empty and "trained" in comparison.leaderboard()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"direction": "q2p"}, 'no direction "q2p"; did you mean "q2d"'),
        ({"metric": "mmr"}, 'no metric "mmr"; did you mean "mrr"'),
    ],
)
def test_unknown_names_are_refused(make_run, names, message):
    both = [make_run("a"), make_run("b")]
    for read in (comparison.leaderboard, comparison.compare_runs):
        with pytest.raises(InputError, match=message):
            read(both, **names)


# -- comparing -----------------------------------------------------------------------------------


def test_queries_of_one_system(make_run):
    run = make_run("a")
    table = comparison.per_query(run, "base", "d2q")
    assert table["query"].tolist() == DOCUMENTS and table["rank"].tolist() == BASE
    assert table.index.tolist() == list(range(8))
    for system, direction in (("e5", "q2d"), ("base", "x")):
        with pytest.raises(InputError, match=f"the run a has no results of {system} in direction {direction}"):
            comparison.per_query(run, system, direction)


def test_comparison_of_runs(make_run):
    chosen = [make_run("good"), make_run("same"), make_run("perfect", "perfect")]
    table = comparison.compare_runs(chosen, "q2d", "mrr", seed=3)
    assert table["run"].tolist() == ["same", "perfect"] and set(table["against"]) == {"good"}
    good, perfect = (np.array([1 / rank for rank in ranks]) for ranks in (RANKS["trained"], [1] * COUNT))
    groups = TASKS["q2d"].groups
    expected = [paired_comparison(good, each, 3, groups=groups) for each in (good, perfect)]
    assert expected[1]["low"] != paired_comparison(good, perfect, 3)["low"]
    for row, test in zip(table.to_dict("records"), expected, strict=True):
        assert {name: row[name] for name in test} == pytest.approx(test)
    assert table["p_holm"].tolist() == holm([test["p"] for test in expected])
    assert table["value"].tolist() == pytest.approx([good.mean(), 1.0]) and table["difference"][0] == 0
    assert table["verdict"][0].startswith("no difference could be shown between same and good in MRR")
    assert "perfect" in table["verdict"][1] and "(Holm)" in table["verdict"][1]


def test_the_tables_of_a_test_draw_and_flip_whole_groups():
    found, groups = results(RANKS), TASKS["d2q"].groups
    base, trained = (np.array([1 / rank for rank in RANKS[name]]) for name in ("base", "trained"))
    row = (
        scoring.metrics_table(found, 5).query("system == 'trained' and direction == 'd2q' and metric == 'mrr'").iloc[0]
    )
    assert (row["low"], row["high"]) == pytest.approx(bootstrap_interval(trained, 5, groups=groups))
    assert (row["low"], row["high"]) != pytest.approx(bootstrap_interval(trained, 5))
    row = scoring.comparison_table(found, 5).query("a == 'base' and direction == 'd2q' and metric == 'mrr'").iloc[0]
    expected = paired_comparison(base, trained, 5, groups=groups)
    assert row[["low", "high", "p"]].tolist() == pytest.approx([expected[name] for name in ("low", "high", "p")])
    assert expected["p"] != paired_comparison(base, trained, 5)["p"]


def test_runs_that_cannot_be_compared(make_run):
    good = make_run("good")
    for others, message in [
        ([], "needs two runs or more"),
        ([make_run("elsewhere", data="vacancies")], "good was tested on jobs and elsewhere on vacancies"),
        (
            [make_run("reordered", "other rows", splitseed=7, seed=9)],
            r"good and reordered were tested on different rows: q2d query 1 is \"NA\" in the first and \"long long .*\" in the "
            r"second; they differ in splitseed \(42 and 7\); give both the same data",
        ),
        ([make_run("same"), make_run("untested", "none")], "untested has no test results; train with a test file"),
        ([make_run("again"), good], "good is named twice"),
    ]:
        with pytest.raises(InputError, match=message):
            comparison.compare_runs([good, *others])


def refuse_changed(make_run, table, change, message):
    """Two runs are neither compared nor found for each other once a table of one of them has changed."""
    good, odd = make_run("good"), make_run("odd")
    odd.write(table, change(odd.table(table)))
    with pytest.raises(InputError, match=message):
        comparison.compare_runs([good, odd])
    assert comparison.find_other(odd) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[t["direction"] == "q2d"], "good was tested on 8 d2q queries and odd on 0; their data changed"),
        (lambda t: t.drop(index=t.index[t["query"] == "007"]), "good was tested on 8 q2d queries and odd on 7"),
        (
            lambda t: t.assign(expected=t["expected"].where(t["query"] != "ёж", "[0]")),
            r"q2d query 6 is \"ёж\" in both, with different right documents; their data changed in between; give both",
        ),
        (lambda t: t.assign(relevant=t["relevant"] + (t["direction"] == "d2q")), r"d2q query 1 is \"0\" in both"),
    ],
)
def test_a_refusal_names_the_difference(make_run, change, message):
    refuse_changed(make_run, "queries", change, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[t["text"] != "7"], "good searched 8 q2d documents and odd 7; their data changed in between"),
        (
            lambda t: t.assign(text=t["text"].where((t["direction"] == "q2d") | (t["text"] != "007"), "008")),
            r"good and odd searched different documents: d2q document 2 is \"007\" in the first and \"008\" in the "
            r"second; their data changed in between",
        ),
    ],
)
def test_runs_that_searched_other_documents_are_refused(make_run, change, message):
    refuse_changed(make_run, "documents", change, message)


def test_documents_may_differ_in_what_a_search_does_not_see(make_run):
    good, older = make_run("good"), make_run("older")
    older.write("documents", older.table("documents").drop(columns="length"))  # runs had none once
    assert comparison.find_other(older) == good


def test_a_refusal_names_settings_of_reading_and_judging(make_run):
    good, odd = make_run("good"), make_run("odd", "other rows", relevantfrom=2.0, keephtml=True)
    config = good.config
    del config["stream"]  # a run from before there was this setting
    files.write_json(good.folder / "config.json", config)
    with pytest.raises(InputError, match=r"they differ in keephtml \(False and True\), relevantfrom \(0.0 and 2.0\);"):
        comparison.compare_runs([good, odd])


def test_the_seed_split_the_data_of_older_runs(make_run):
    good, older = make_run("good"), make_run("older", "other rows", seed=7)
    config = older.config
    del config["splitseed"]
    files.write_json(older.folder / "config.json", config)
    with pytest.raises(InputError, match=r"they differ in splitseed \(42 and 7\)"):
        comparison.compare_runs([good, older])


def test_settings_in_which_runs_differ(make_run):
    first, second = make_run("a", margin=0.1), make_run("b", margin=0.2, datapath="b.csv")
    table = comparison.setting_differences(first, second)
    assert table.to_dict("list") == {"setting": ["datapath", "margin"], "a": ["esco", 0.1], "b": ["b.csv", 0.2]}
    config = first.config
    del config["seed"]
    files.write_json(first.folder / "config.json", {**config, "since_removed": 1})
    table = comparison.setting_differences(first, second).set_index("setting")
    assert table.index.tolist() == ["datapath", "margin", "since_removed", "seed"]
    assert table.loc["since_removed", "a"] == 1 and table.loc["seed", "b"] == 42
    assert comparison.setting_differences(second, make_run("c", margin=0.2, datapath="b.csv")).empty


def test_the_other_run(make_run):
    oldest, _, _ = make_run("oldest"), make_run("elsewhere", data="vacancies"), make_run("reordered", "other rows")
    run, untested = make_run("run"), make_run("untested", "none")
    assert comparison.find_other(run) == oldest
    newest = make_run("newest", "perfect")
    assert comparison.find_other(run) == newest and comparison.find_other(newest) == run
    assert comparison.find_other(untested) is None
    assert comparison.find_other(run, "oldest") == oldest
    with pytest.raises(InputError, match='no finished run oldes; did you mean "oldest"'):
        comparison.find_other(run, "oldes")


# -- queries won and lost ------------------------------------------------------------------------


def test_changes(make_run):
    run = make_run("a")
    table = comparison.changes(run)
    assert table["query"].str.slice(0, 300).tolist() == [text[:300] for text in QUERIES]
    assert table["group"].tolist() == TASKS["q2d"].groups
    assert table["rank base"].tolist() == BASE and table["rank trained"].tolist() == RANKS["trained"]
    assert table["outcome"].tolist() == ["won", "won", "won", "lost", "won", "won", "unchanged", "unchanged"]
    assert table["gain"].tolist() == pytest.approx([0.5, 0.5, 0.5, -0.5, 0.75, 2 / 3, 0, 0])
    assert table["expected"].tolist() == DOCUMENTS
    assert table["found trained"].tolist() == ["0", "1", "2", "0", "4", "5", "0", "0"]
    assert table["found base"].tolist() == ["1", "0", "0", "3", "0", "0", "0", "0"]
    back = comparison.changes(run, "d2q", "trained", "bm25")
    assert list(back)[2:4] == ["rank trained", "rank bm25"] and set(back["outcome"]) == {"lost"}
    assert back["expected"].tolist() == [text[:300] for text in QUERIES]
    with pytest.raises(InputError, match="no results of e5"):
        comparison.changes(run, a="e5")


def test_extremes(make_run):
    table = comparison.changes(make_run("a"))
    won = comparison.extremes(table, "won", 3)
    assert won["query"].tolist() == [QUERIES[4], QUERIES[5], QUERIES[0]]  # equal gains stay in the order of the test
    assert list(won) == ["query", "rank", "found base", "found trained", "expected"]
    assert won["rank"].tolist() == ["4\u00a0→\u00a01", "3\u00a0→\u00a01", "2\u00a0→\u00a01"]
    assert won["found base"].tolist() == ["0", "0", "1"]
    assert won["found trained"].tolist() == ["✓ 4", "✓ 5", "✓ 0"] and won["expected"].tolist() == ["4", "5", "0"]
    assert comparison.extremes(table, "lost")["query"].tolist() == [QUERIES[3]]
    unchanged = comparison.extremes(table, "unchanged")["query"].tolist()
    assert unchanged == [QUERIES[6], QUERIES[7][:200]] and len(QUERIES[7]) > 200
    assert comparison.extremes(table[:0], "won").empty


def test_outcomes(make_run):
    table = comparison.outcomes(comparison.changes(make_run("a")))
    assert table["outcome"].tolist() == ["won", "lost", "unchanged"] and table["queries"].tolist() == [5, 1, 2]
    assert table["share"].tolist() == [5 / 8, 1 / 8, 2 / 8]
    assert table["mean gain"].tolist() == pytest.approx([(1.5 + 0.75 + 2 / 3) / 5, -0.5, 0])
    lost = comparison.outcomes(comparison.changes(make_run("b"), "q2d", "trained", "bm25"))
    assert lost["queries"].tolist() == [0, 8, 0] and lost["mean gain"].isna().tolist() == [True, False, True]


def test_failures(make_run):
    run = make_run("a")
    table = comparison.failures(run, "q2d", "base", 2)
    assert list(table) == ["rank", "query", "place", "text"]
    assert table["rank"].tolist() == [4] * 6 + [3] * 6
    assert table["query"].tolist() == [QUERIES[4]] * 6 + [QUERIES[5]] * 6
    assert table["place"].tolist() == ["right", "1", "2", "3", "4", "5"] * 2
    assert table["text"].tolist() == ["✓ 4", "0", "1", "2", "✓ 4", "3", "✓ 5", "0", "1", "✓ 5", "2", "3"]
    everyone = comparison.failures(run, "q2d", "base")
    assert everyone["query"].nunique() == 7 and QUERIES[3] not in set(everyone["query"])  # right at once
    assert everyone["query"].str.len().max() == 200
    back = comparison.failures(run, "d2q", "bm25", 3)
    assert back["text"][0] == "✓ NA" and "✓" not in "".join(back.loc[back["place"] != "right", "text"])
    perfect = comparison.failures(make_run("b", "perfect"))
    assert perfect.empty and list(perfect) == list(table)


def test_failures_mark_every_right_document(make_run):
    """Also those that are not among the five expected ones, since a query may have many."""
    every = np.arange(1, COUNT)
    task = Task("q2d", QUERIES[:1], DOCUMENTS, [every], ["a"])
    scores = np.array([[8.0, 1, 2, 3, 4, 5, 7, 6]])
    found = rank_all(task, lambda start, stop: scores[start:stop])
    assert found["hits"].tolist() == ["[0, 1, 1, 1, 1]"]
    run = make_run("a")
    run.write("queries", scoring.queries_table({("trained", "q2d"): found}))
    texts = ["✓ 1", "0", "✓ 6", "✓ 7", "✓ 5", "✓ 4"]
    assert comparison.failures(run)["text"].tolist() == texts
    run.write("queries", run.table("queries").drop(columns="hits"))  # an older run knows the best one at least
    assert comparison.failures(run)["text"].tolist() == ["✓ 1", "0", "✓ 6", "7", "✓ 5", "✓ 4"]


def test_documents_of_a_direction(make_run):
    table = comparison.documents(make_run("a"), "d2q")
    assert table["text"].tolist() == [text[:300] for text in QUERIES] and table.index.tolist() == list(range(8))
    assert table["length"].tolist() == [1, 1, 1, 2, 3, 1, 1, 90]


def test_scores_of_a_second_stage_are_no_cosines(make_run):
    rows = [(name, direction, 0, "best", 0.5) for name in ("base", "trained") for direction in ("q2d", "d2q")]
    table = pd.DataFrame(rows, columns=["system", "direction", "query", "kind", "score"])
    for runid, stage, systems in (("a", "encode", ["base", "trained"]), ("b", "rerank", ["base"])):
        run = make_run(runid, stage=stage)
        run.write("scores", table)
        found = comparison.cosines(run, "d2q")
        assert found["system"].tolist() == systems and set(found["direction"]) == {"d2q"}


def test_metrics_with_intervals(make_run):
    metrics = make_run("a").table("metrics")
    table = comparison.with_intervals(metrics, "q2d")
    assert table.index.tolist() == ["bm25", "tfidf", "base", "trained"] and list(table) == list(METRICS)
    row = metrics[(metrics.system == "trained") & (metrics.direction == "q2d") & (metrics.metric == "mrr")].iloc[0]
    assert table.loc["trained", "mrr"] == f"0.812 [{row.low:.3f}, {row.high:.3f}]" and row.low < 0.8125 < row.high
    assert table.loc["bm25", "pass@1"] == "0.000 [0.000, 0.000]"
    fewer = comparison.with_intervals(metrics[metrics.system != "tfidf"], "q2d")
    assert fewer.index.tolist() == ["bm25", "base", "trained"]


# -- runs ----------------------------------------------------------------------------------------


def test_tables_come_back_as_they_went(make_run, tables):
    run = make_run("a")
    for name in ("queries", "documents"):
        assert (run.table(name)["length"] == tables["good"][name]["length"]).all()
        written, read = tables["good"][name], run.table(name)
        for column in set(written) & {"query", "group", "text", "found", "expected"}:
            assert read[column].tolist() == written[column].tolist()
    pd.testing.assert_frame_equal(run.table("metrics"), tables["good"]["metrics"], rtol=1e-8, check_dtype=False)
    run.write("history", pd.DataFrame({"step": [0, 5], "loss": [math.nan, 0.25]}))
    assert run.table("history")["loss"].isna().tolist() == [True, False]
    assert run.environment == {"commit": "abc"} and run.config["margin"] == 0.3
