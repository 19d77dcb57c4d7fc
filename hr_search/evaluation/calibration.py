"""What a cosine is worth: how far apart right and wrong documents score, and above which cosine to trust a search.

Cosines of a contrastive model are not probabilities: what counts as high differs from model to model. A threshold
chosen and judged on the same queries looks better than it is, so the figures here are cross-fitted: each fifth of
the groups is judged with the threshold chosen on the other four.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.stats
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from hr_search.base.errors import InputError
from hr_search.evaluation.significance import FEW, LEVEL
from hr_search.evaluation.subgroups import quantile_codes

GOALS = {"best F1": None, "90 % precision": 0.9}
FOLDS = 5


def histograms(*samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shares of each sample over common bins, as many as suit the smallest sample (Rice's rule, 5 to 40).

    Returns:
        The edges, (B + 1,), and the shares, (S, B).

    Raises:
        InputError: a sample is empty.
    """
    if not all(map(len, samples)):
        raise InputError("one of the samples has no scores; give at least one score of each kind.")
    bins = int(np.clip(2 * min(map(len, samples)) ** (1 / 3), 5, 40))
    edges = np.histogram_bin_edges(np.concatenate(samples), bins)
    return edges, np.array([np.histogram(sample, edges)[0] / len(sample) for sample in samples])


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """The overlap coefficient of two samples: the area that both histograms share; 0 = apart, 1 = alike."""
    return float(histograms(a, b)[1].min(axis=0).sum())


def separation(scores: pd.DataFrame) -> pd.DataFrame:
    """How far the right documents score from the wrong ones, before and after training.

    Args:
        scores: the rows of a run's `scores.csv` of one direction.

    Returns:
        system, against ("random wrong" or "nearest wrong"), right and wrong (mean cosines), overlap, and auc
        (how often a right document scores above a wrong one; ties count half).
    """
    rows = []
    for system, table in scores.groupby("system", sort=False):
        kinds = {kind: part["score"].to_numpy() for kind, part in table.groupby("kind")}
        right = kinds["positive"]
        against = {"random wrong": kinds.get("negative"), "nearest wrong": kinds.get("nearest")}
        for name, wrong in against.items():
            if wrong is not None:
                rows.append((system, name, right.mean(), wrong.mean(), overlap(right, wrong), _auc(right, wrong)))
    return pd.DataFrame(rows, columns=["system", "against", "right", "wrong", "overlap", "auc"])


def first_found(scores: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """The first document found for each query: its cosine, and whether it is right.

    Args:
        scores: the rows of a run's `scores.csv` of one system and direction.
        groups: the groups of all test queries, in the order of `queries.csv`.

    Returns:
        score, right, group; a right document that ties with a wrong one does not come first.

    Raises:
        InputError: there are no scores.
    """
    if scores.empty:
        raise InputError("no cosines of that system are kept: word scores or a second stage order its documents.")
    wide = scores.pivot(index="query", columns="kind", values="score").reindex(columns=["best", "nearest"])
    right = ~(wide["nearest"] >= wide["best"])  # where all documents are right there is no nearest wrong one
    group = groups.iloc[wide.index].to_numpy()
    return pd.DataFrame({"score": wide.max(axis=1), "right": right, "group": group}).reset_index(drop=True)


def acceptance(score: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """What a threshold achieves: the first document found is accepted where its cosine reaches it.

    Args:
        score: (Q,) cosine of the first document found.
        right: (Q,) whether it is right.

    Returns:
        A row for each possible threshold, highest first: threshold, queries (accepted), accepted (share),
        precision (right ones among the accepted), recall (right ones accepted among all queries, each of which
        has a right document), f1.
    """
    score, right = np.asarray(score, dtype=float), np.asarray(right, dtype=bool)
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)  # equal cosines are accepted together
    queries, hits = np.arange(1, len(score) + 1)[last], np.cumsum(right[order])[last]
    columns = {
        "threshold": score[order][last],
        "queries": queries,
        "accepted": queries / len(score),
        "precision": hits / queries,
        "recall": hits / len(score),
        "f1": 2 * hits / (queries + len(score)),
    }
    return pd.DataFrame(columns)


def choose(score: np.ndarray, right: np.ndarray, precision: float | None = None) -> float:
    """The threshold with the best F1, or the lowest one whose precision is high enough; NaN where there is none.

    Args:
        score, right: as for `acceptance`.
        precision: the least precision wanted, over ten accepted queries or more; None = the best F1.
    """
    curve = acceptance(score, right)
    if precision is None:
        return float(curve["threshold"].iloc[curve["f1"].argmax()]) if np.any(right) else np.nan
    good = curve[(curve["precision"] >= precision) & (curve["queries"] >= FEW)]
    return float(good["threshold"].min())


def operating_points(first: pd.DataFrame) -> pd.DataFrame:
    """Thresholds for two goals, and what each achieves on queries that did not help to choose it.

    Args:
        first: what `first_found` returns.

    Returns:
        goal ("best F1" or "90 % precision"), threshold (chosen on all queries), fold_low and fold_high (the
        lowest and highest of the folds), and cross-fitted over groups: accepted (share), precision, low, high
        (its 95 % Wilson interval) and recall. NaN where no threshold reaches the goal, or where fewer than ten
        queries are accepted.

    Raises:
        InputError: all queries belong to one group.
    """
    score, right = first["score"].to_numpy(), first["right"].to_numpy()
    folds, rows = _folds(first), []
    for goal, precision in GOALS.items():
        chosen = [choose(score[others], right[others], precision) for others, _ in folds]
        accepted = np.zeros(len(first), dtype=bool)
        for threshold, (_, fold) in zip(chosen, folds, strict=True):
            accepted[fold] = score[fold] >= threshold  # always false for NaN
        hits, count = int((accepted & right).sum()), int(accepted.sum())
        low, high = wilson(hits, count) if count >= FEW else (np.nan, np.nan)
        point = {
            "goal": goal,
            "threshold": choose(score, right, precision),
            "fold_low": pd.Series(chosen).min(),
            "fold_high": pd.Series(chosen).max(),
            "accepted": count / len(first),
            "precision": hits / count if count >= FEW else np.nan,
            "low": low,
            "high": high,
            "recall": hits / len(first),
        }
        rows.append(point)
    return pd.DataFrame(rows)


def sentence(point: pd.Series) -> str:
    """One row of `operating_points` in plain words."""
    if np.isnan(point["threshold"]):
        return f"{point['goal']}: no cosine reaches it."
    start = f"{point['goal']}: accept at cosine >= {point['threshold']:.3f}: "
    if np.isnan(point["precision"]):
        return start + "too few queries are accepted to estimate its precision on others."
    interval = f"[{100 * point['low']:.0f}, {100 * point['high']:.0f}]"
    return start + (
        f"{100 * point['precision']:.0f} % {interval} of the accepted documents are right, "
        f"{100 * point['recall']:.0f} % of all queries get a right one."
    )


def reliability(first: pd.DataFrame, bins: int = 8) -> pd.DataFrame:
    """How often the first document found is right at low and at high cosines, beside a forecast from the cosine.

    The forecast is a rising step function of the cosine (isotonic regression; Zadrozny and Elkan, 2002), fitted
    on the other folds.

    Args:
        first: what `first_found` returns.
        bins: at most this many parts of similar size; fewer where they would hold fewer than 20 queries.

    Returns:
        A row per part, low cosines first: start, end (of the cosines), queries, expected (mean forecast), right
        (share), low, high (its 95 % Wilson interval).

    Raises:
        InputError: all queries belong to one group.
    """
    score, right = first["score"].to_numpy(), first["right"].to_numpy(dtype=float)
    expected, bins = np.zeros(len(first)), min(bins, max(2, len(first) // 20))
    for others, fold in _folds(first):
        steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(score[others], right[others])
        expected[fold] = steps.predict(score[fold])
    rows = []
    for at in pd.Series(score).groupby(quantile_codes(score, bins)).indices.values():
        interval = wilson(int(right[at].sum()), len(at))
        rows.append((score[at].min(), score[at].max(), len(at), expected[at].mean(), right[at].mean(), *interval))
    return pd.DataFrame(rows, columns=["start", "end", "queries", "expected", "right", "low", "high"])


def calibration_error(table: pd.DataFrame) -> float:
    """How far the forecast of `reliability` is off, averaged over the queries (expected calibration error)."""
    return float(np.average((table["expected"] - table["right"]).abs(), weights=table["queries"]))


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927); NaN where `count` is 0."""
    if not count:
        return np.nan, np.nan
    interval = scipy.stats.binomtest(hits, count).proportion_ci(LEVEL, "wilson")
    return float(interval.low), float(interval.high)


def _auc(right: np.ndarray, wrong: np.ndarray) -> float:
    """The share of pairs in which the right document scores above the wrong one; ties count half."""
    truth = np.repeat([1, 0], [len(right), len(wrong)])
    return float(roc_auc_score(truth, np.concatenate([right, wrong])))


def _folds(first: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row numbers of the others and of each of up to five folds; queries of one group stay together."""
    groups = first["group"].nunique()
    if groups < 2:
        raise InputError("all queries belong to one group, so no other can judge a threshold; test on two or more.")
    return list(GroupKFold(min(FOLDS, groups)).split(first, groups=first["group"]))
