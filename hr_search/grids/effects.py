"""Effects: what each arm of a grid reached, how it differs from a baseline, and what it cost.

An arm is a combination of the settings that vary, over all its seeds. The test rows follow from `splitseed`, not from
the seed, so differences are taken query by query within a seed:

- The value of an arm is the mean over its seeds of the mean over the seed's test queries.
- Its difference from the baseline is the same mean of the paired differences, over the seeds that both have.
- The 95 % interval treats seeds and groups of queries as samples (see `evaluation.crossed`). With one seed it says
  nothing about how seeds differ, so a grid should have three.
- p comes from the paired randomisation test of `significance.paired_comparison`: the signs of the queries'
  differences, averaged over the seeds, are flipped at random, group by group, and p is the share of flips,
  (extreme + 1) / (flips + 1), that are at least as far from zero. It asks whether the groups agree; whether the seeds
  do is in the interval. `p_holm` is corrected over the arms (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import paths
from hr_search.base.choices import DIRECTIONS, METRICS
from hr_search.base.errors import InputError, suggestion
from hr_search.evaluation import comparison
from hr_search.evaluation.crossed import crossed_interval, crossed_mean, crossed_sums
from hr_search.evaluation.significance import holm, paired_comparison, verdict
from hr_search.grids.arms import check_same_data, direction_of
from hr_search.runs.folders import Run

_COMPARED = ("difference", "low", "high", "p", "p_holm", "effect")


def effect_table(
    cells: pd.DataFrame, direction: str = "", metric: str = "mrr", baseline: str = "", seed: int = 0
) -> pd.DataFrame:
    """Every arm with its value, its difference from the baseline arm, whether that is real, and its cost.

    The module's docstring says how interval and test are made.

    Args:
        cells: from `arm_table`.
        direction: "q2d" or "d2q"; empty = `direction_of` the cells.
        metric: one of `choices.METRICS`.
        baseline: name of the arm to compare with; empty = the first.
        seed: of bootstrap and test.

    Returns:
        One row per arm, best first: arm, the settings that vary, seeds, value, value_low, value_high, difference, low,
        high, p, p_holm, effect (in standard deviations over queries), rows (of one run), seconds (of one run), budget
        ("same", or how many rows the arm saw against the baseline's), verdict, base (the value before training, or
        with stage = search of the plain cosine), best_step (mean over the seeds of the step that was kept; 0 where no
        trained model did better in validation), direction, metric and command (of the first seed). The baseline has no
        difference, nor has an arm that shares no seed with it.

    Raises:
        InputError: no such metric, direction or arm, or runs on different data.
    """
    arms = {name: cells[cells["arm"] == name] for name in cells["arm"].unique()}
    direction, baseline = direction or direction_of(cells), baseline or next(iter(arms))
    for what, given, valid in (
        ("direction", direction, DIRECTIONS),
        ("metric", metric, METRICS),
        ("arm", baseline, arms),
    ):
        if given not in valid:
            raise InputError(f'there is no {what} "{given}"; {suggestion(given, valid)}')
    check_same_data(cells)
    scores = {run: _scores(run, "trained", direction, metric) for run in cells["run"]}
    groups = {query: group for run in cells["run"] for query, group in _groups(run, direction)}
    tests = _tests(scores, arms, baseline, seed, groups)
    settings, usual = list(cells.columns[1 : cells.columns.get_loc("seed")]), arms[baseline]["rows"].mean()
    rows = []
    for name, part in arms.items():
        seen = part["rows"].mean()
        rows.append(
            {
                "arm": name,
                **part.iloc[0][settings],
                "seeds": len(part),
                **_value([scores[run] for run in part["run"]], seed, groups),
                **dict.fromkeys(_COMPARED, np.nan),
                **tests.get(name, {}),
                "rows": seen,
                "seconds": part["seconds"].mean(),
                "budget": "same" if seen == usual else f"{seen:,.0f} rows against {usual:,.0f}",
                "verdict": _sentence(name, baseline, tests, metric),
                "base": np.mean([_scores(run, "base", direction, metric).mean() for run in part["run"]]),
                "best_step": part["best_step"].mean(),
                "direction": direction,
                "metric": metric,
                "command": part["command"].iloc[0],
            }
        )
    return pd.DataFrame(rows).sort_values("value", ascending=False, kind="stable", ignore_index=True)


def _scores(runid: str, system: str, direction: str, metric: str) -> pd.Series:
    """The metric of each test query of a run, indexed by query."""
    return comparison.per_query(Run(paths.runs() / runid), system, direction).set_index("query")[metric]


def _groups(runid: str, direction: str) -> Iterator[tuple[str, str]]:
    """The test queries of a run, each with its group."""
    table = comparison.per_query(Run(paths.runs() / runid), "trained", direction)
    return zip(table["query"], table["group"], strict=True)


def _value(scores: list[pd.Series], seed: int, groups: dict[str, str]) -> dict[str, float]:
    """The value of an arm with its interval, from the scores of each seed."""
    sums, counts, queries = crossed_sums(scores)
    low, high = crossed_interval(sums, counts, seed, groups=[groups[query] for query in queries])
    return {"value": crossed_mean(sums, counts), "value_low": low, "value_high": high}


def _tests(
    scores: dict[str, pd.Series], arms: dict[str, pd.DataFrame], baseline: str, seed: int, groups: dict[str, str]
) -> dict[str, dict[str, float]]:
    """The comparison of each arm with the baseline; arms that share no seed with it are left out."""
    runs = {name: dict(zip(part["seed"], part["run"], strict=True)) for name, part in arms.items()}
    pairs = {
        name: [(runs[baseline][each], runs[name][each]) for each in runs[baseline] if each in runs[name]]
        for name in arms
        if name != baseline
    }
    tests = {name: _test(scores, shared, seed, groups) for name, shared in pairs.items() if shared}
    for test, corrected in zip(tests.values(), holm([test["p"] for test in tests.values()]), strict=True):
        test["p_holm"] = corrected
    return tests


def _test(
    scores: dict[str, pd.Series], pairs: list[tuple[str, str]], seed: int, groups: dict[str, str]
) -> dict[str, float]:
    """The comparison of two arms, from the two runs of each seed that they share."""
    for first, second in pairs:
        if not scores[first].index.equals(scores[second].index):
            raise InputError(f"{first} and {second} were tested on different rows; delete one of the two.")
    sums, counts, queries = crossed_sums([scores[second] - scores[first].to_numpy() for first, second in pairs])
    own = [groups[query] for query in queries]
    low, high = crossed_interval(sums, counts, seed, groups=own)
    # A query's share in the difference, scaled so that the mean of the shares is the difference itself.
    shares = (sums / counts.sum(axis=1, keepdims=True)).mean(axis=0) * sums.shape[1]
    return {**paired_comparison(np.zeros(len(shares)), shares, seed, groups=own), "low": low, "high": high}


def _sentence(name: str, baseline: str, tests: dict[str, dict[str, float]], metric: str) -> str:
    if name == baseline:
        return "the baseline"
    if name not in tests:
        return f"{name} shares no seed with {baseline}, so the two cannot be compared."
    return verdict(tests[name], metric, baseline, name)


def marginal(table: pd.DataFrame, setting: str) -> pd.DataFrame:
    """What arms reached by the value of one setting, whatever their other settings.

    Args:
        table: from `effect_table`.
        setting: one of the settings that vary.

    Returns:
        One row per value, best mean first: the value, arms, mean, best (value of the best arm), arm (the best one).

    Raises:
        InputError: the setting does not vary.
    """
    known = settings_of(table)
    if setting not in known:
        raise InputError(f'the setting "{setting}" does not vary in this grid; {suggestion(setting, known)}')
    rows: list[dict[str, Any]] = []
    for value, part in table.groupby(setting, sort=False):
        best = part.loc[part["value"].idxmax()]
        reached = {"arms": len(part), "mean": part["value"].mean(), "best": best["value"], "arm": best["arm"]}
        rows.append({setting: value, **reached})
    return pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def settings_of(table: pd.DataFrame) -> list[str]:
    """The settings that vary in an `effect_table`."""
    return list(table.columns[1 : table.columns.get_loc("seeds")])


def best_sentence(table: pd.DataFrame, metric: str) -> str:
    """The best arm of an `effect_table` in one sentence, with its interval and cost."""
    best, plural = table.iloc[0], "s" if table["seeds"][0] > 1 else ""
    cost = f", {best['seconds']:.0f} s of training per run" if best["rows"] else ""
    return (
        f"best of {len(table)} arms: {best['arm']} with {metric} {best['value']:.3f} [{best['value_low']:.3f}, "
        f"{best['value_high']:.3f}] over {best['seeds']} seed{plural}{cost}; "
        "picking the best of several arms makes its value optimistic."
    )
