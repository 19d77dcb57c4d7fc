"""Reading finished runs: leaderboard, differences between systems and runs, queries won and lost."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from hr_search.base.choices import DIRECTIONS, METRICS
from hr_search.base.errors import InputError, suggestion
from hr_search.base.text import SHORT, shortened
from hr_search.evaluation.significance import holm, paired_comparison, verdict
from hr_search.runs.folders import Run, list_runs, open_run
from hr_search.settings import FIELDS

# Settings that decide which rows are tested, what their texts are and which documents count as right.
_SPLITTING = (
    *("datapath", "testpath", "querycolumn", "positivecolumn", "groupcolumn", "template", "documenttemplate"),
    *("redact", "keephtml", "identity", "encoding", "relevantfrom", "stream", "allowleaks"),
    *("validationpath", "validationshare", "testshare", "splitseed"),
)


def leaderboard(runs: Sequence[Run] | None = None, direction: str = "q2d", metric: str = "mrr") -> pd.DataFrame:
    """All finished runs with the value of each of their systems, best trained model first.

    Returns:
        run, data, fingerprint, rows, steps, minutes, and a column for each system.

    Raises:
        InputError: no such direction or metric.
    """
    _check_names(direction, metric)
    rows = []
    for run in list_runs() if runs is None else runs:
        summary, data = run.summary, run.summary["data"]
        row = {
            "run": run.id,
            "data": data["name"],
            "fingerprint": data["fingerprint"],
            "rows": data["train"],
            "steps": summary["steps"],
            "minutes": summary["training_seconds"] / 60,
        }
        rows.append(row | {name: tables[direction][metric][0] for name, tables in summary["metrics"].items()})
    columns = ["run", "data", "fingerprint", "rows", "steps", "minutes", "trained", "base", "bm25", "tfidf"]
    return pd.DataFrame(rows).reindex(columns=columns).sort_values("trained", ascending=False, ignore_index=True)


def per_query(run: Run, system: str, direction: str) -> pd.DataFrame:
    """The results of one system of a run, a row per test query, in the order of the test.

    Raises:
        InputError: the run has no such system or direction.
    """
    table = run.table("queries")
    table = table[(table["system"] == system) & (table["direction"] == direction)]
    if table.empty:
        raise InputError(f"the run {run.id} has no results of {system} in direction {direction}.")
    return table.reset_index(drop=True)


def documents(run: Run, direction: str) -> pd.DataFrame:
    """The documents searched in one direction: index, text and, in newer runs, length (in words)."""
    table = run.table("documents")
    return table[table["direction"] == direction].reset_index(drop=True)


def cosines(run: Run, direction: str) -> pd.DataFrame:
    """The sample of cosines of one direction that a run kept, as in `scores.csv`.

    Runs of a second stage once kept its scores there, too; they are left out, since they are no cosines.
    """
    table = run.table("scores")
    table = table[table["direction"] == direction]
    return table[table["system"] != "trained"] if run.config.get("stage") == "rerank" else table


def compare_runs(runs: Sequence[Run], direction: str = "q2d", metric: str = "mrr", seed: int = 0) -> pd.DataFrame:
    """Each run against the first, query by query: whether the difference between them is real.

    Args:
        runs: two or more finished runs tested on the same rows, among the same documents.
        direction: "q2d" or "d2q".
        metric: one of `choices.METRICS`.
        seed: of the randomisation test and the bootstrap.

    Returns:
        One row per further run: run, against, value, difference, low, high, p, p_holm (over all rows),
        effect, verdict.

    Raises:
        InputError: fewer than two runs, a run twice, runs tested on different rows or among different documents, no
            such direction or metric.
    """
    _check_names(direction, metric)
    if len(runs) < 2:
        raise InputError("a comparison needs two runs or more.")
    names = [run.id for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{twice[0]} is named twice; compare different runs.")
    for run in runs[1:]:
        if obstacle := _obstacle(runs[0], run):
            raise InputError(obstacle)
    tables = [per_query(run, "trained", direction) for run in runs]
    first, groups = tables[0][metric].to_numpy(), tables[0]["group"]
    tests = [paired_comparison(first, table[metric].to_numpy(), seed, groups=groups) for table in tables[1:]]
    rows = []
    for run, table, test, p in zip(runs[1:], tables[1:], tests, holm([test["p"] for test in tests]), strict=True):
        test = {**test, "p_holm": p}
        sentence = verdict(test, metric, runs[0].id, run.id)
        rows.append({"run": run.id, "against": runs[0].id, "value": table[metric].mean(), **test, "verdict": sentence})
    return pd.DataFrame(rows)


def setting_differences(a: Run, b: Run) -> pd.DataFrame:
    """The settings in which two runs differ: setting, and a column for each run."""
    first, second = a.config, b.config
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    rows = [(name, first.get(name), second.get(name)) for name in names]
    return pd.DataFrame(rows, columns=["setting", a.id, b.id])


def find_other(run: Run, otherid: str = "") -> Run | None:
    """The run named `otherid`, or the newest other run tested on the same rows and documents; None where there is none.

    Raises:
        InputError: there is no finished run named `otherid`.
    """
    if otherid:
        return open_run(otherid)
    name = run.summary["data"]["name"]
    for other in list_runs():
        if other.id != run.id and other.summary["data"]["name"] == name and not _obstacle(run, other):
            return other
    return None


def changes(run: Run, direction: str = "q2d", a: str = "base", b: str = "trained") -> pd.DataFrame:
    """Every test query with its rank under two systems and what became of it.

    Returns:
        query, group, a rank for each system, gain (difference of reciprocal ranks), outcome ("won", "lost" or
        "unchanged"), the first document that each system found, and the first expected one.
    """
    before, after = per_query(run, a, direction), per_query(run, b, direction)
    texts = documents(run, direction).set_index("index")["text"]
    gain = after["mrr"] - before["mrr"]
    columns = {
        "query": after["query"],
        "group": after["group"],
        f"rank {a}": before["rank"],
        f"rank {b}": after["rank"],
        "gain": gain,
        "outcome": np.select([gain > 0, gain < 0], ["won", "lost"], "unchanged"),
        f"found {a}": [texts[json.loads(found)[0]] for found in before["found"]],
        f"found {b}": [texts[json.loads(found)[0]] for found in after["found"]],
        "expected": [texts[json.loads(expected)[0]] for expected in after["expected"]],
    }
    return pd.DataFrame(columns)


def outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """How many queries of `changes` won, lost and stayed, and by how much: outcome, queries, share, mean gain."""
    counted = table.groupby("outcome")["gain"].agg(queries="size", mean_gain="mean")
    counted = counted.reindex(["won", "lost", "unchanged"]).fillna({"queries": 0}).astype({"queries": int})
    counted.insert(1, "share", counted["queries"] / len(table))
    return counted.rename(columns={"mean_gain": "mean gain"}).reset_index()


def extremes(table: pd.DataFrame, outcome: str, count: int = 10) -> pd.DataFrame:
    """The queries of `changes` that won, or lost, the most: query, rank ("4 → 1"), and texts cut to 200 characters.

    The texts are the first document that each system found, marked with ✓ where it is right, and the first one
    expected.
    """
    chosen = table[table["outcome"] == outcome]
    chosen = chosen.reindex(chosen["gain"].abs().sort_values(ascending=False, kind="stable").index).head(count)
    before, after = (chosen[name] for name in chosen if name.startswith("rank "))
    texts = chosen[[name for name in chosen if name in ("query", "expected") or name.startswith("found ")]]
    short = texts.apply(shortened)
    for rank in (before, after):
        name = rank.name.replace("rank", "found", 1)
        short[name] = short[name].where(rank > 1, "✓ " + short[name])
    short.insert(1, "rank", before.astype(str) + "\u00a0→\u00a0" + after.astype(str))
    return short.reset_index(drop=True)


def failures(run: Run, direction: str = "q2d", system: str = "trained", count: int = 20) -> pd.DataFrame:
    """The queries whose right document ranks lowest, and what the system found instead.

    Returns:
        rank (of the best right document), query, place and text: first a row for the right document (the first
        one expected), then one for each of the five found, right ones marked with ✓; texts are cut to 200
        characters. Worst first; queries with a right document on rank 1 are not failures.
    """
    table = per_query(run, system, direction)
    texts = shortened(documents(run, direction).set_index("index")["text"])
    worst = table[table["rank"] > 1].sort_values("rank", ascending=False, kind="stable").head(count)
    rows = []
    for row in worst.to_dict("records"):
        found, expected = json.loads(row["found"]), json.loads(row["expected"])
        # Older runs know at most five right documents of a query, and which found one is the best of them all.
        known = [index in expected or place == row["rank"] for place, index in enumerate(found, 1)]
        hits = json.loads(row["hits"]) if "hits" in row else known
        shown = [("right", expected[0], 1), *zip(map(str, range(1, 6)), found, hits, strict=False)]
        query = row["query"][:SHORT]
        rows += [(row["rank"], query, place, "✓ " * int(hit) + texts[index]) for place, index, hit in shown]
    return pd.DataFrame(rows, columns=["rank", "query", "place", "text"])


def with_intervals(metrics: pd.DataFrame, direction: str) -> pd.DataFrame:
    """A metrics table for reading: systems by metrics, `value [low, high]` in each cell."""
    part = metrics[metrics["direction"] == direction]
    part = part.assign(cell=[f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in part.itertuples()])
    wide = part.pivot(index="system", columns="metric", values="cell")
    known = dict.fromkeys(["bm25", "tfidf", "base", "trained", *part["system"]])  # others as they come
    order = [name for name in known if name in wide.index]
    return wide.loc[order, [name for name in METRICS if name in wide.columns]]


def _check_names(direction: str, metric: str) -> None:
    for what, name, valid in (("direction", direction, DIRECTIONS), ("metric", metric, METRICS)):
        if name not in valid:
            raise InputError(f'there is no {what} "{name}"; {suggestion(name, valid)}')


def _obstacle(a: Run, b: Run) -> str:
    """Why two runs cannot be compared; empty where they can."""
    first, second = (run.summary["data"] for run in (a, b))
    if first["name"] != second["name"]:
        return f"{a.id} was tested on {first['name']} and {b.id} on {second['name']}; compare runs on the same data."
    untested = [run.id for run in (a, b) if not run.has("queries")]
    if untested:
        have = "has" if len(untested) == 1 else "have"
        return f"{' and '.join(untested)} {have} no test results; train with a test file or a testshare above 0."
    tables = [run.table("queries").query("system == 'trained'") for run in (a, b)]
    for direction in DIRECTIONS:
        columns = ["query", "relevant", "expected"]
        x, y = (table.loc[table["direction"] == direction, columns].to_numpy(dtype=object) for table in tables)
        if len(x) != len(y):
            return f"{a.id} was tested on {len(x):,} {direction} queries and {b.id} on {len(y):,}; {_advice(a, b)}"
        unlike = np.flatnonzero((x != y).any(axis=1))
        if unlike.size:
            where = f"{direction} query {unlike[0] + 1} is {_contrast(x[unlike[0]], y[unlike[0]])}"
            return f"{a.id} and {b.id} were tested on different rows: {where}; {_advice(a, b)}"
    unlike = _other_documents(a, b)
    return f"{unlike}; {_advice(a, b)}" if unlike else ""


def _other_documents(a: Run, b: Run) -> str:
    """How the documents searched by two runs differ; empty where they are the same.

    Equal queries with equal right documents do not show it: a collection of judged documents may have got more wrong
    ones, and a search among more is harder.
    """
    paths = [run.folder / "documents.csv" for run in (a, b)]
    if not all(path.is_file() for path in paths) or filecmp.cmp(*paths, shallow=False):  # equal files need no reading
        return ""
    for direction in DIRECTIONS:
        x, y = (documents(run, direction)[["index", "text"]].to_numpy(dtype=object) for run in (a, b))
        if len(x) != len(y):
            return f"{a.id} searched {len(x):,} {direction} documents and {b.id} {len(y):,}"
        unlike = np.flatnonzero((x != y).any(axis=1))
        if unlike.size:
            first, second = (" ".join(texts[unlike[0]][1].split())[:60] for texts in (x, y))
            where = f'{direction} document {unlike[0] + 1} is "{first}" in the first and "{second}" in the second'
            return f"{a.id} and {b.id} searched different documents: {where}"
    return ""


def _contrast(x: np.ndarray, y: np.ndarray) -> str:
    """How one test row of two runs, (query, relevant, expected) each, differs."""
    a, b = (" ".join(query.split())[:60] for query in (x[0], y[0]))
    if x[0] == y[0]:
        return f'"{a}" in both, with different right documents'
    return f'"{a}" in the first and "{b}" in the second'


def _advice(a: Run, b: Run) -> str:
    """Which settings may have given two runs different test rows, and what to do."""
    usual = {name: FIELDS[name].default for name in _SPLITTING}  # of settings that a run is older than
    # Before there was a splitseed, the seed split the data.
    first, second = ({**usual, "splitseed": run.config.get("seed"), **run.config} for run in (a, b))
    names = [name for name in _SPLITTING if first[name] != second[name]]
    reasons = [f"{name} ({first[name]!r} and {second[name]!r})" for name in names]
    cause = f"they differ in {', '.join(reasons)}" if reasons else "their data changed in between"
    return f"{cause}; give both the same data, shares and splitseed."
