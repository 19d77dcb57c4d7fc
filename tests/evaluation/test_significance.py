"""Intervals that cover, p-values that are uniform under the null hypothesis, Holm by hand, and verdicts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from hr_search.base.errors import InputError
from hr_search.evaluation import significance
from hr_search.evaluation.significance import bootstrap_interval, holm, paired_comparison, standard_error, verdict

# Intervals


@pytest.mark.parametrize("values", [[0.3], [1.0, 1.0, 1.0], [0.0, 0.0], [0.1 + 0.2, 0.3]])
def test_constant_values_have_no_spread(values):
    assert bootstrap_interval(values, 0) == (pytest.approx(values[0]), pytest.approx(values[0]))


def test_interval_is_seeded_and_near_the_textbook():
    values = np.random.default_rng(0).normal(2, 1, 400)
    low, high = bootstrap_interval(values, 1)
    assert (low, high) == bootstrap_interval(values, 1) != bootstrap_interval(values, 2)
    textbook = scipy.stats.t.interval(0.95, 399, values.mean(), values.std(ddof=1) / 20)
    np.testing.assert_allclose((low, high), textbook, atol=0.01)


def test_skewed_values_are_corrected():
    values = np.r_[np.zeros(45), np.ones(5)]
    low, high = bootstrap_interval(values, 0)
    assert 0 < low < 0.1 < high
    assert high - 0.1 > 0.1 - low


def test_coverage():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.beta(0.5, 1, 60), seed=0, resamples=500)
        covered += low <= 1 / 3 <= high
    assert 0.91 <= covered / 300 <= 0.98


def test_falls_back_where_bca_is_not_defined():
    low, high = bootstrap_interval([0.0, 1e-200, 2e-200, 3e-200], 0)
    assert 0 <= low < 1.5e-200 < high <= 3e-200


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"shape \(0,\)"),
        ([[1.0, 2.0]], r"shape \(1, 2\)"),
        ([1.0, np.nan], "row 2 is nan"),
        ([np.inf], "row 1 is inf"),
        (["a"], "must be numbers"),
    ],
)
def test_unusable_values_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        bootstrap_interval(values, 0)


# Comparisons


def test_comparison_of_a_clear_winner():
    rng = np.random.default_rng(0)
    a = rng.random(200)
    differences = rng.normal(0.1, 0.2, 200)
    result = paired_comparison(a, a + differences, seed=0)
    assert list(result) == ["difference", "low", "high", "p", "effect"]
    assert result["difference"] == pytest.approx(differences.mean())
    assert 0 < result["low"] < result["difference"] < result["high"]
    assert result["p"] == 1e-4
    assert result["effect"] == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert result == paired_comparison(a, a + differences, seed=0)
    turned = paired_comparison(a + differences, a, seed=0)
    assert turned["difference"] == pytest.approx(-result["difference"])
    assert turned["p"] == result["p"] and turned["effect"] == pytest.approx(-result["effect"])


def test_p_is_that_of_all_sign_flips():
    differences = np.array([0.5, 0.25, -0.25, 0.1, 0.0, 0.3, 0.3, -0.1, 0.2])
    flips = np.array(list(itertools.product([-1, 1], repeat=len(differences)))) @ differences
    exact = (np.abs(flips) >= abs(differences.sum()) - 1e-12).mean()
    result = paired_comparison(np.zeros(9), differences, seed=0, permutations=50_000)
    assert result["p"] == pytest.approx(exact, abs=0.01)


def test_interval_and_p_are_those_of_scipy():
    rng = np.random.default_rng(4)
    a, b = rng.beta(0.5, 1, (2, 80))
    result = paired_comparison(a, b, 0)
    drawn = scipy.stats.bootstrap((b - a,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(1))
    assert (result["low"], result["high"]) == pytest.approx(tuple(drawn.confidence_interval), abs=0.005)
    test = scipy.stats.permutation_test(
        (b, a), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(1)
    )
    assert result["p"] == pytest.approx(test.pvalue, abs=0.02)


def test_p_is_never_zero():
    # 1 of 1 + 99 labellings, the observed one, is as extreme
    assert paired_comparison(np.zeros(40), np.linspace(0.5, 1, 40), 0, permutations=99)["p"] == 0.01


def test_equal_sums_count_although_they_are_rounded():
    # .1 + .2 - .3 and its negative are both zero mathematically, so every one of the flips that gives zero is as extreme.
    assert paired_comparison(np.zeros(3), np.array([0.1, 0.2, -0.3]), seed=0)["p"] == 1.0
    # Of all 256 labellings 62 are as extreme as the observed one when computed in whole tenths.
    differences = np.repeat([0.1, 0.2, -0.3], [4, 3, 1])
    p = paired_comparison(np.zeros(8), differences, seed=0, permutations=20_000)["p"]
    assert p == pytest.approx(62 / 256, abs=0.01)


def test_equal_systems():
    a = np.random.default_rng(0).random(50)
    assert paired_comparison(a, a, 0) == {"difference": 0, "low": 0, "high": 0, "p": 1, "effect": 0}


def test_a_shift_that_never_varies_has_no_effect_size():
    a = np.random.default_rng(0).random(30)
    result = paired_comparison(a, a + 0.1, 0)
    assert result["effect"] == 0
    assert (result["low"], result["high"]) == (pytest.approx(0.1), pytest.approx(0.1))


def test_p_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(3)
    p = [significance._sign_flip_p(rng.normal(0, 1, 25), seed, 199) for seed in range(400)]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_blocks_of_flips_add_up(monkeypatch):
    differences = np.random.default_rng(0).normal(0.05, 0.2, 40)
    whole = significance._sign_flip_p(differences, 0, 5000)
    monkeypatch.setattr(significance, "_BLOCK", 1000)
    assert significance._sign_flip_p(differences, 0, 5000) == pytest.approx(whole, abs=0.02)
    monkeypatch.setattr(significance, "_BLOCK", 1)
    assert significance._sign_flip_p(np.ones(3), 0, 1) in (0.5, 1.0)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0], [1.0, 2.0], "1 and 2 queries"),
        ([1.0, np.nan], [1.0, 2.0], "the first system: row 2"),
        ([1.0, 2.0], [np.inf, 2.0], "the second system: row 1"),
    ],
)
def test_comparisons_that_cannot_be_made(a, b, message):
    with pytest.raises(InputError, match=message):
        paired_comparison(a, b, 0)


def test_no_permutations():
    with pytest.raises(InputError, match="permutations is 0"):
        paired_comparison([1.0, 2.0], [2.0, 1.0], 0, permutations=0)


def test_large_samples_skip_the_jackknife(monkeypatch):
    methods = []
    bootstrap = scipy.stats.bootstrap

    def recorded(*values, method: str, **more):
        methods.append(method)
        return bootstrap(*values, method=method, **more)

    monkeypatch.setattr(scipy.stats, "bootstrap", recorded)
    monkeypatch.setattr(significance, "_CORRECTED", 30)
    values = np.random.default_rng(0).random(31)
    bootstrap_interval(values, 0, resamples=50)
    bootstrap_interval(values[1:], 0, resamples=50)
    assert methods == ["percentile", "BCa"]  # the jackknife of BCa needs the square of the sample


# Groups


def together(rng: np.random.Generator, groups: int = 40, size: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Values of mean zero, (groups * size,), that are alike within a group, and the groups."""
    shared = rng.normal(0, 1, groups).repeat(size) + rng.normal(0, 0.5, groups * size)
    order = rng.permutation(groups * size)
    return shared[order], np.arange(groups).repeat(size).astype(str)[order]


def test_a_group_for_each_query_changes_nothing():
    a, b = np.random.default_rng(5).beta(0.5, 1, (2, 70))
    names = [f"g{number}" for number in np.random.default_rng(6).permutation(70)]
    assert bootstrap_interval(b, 3, groups=names) == bootstrap_interval(b, 3)
    assert paired_comparison(a, b, 3, groups=names) == paired_comparison(a, b, 3)
    assert standard_error(b, names) == pytest.approx(b.std(ddof=1) / np.sqrt(70))


def test_intervals_over_groups_cover_what_those_over_queries_miss():
    rng, covered = np.random.default_rng(0), np.zeros(2)
    for _ in range(200):
        values, groups = together(rng)
        for at, own in enumerate((groups, None)):
            low, high = bootstrap_interval(values, 0, 300, own)
            covered[at] += low <= 0 <= high
    assert 0.9 <= covered[0] / 200 <= 0.98 and covered[1] / 200 < 0.75


def test_p_over_groups_is_small_as_often_as_it_says():
    rng, small = np.random.default_rng(1), np.zeros(2)
    for _ in range(300):
        values, groups = together(rng)
        for at, own in enumerate((groups, None)):
            found = paired_comparison(np.zeros(len(values)), values, 0, permutations=199, groups=own)
            small[at] += found["p"] <= 0.1
    assert 0.06 <= small[0] / 300 <= 0.14 and small[1] / 300 > 0.25


def test_p_is_that_of_all_flips_of_groups():
    differences = np.array([0.5, 0.25, -0.25, 0.1, 0.0, 0.3, 0.3, -0.1, 0.2])
    groups = list("abacbdefd")
    sums = np.array([differences[[at for at, own in enumerate(groups) if own == name]].sum() for name in "abcdef"])
    flips = np.array(list(itertools.product([-1, 1], repeat=6))) @ sums
    exact = (np.abs(flips) >= abs(sums.sum()) - 1e-12).mean()
    result = paired_comparison(np.zeros(9), differences, seed=0, permutations=50_000, groups=groups)
    assert result["p"] == pytest.approx(exact, abs=0.01) and result["difference"] == pytest.approx(differences.mean())


def test_the_mean_stays_that_of_the_queries_where_groups_differ_in_size():
    values, groups = np.r_[np.zeros(90), np.ones(30)], [*("large" for _ in range(90)), *map(str, range(30))]
    low, high = bootstrap_interval(values, 0, groups=groups)
    assert low < 0.25 < high  # by groups alone the mean would be 30 / 31


def test_the_standard_error_is_how_far_means_of_groups_spread():
    rng = np.random.default_rng(2)
    drawn = [together(rng) for _ in range(400)]
    spread = np.std([values.mean() for values, _ in drawn])
    assert np.mean([standard_error(*each) for each in drawn]) == pytest.approx(spread, rel=0.1)
    assert np.isnan(standard_error([1.0, 2.0], ["a", "a"]))


@pytest.mark.parametrize(
    ("groups", "message"),
    [(["a"], "there are 1 groups for 2 queries"), (["a", None], "query row 2 has no group")],
)
def test_each_query_needs_a_group(groups, message):
    for call in (lambda: bootstrap_interval([1.0, 2.0], 0, groups=groups), lambda: standard_error([1.0, 2.0], groups)):
        with pytest.raises(InputError, match=message):
            call()


# Several hypotheses


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, and never falling = .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    assert holm(iter([0.5, 0.01])) == [0.5, 0.02]


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan])
def test_holm_refuses(p):
    with pytest.raises(InputError, match="p-value 2 is"):
        holm([0.5, p])


# Sentences


def comparison(difference, low, high, p, **more):
    """What `paired_comparison` returns."""
    return {"difference": difference, "low": low, "high": high, "p": p, "effect": 0.3, **more}


@pytest.mark.parametrize(
    ("test", "metric", "parts"),
    [
        ((0.0712, 0.05, 0.09, 0.0001), "mrr", ["b is better than a", "MRR", ".071 [.050, .090]", "p = .0001", "real"]),
        ((-0.0712, -0.09, -0.05, 0.002), "ndcg@10", ["b is worse than a", "nDCG@10", ".071 [.050, .090]", "p = .002"]),
        ((0.01, -0.02, 0.04, 0.5), "pass@1", ["no difference", "b and a", "pass@1", ".010 [-.020, .040]", "p = .500"]),
        ((0.0, 0.0, 0.0, 1.0), "map", ["no difference", "MAP", ".000 [.000, .000]", "p = 1.000"]),
        ((0.0004, 0.0002, 0.0006, 0.00001), "mrr", ["better", ".00040 [.00020, .00060]", "p < .0001"]),
        ((-0.1, -0.2, 0.0001, 0.0493), "mrr", [".0493"]),  # not rounded up to the threshold
        ((-0.5, -1.0, -0.0001, 0.2), "mrr", ["[-1.000, .000]"]),  # no negative zero
    ],
)
def test_a_verdict_says_which_is_better_by_how_much_and_how_certain(test, metric, parts):
    sentence = verdict(comparison(*test), metric, "a", "b")
    for part in parts:
        assert part in sentence
    assert ("real" in sentence) != ("no difference" in sentence)


def test_real_needs_both_p_and_interval():
    assert verdict(comparison(0.1, -0.01, 0.2, 0.01), "mrr", "a", "b").startswith("no difference could be shown")
    assert verdict(comparison(0.1, 0.01, 0.2, 0.05), "mrr", "a", "b").startswith("no difference could be shown")
    assert "real" in verdict(comparison(0.1, 0.01, 0.2, 0.0499), "mrr", "a", "b")


def test_the_corrected_p_decides():
    sentence = verdict(comparison(0.1, 0.01, 0.2, 0.01, p_holm=0.06), "mrr", "a", "b")
    assert sentence.startswith("no difference could be shown") and "p = .060 (Holm)" in sentence
    sentence = verdict(comparison(0.1, 0.01, 0.2, 0.001, p_holm=0.006), "mrr", "a", "b")
    assert "p = .006 (Holm): the difference is real." in sentence
