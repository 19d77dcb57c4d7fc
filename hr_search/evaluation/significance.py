"""How certain a number is: bootstrap intervals, paired randomisation tests, Holm's correction, and a verdict.

All functions take one value per query. Smucker, Allan and Carterette (CIKM 2007) recommend the randomisation
test for ranking metrics; with thousands of queries nearly every difference becomes significant, so each
comparison also has an interval and an effect size.

Queries of one group share their right documents and often win or lose together. Where groups are given, they are
what is drawn with replacement (cluster bootstrap: Field and Welsh 2007, Journal of the Royal Statistical Society B 69)
and what the test flips; without groups, or where each query has its own, these are the queries.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import scipy.stats

from hr_search.base.errors import InputError

LEVEL = 0.95
ALPHA = 0.05
FEW = 10  # with fewer groups, an interval suggests a certainty that is not there
LABELS = {"mrr": "MRR", "ndcg@10": "nDCG@10", "map": "MAP"}  # as people write them; other names stay as they are

# BCa corrects terms of order 1/n by a jackknife of n² values: beyond this many it costs seconds and changes nothing.
_CORRECTED = 5000
_BLOCK = 2_000_000  # numbers drawn at a time: 16 MB


def bootstrap_interval(
    values: np.ndarray, seed: int, resamples: int = 9999, groups: Sequence[str] | None = None
) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean.

    BCa (Efron 1987) up to 5,000 groups, percentiles beyond and wherever BCa is not defined.

    Args:
        values: one finite value per query, (Q,).
        seed: the same seed, values and groups give the same interval.
        resamples: bootstrap samples drawn.
        groups: the group of each query, (Q,); None = each query is its own.

    Returns:
        Low and high end; both equal the mean where all values are equal, or all queries belong to one group.

    Raises:
        InputError: no values, a value that is not a finite number, or not a group for each.
    """
    values = _checked(values, "the values")
    if _constant(values):
        return float(values.mean()), float(values.mean())
    sums, counts = by_group(values, groups)
    alone = len(sums) == len(values)
    for method in ("BCa", "percentile") if len(sums) <= _CORRECTED else ("percentile",):
        # A jackknife without spread makes BCa divide by zero; its NaN is what the fallback looks for.
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            interval = scipy.stats.bootstrap(
                (sums,) if alone else (sums, counts),
                np.mean if alone else _ratio,
                n_resamples=resamples,
                batch=max(1, _BLOCK // len(sums)),
                vectorized=True,
                paired=not alone,
                confidence_level=LEVEL,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(interval).all():
            break
    return float(interval.low), float(interval.high)


def paired_comparison(
    a: np.ndarray, b: np.ndarray, seed: int, permutations: int = 9999, groups: Sequence[str] | None = None
) -> dict[str, float]:
    """How much better system b is than system a on the same queries, and whether chance could explain it.

    The two-sided randomisation test flips the signs of the per-query differences at random, group by group; its
    p-value counts the observed signs too (Phipson and Smyth 2010), so it is never zero.

    Args:
        a: one value per query of the first system, (Q,).
        b: the same of the second system, in the same order of queries.
        seed: the same seed, values and groups give the same result.
        permutations: random sign flips.
        groups: the group of each query, (Q,); None = each query is its own.

    Returns:
        `difference` (mean of b - a), `low` and `high` (its 95 % paired bootstrap interval), `p`, and
        `effect` (difference in standard deviations of the queries' differences; 0 where they do not vary).

    Raises:
        InputError: different lengths, no values, a value that is not a finite number, or not a group for each.
    """
    a, b = _checked(a, "the first system"), _checked(b, "the second system")
    if len(a) != len(b):
        raise InputError(
            f"the systems have {len(a)} and {len(b)} queries; a paired comparison needs the same queries in both."
        )
    if permutations < 1:
        raise InputError(f"permutations is {permutations}; it must be at least 1.")
    differences = b - a
    low, high = bootstrap_interval(differences, seed, groups=groups)
    deviation = 0.0 if _constant(differences) else float(differences.std(ddof=1))
    return {
        "difference": float(differences.mean()),
        "low": low,
        "high": high,
        "p": _sign_flip_p(by_group(differences, groups)[0], seed, permutations),
        "effect": float(differences.mean()) / deviation if deviation > 0 else 0.0,
    }


def standard_error(values: np.ndarray, groups: Sequence[str]) -> float:
    """The standard error of the mean of values (Q,), of which those of one group may vary together.

    The linearised ratio of sums over groups (Cochran 1977, Sampling Techniques, chapter 9A); s / √Q where each query
    is a group of its own. NaN where there is one group only.

    Raises:
        InputError: as `bootstrap_interval`.
    """
    values = _checked(values, "the values")
    sums, counts = by_group(values, groups)
    if len(sums) < 2:
        return math.nan
    residuals = sums - values.mean() * counts
    return math.sqrt(len(sums) / (len(sums) - 1) * float((residuals**2).sum())) / len(values)


def by_group(values: np.ndarray, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of the values (Q,) of each group, in the order in which groups first occur.

    Args:
        values: one per query.
        groups: the group of each query, (Q,); None = each query is its own.

    Raises:
        InputError: not a group for each query.
    """
    if groups is None:
        return values, np.ones(len(values))
    if len(groups) != len(values):
        raise InputError(f"there are {len(groups)} groups for {len(values)} queries; give one for each.")
    codes, names = pd.factorize(np.asarray(groups, dtype=object))
    if (codes < 0).any():
        raise InputError(f"query row {np.flatnonzero(codes < 0)[0] + 1} has no group; give one for each query.")
    return np.bincount(codes, values, len(names)), np.bincount(codes, minlength=len(names)).astype(float)


def holm(p_values: Iterable[float]) -> list[float]:
    """The p-values corrected for having tested several hypotheses (Holm 1979), in the order given.

    Raises:
        InputError: a p-value outside 0 to 1.
    """
    p = np.asarray(list(p_values), dtype=np.float64)
    wrong = np.flatnonzero(~((p >= 0) & (p <= 1)))
    if wrong.size:
        raise InputError(f"p-value {wrong[0] + 1} is {p[wrong[0]]:g}; a p-value lies between 0 and 1.")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted.tolist()


def verdict(comparison: Mapping[str, float], metric: str, name_a: str, name_b: str) -> str:
    """One plain sentence that says which of two systems is better, by how much and with what certainty.

    A difference counts as real when p is below .05 and the interval excludes zero.

    Args:
        comparison: what `paired_comparison` returns; `p_holm`, where given, is used in place of `p`.
        metric: the metric compared, as in `choices.METRICS`.
        name_a: the first system.
        name_b: the second system, which a positive difference favours.
    """
    difference, low, high = (comparison[key] for key in ("difference", "low", "high"))
    corrected = "p_holm" in comparison
    p = comparison["p_holm" if corrected else "p"]
    label = LABELS.get(metric, metric)
    odds = f"p {_odds(p)}{' (Holm)' if corrected else ''}"
    digits = 3 if difference == 0 or abs(difference) >= 0.001 else 5
    interval = f"[{_short(low, digits)}, {_short(high, digits)}]"
    if p < ALPHA and (low > 0 or high < 0):
        better = "better" if difference > 0 else "worse"
        size = _short(abs(difference), digits)
        # "worse by" reverses the sign of the difference, so the interval is reversed too.
        if difference < 0:
            interval = f"[{_short(-high, digits)}, {_short(-low, digits)}]"
        return f"{name_b} is {better} than {name_a} in {label} by {size} {interval}, {odds}: the difference is real."
    return (
        f"no difference could be shown between {name_b} and {name_a} in {label}: "
        f"{_short(difference, digits)} {interval}, {odds}."
    )


def _checked(values: np.ndarray, what: str) -> np.ndarray:
    """`values` as float64 (Q,), refused unless they are a list of finite numbers."""
    try:
        values = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be numbers, one per query.") from error
    if values.ndim != 1 or values.size == 0:
        raise InputError(f"{what} must be one value per query, not an array of shape {values.shape}.")
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        raise InputError(f"{what}: row {wrong[0] + 1} is {values[wrong[0]]}; every query needs a finite value.")
    return values


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
    """The means of resamples, from the sums and counts of the groups drawn."""
    return sums.sum(axis=axis) / counts.sum(axis=axis)


def _constant(values: np.ndarray) -> bool:
    """Whether all values are equal up to rounding."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _sign_flip_p(differences: np.ndarray, seed: int, permutations: int) -> float:
    """The two-sided p-value of the sum of differences, one per group, under random signs; the observed ones count."""
    # Flipping a zero changes no sum, and most queries rank alike in two good systems.
    moved = differences[differences != 0]
    total = np.abs(moved).sum()
    # Sums that are mathematically equal may differ in their last bits; they count as equal.
    threshold = abs(moved.sum()) - 1e-9 * total
    random = np.random.default_rng(seed)
    step = max(1, _BLOCK // max(1, moved.size))
    extreme = 0
    for start in range(0, permutations, step):
        shape = (min(step, permutations - start), moved.size)
        kept = random.integers(0, 2, shape, dtype=np.int8).astype(np.float64) @ moved
        extreme += int((np.abs(2 * kept - moved.sum()) >= threshold).sum())
    return (extreme + 1) / (permutations + 1)


def _short(number: float, digits: int) -> str:
    """`number` with fixed digits and no zero before the point: .071, -.071, 1.000."""
    text = f"{number:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _odds(p: float) -> str:
    """A p-value with its comparison sign, such as "= .020"; never rounded to zero or up to the threshold."""
    if p < 0.0001:
        return "< .0001"
    digits = 4 if p < 0.001 or 0.045 <= p < 0.055 else 3
    return f"= {_short(p, digits)}"
