"""Ablations: what the arms of a grid reached, how much each differs from a baseline, and what it cost.

An arm is a combination of the settings that vary, whatever its seeds. Seeds and queries are both samples: another
seed would order and sample differently, other users would ask other queries. The test rows are those of `splitseed`,
whatever the seed. Differences are taken within a seed, and intervals draw seeds and queries anew:

- The value of an arm is the mean over its seeds of the mean over the seed's test queries.
- Its difference from the baseline is the same mean of the differences query by query, over the seeds both have.
- The 95 % interval is a bootstrap over both factors (pigeonhole bootstrap, Owen 2007, Annals of Applied Statistics 1):
  each of the samples draws seeds and, independently, queries with replacement; a query keeps the seeds it was tested
  in together. In simulations with three seeds it holds the true value in 92 to 98 % of cases. With one seed it knows
  nothing of how seeds differ, which is why grids should have three.
- p is from the paired randomisation test of `statistics.paired_comparison`: the signs of the queries' differences,
  averaged over the seeds, are flipped at random, and (extreme + 1) / (flips + 1) of them are as far from zero. It asks
  whether the queries agree; whether the seeds do is in the interval. `p_holm` is corrected over the arms (Holm 1979).
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base import paths
from hr_search.base.choices import DIRECTIONS, METRICS
from hr_search.base.errors import InputError, suggestion
from hr_search.evaluation import comparison
from hr_search.evaluation.significance import LEVEL, holm, paired_comparison, verdict
from hr_search.grids import grid_file, runner
from hr_search.runs.folders import Run

log = logging.getLogger(__name__)

NOTEBOOK = "05_ablations"
_BLOCK = 2_000_000  # numbers drawn at a time: 16 MB


def arm_table(name: str) -> pd.DataFrame:
    """The finished cells of a grid.

    Returns:
        One row a cell, arm after arm: arm, the settings that vary, seed, run, rows (seen in training), seconds (of
        training), data, fingerprint, best_step (which was kept) and command (that repeats it).

    Raises:
        InputError: no such grid, nothing finished yet, or a run that is gone.
    """
    cells = runner.read_cells(name)
    columns = list(cells.columns)
    varied = [column for column in columns[columns.index("cell") + 1 : columns.index("status")] if column != "seed"]
    # The arms in the order of the file, even where the first cell of one has failed.
    keys = [tuple(cell[setting] for setting in varied) for cell in cells.to_dict("records")]
    cells = cells.iloc[sorted(range(len(keys)), key=lambda place: keys.index(keys[place]))]
    rows = []
    for runid in cells.loc[cells["status"] == "finished", "run"]:
        run = Run(paths.runs() / runid)
        if not (run.folder / "summary.json").is_file():
            raise InputError(f"the run {runid} of the grid {name} is gone; start the grid again.")
        summary, config = run.summary, run.config
        values = {setting: config.get(setting) for setting in varied}
        rows.append({
            "arm": "", **values, "seed": config["seed"], "run": runid,
            "rows": summary["steps"] * config["batchsize"] * run.environment.get("processes", 1),
            "seconds": summary["training_seconds"], "data": summary["data"]["name"],
            "fingerprint": summary["data"]["fingerprint"], "best_step": summary["best_step"],
            "command": without_folders(summary["command"]),
        })  # fmt: skip
    if not rows:
        raise InputError(f"the grid {name} has no finished cell yet; start it, with --retry if its cells failed.")
    table = pd.DataFrame(rows)
    usual = usual_values(table[varied])
    return table.assign(arm=[arm_name({name: row[name] for name in varied}, usual) for row in rows])


def without_folders(command: str) -> str:
    """A command line with the names of files in place of absolute paths, which mean nothing on another machine."""
    return shlex.join(re.sub(r"^(--\w+=)/.*/", r"\1", word) for word in shlex.split(command))


def arm_name(values: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> str:
    """The name of an arm, `loss=infonce, margin=0.3`, without the values that are usual unless all are."""
    words = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    told = {name: word for name, word in words.items() if values[name] != (usual or {}).get(name)}
    return ", ".join(f"{name}={word}" for name, word in (told or words).items()) or "all"


def usual_values(arms: pd.DataFrame) -> dict[str, Any]:
    """The settings that have one value in two thirds of the arms or more, with this value."""
    distinct = arms.drop_duplicates()
    shares = {name: distinct[name].value_counts(normalize=True) for name in distinct}
    return {name: share.index[0] for name, share in shares.items() if share.iloc[0] >= 2 / 3}


def effects(
    cells: pd.DataFrame, direction: str = "", metric: str = "mrr", baseline: str = "", seed: int = 0
) -> pd.DataFrame:
    """Every arm with its value, its difference from the baseline arm, whether that is real, and its cost.

    The module's text says how interval and test are made.

    Args:
        cells: from `arm_table`.
        direction: "q2d" or "d2q"; empty = `direction_of` the cells.
        metric: one of `choices.METRICS`.
        baseline: the arm to compare with, by name; empty = the first.
        seed: of bootstrap and test.

    Returns:
        One row an arm, best first: arm, the settings that vary, seeds, value, value_low, value_high, difference, low,
        high, p, p_holm, effect (in standard deviations over queries), rows (a run), seconds (a run), budget ("same",
        or how many rows the arm saw against the baseline's), verdict, base (the value before training), best_step
        (mean of those kept; 0 where validation liked no trained model better), direction, metric and command (of the
        first seed). The baseline has no difference; nor has an arm that shares no seed with it.

    Raises:
        InputError: no such metric, direction or arm, or runs on different data.
    """
    direction = direction or direction_of(cells)
    for what, given, valid in (("direction", direction, DIRECTIONS), ("metric", metric, METRICS)):
        if given not in valid:
            raise InputError(f'there is no {what} "{given}"; {suggestion(given, valid)}')
    names = list(dict.fromkeys(cells["arm"]))
    if baseline and baseline not in names:
        raise InputError(f'there is no arm "{baseline}"; {suggestion(baseline, names)}')
    baseline = baseline or names[0]
    check_same_data(cells)
    scores, base = ({
        row.run: comparison.per_query(Run(paths.runs() / row.run), system, direction)[["query", metric]]
        for row in cells.itertuples()
    } for system in ("trained", "base"))  # fmt: skip
    of_arm = {name: dict(zip(part["seed"], part["run"], strict=True)) for name, part in cells.groupby("arm")}
    tests = {name: _test(scores, of_arm[baseline], of_arm[name], metric, seed) for name in names if name != baseline}
    tests = {name: test for name, test in tests.items() if test}
    for test, corrected in zip(tests.values(), holm([test["p"] for test in tests.values()]), strict=True):
        test["p_holm"] = corrected
    settings = list(cells.columns[1 : cells.columns.get_loc("seed")])
    usual, rows = cells.loc[cells["arm"] == baseline, "rows"].mean(), []
    for name in names:
        part = cells[cells["arm"] == name]
        sums, counts = _crossed([scores[run].set_index("query")[metric] for run in part["run"]])
        low, high = crossed_interval(sums, counts, seed)
        seen = part["rows"].mean()
        rows.append({
            "arm": name, **part.iloc[0][settings], "seeds": len(part), "value": _mean(sums, counts), "value_low": low,
            "value_high": high,
            **dict.fromkeys(("difference", "low", "high", "p", "p_holm", "effect"), np.nan), **tests.get(name, {}),
            "rows": seen, "seconds": part["seconds"].mean(),
            "budget": "same" if seen == usual else f"{seen:,.0f} rows against {usual:,.0f}",
            "verdict": _sentence(name, baseline, tests, metric),
            "base": np.mean([base[run][metric].mean() for run in part["run"]]), "best_step": part["best_step"].mean(),
            "direction": direction, "metric": metric, "command": part["command"].iloc[0],
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values("value", ascending=False, kind="stable", ignore_index=True)


def direction_of(cells: pd.DataFrame) -> str:
    """The direction by which the first run chose its best model."""
    return Run(paths.runs() / cells["run"].iloc[0]).config["direction"]


def _sentence(name: str, baseline: str, tests: dict[str, dict[str, float]], metric: str) -> str:
    if name == baseline:
        return "the baseline"
    if name not in tests:
        return f"{name} shares no seed with {baseline}, so the two cannot be compared."
    return verdict(tests[name], metric, baseline, name)


def check_same_data(cells: pd.DataFrame) -> None:
    """Refuses arms that were trained or tested on different data under the same seed (and `maxrows`, where it varies).

    Raises:
        InputError: naming two runs.
    """
    for _, part in cells.groupby(["seed", *{"maxrows"}.intersection(cells)]):
        first = part.iloc[0]
        for other in part.itertuples():
            if (other.data, other.fingerprint) != (first["data"], first["fingerprint"]):
                raise InputError(
                    f"{first['run']} and {other.run} have different data ({first['data']} {first['fingerprint']}, "
                    f"{other.data} {other.fingerprint}); compare arms on the same data, shares and splitseed."
                )


def _test(
    scores: dict[str, pd.DataFrame], first: dict[int, str], second: dict[int, str], metric: str, seed: int
) -> dict[str, float]:
    """The comparison of two arms (seed -> run); empty where they share no seed."""
    shared = [each for each in first if each in second]
    if not shared:
        return {}
    tables = [(scores[first[each]], scores[second[each]]) for each in shared]
    for each, (a, b) in zip(shared, tables, strict=True):
        if not a["query"].equals(b["query"]):
            raise InputError(f"{first[each]} and {second[each]} were tested on different rows; delete one of the two.")
    parts = [pd.Series((b[metric] - a[metric]).to_numpy(), a["query"].to_numpy()) for a, b in tables]
    sums, counts = _crossed(parts)
    low, high = crossed_interval(sums, counts, seed)
    # A query's share in the difference, scaled so that their mean is the difference itself.
    shares = (sums / counts.sum(axis=1, keepdims=True)).mean(axis=0) * sums.shape[1]
    return {**paired_comparison(np.zeros(len(shares)), shares, seed), "low": low, "high": high}


def _crossed(parts: Sequence[pd.Series]) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts (S, Q) of the values each of Q distinct queries has under each of S seeds."""
    table = pd.concat(dict(enumerate(parts)), names=["seed", "query"]).groupby(level=[0, 1]).agg(["sum", "count"])
    wide = table.unstack("query", fill_value=0)
    return wide["sum"].to_numpy(dtype=float), wide["count"].to_numpy(dtype=float)


def _mean(sums: np.ndarray, counts: np.ndarray) -> float:
    """The mean over seeds of the mean over each seed's queries."""
    return float((sums.sum(axis=1) / counts.sum(axis=1)).mean())


def crossed_interval(sums: np.ndarray, counts: np.ndarray, seed: int, resamples: int = 4999) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds and queries, both drawn anew (pigeonhole bootstrap, Owen 2007).

    Args:
        sums: (S, Q), the sum of a query's values under a seed; 0 where the seed did not test it.
        counts: (S, Q), how many values that are.
        seed: the same seed and values give the same interval.
        resamples: bootstrap samples drawn.

    Returns:
        Low and high end.
    """
    generator, means = np.random.default_rng(seed), []
    seeds, queries = sums.shape
    step = max(1, _BLOCK // queries)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        of_query = generator.multinomial(queries, np.full(queries, 1 / queries), size)
        of_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size) / seeds
        with np.errstate(invalid="ignore"):  # a seed none of whose queries was drawn
            of_run = (of_query @ sums.T) / (of_query @ counts.T)  # (size, S)
        means.append(np.where(of_seed > 0, of_seed * of_run, 0).sum(axis=1))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


def marginal(table: pd.DataFrame, setting: str) -> pd.DataFrame:
    """What arms reached by the value of one setting, whatever their other settings.

    Args:
        table: from `effects`.
        setting: one of the settings that vary.

    Returns:
        One row a value, best mean first: the value, arms, mean, best (value of the best arm), arm (the best one).

    Raises:
        InputError: the setting does not vary.
    """
    known = settings_of(table)
    if setting not in known:
        raise InputError(f'the setting "{setting}" does not vary in this grid; {suggestion(setting, known)}')
    rows = []
    for value, part in table.groupby(setting, sort=False):
        best = part.loc[part["value"].idxmax()]
        rows.append({setting: value, "arms": len(part), "mean": part["value"].mean(), "best": best["value"],
                     "arm": best["arm"]})  # fmt: skip
    return pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def settings_of(table: pd.DataFrame) -> list[str]:
    """The settings that vary, of a table of `effects`."""
    return list(table.columns[1 : table.columns.get_loc("seeds")])


def best_sentence(table: pd.DataFrame, metric: str) -> str:
    """The best arm of `effects` in one sentence, with its interval and cost."""
    best, plural = table.iloc[0], "s" if table["seeds"][0] > 1 else ""
    return (
        f"best of {len(table)} arms: {best['arm']} with {metric} {best['value']:.3f} [{best['value_low']:.3f}, "
        f"{best['value_high']:.3f}] over {best['seeds']} seed{plural}, {best['seconds']:.0f} s of "
        "training a run; the best of several is flattered by the choice."
    )


def open_or_smoke(name: str = "") -> str:
    """The name of a grid to read: `name`, else the newest with a result, else that of a tiny one, which runs first.

    Raises:
        InputError: there is no grid of that name.
    """
    if name:
        runner.read_cells(name)
        return name
    known = sorted(grid_file.tables("").glob("*/cells.csv"), key=lambda path: path.stat().st_mtime, reverse=True)
    for place in known:
        if (runner.read_cells(place.parent.name)["status"] == "finished").any():
            return place.parent.name
    log.info("no finished grid yet: a tiny one of two cells on the Russian sample makes one")
    tiny = grid_file.read_grid(grid_file.grids() / "smoke.yaml")
    runner.run_grid(tiny, workers=2)
    return tiny.name


def write_page(name: str) -> Path:
    """The page that sums a grid up, `reports/<name>/05_ablations.html`, made by its notebook.

    Raises:
        NotebookFailed: the notebook stopped; its page shows where.
    """
    from hr_search.reports import index, notebooks, pages

    source = paths.notebooks() / f"{NOTEBOOK}.ipynb"
    done = notebooks.run_notebook(source, paths.reports() / name, {"grid": name})
    page = pages.export_html(done, done.with_suffix(".html"), f"grid · {name}", {"All runs": "../index.html"})
    index.write_index()
    return page
