"""Intervals that treat seeds and queries as samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hr_search.evaluation.crossed import crossed_interval, crossed_mean, crossed_sums


def test_sums_keep_seeds_apart_and_repeated_queries_together():
    parts = [pd.Series([1.0, 2.0, 4.0], ["a", "b", "a"]), pd.Series([8.0], ["c"])]
    sums, counts, queries = crossed_sums(parts)
    assert queries == ["a", "b", "c"]
    assert sums.tolist() == [[5, 2, 0], [0, 0, 8]] and counts.tolist() == [[2, 1, 0], [0, 0, 1]]
    assert crossed_mean(sums, counts) == pytest.approx((7 / 3 + 8) / 2)


def test_the_interval_grows_with_the_seeds_and_holds_the_truth():
    random, held, wide = np.random.default_rng(1), 0, 0
    for trial in range(150):
        values = random.normal(0, 0.1, (1, 80)) + random.normal(0, 0.1, (3, 80))
        low, high = crossed_interval(values, np.ones((3, 80)), trial, 499)
        held += low <= 0 <= high
        moved = crossed_interval(values + np.array([[-0.1], [0], [0.1]]), np.ones((3, 80)), trial, 499)
        wide += moved[1] - moved[0] > 1.5 * (high - low)
    assert 0.9 <= held / 150 <= 1 and wide == 150


def test_one_seed_gives_the_interval_over_queries():
    values = np.random.default_rng(0).normal(0.5, 0.1, (1, 400))
    low, high = crossed_interval(values, np.ones((1, 400)), 0)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)


def test_groups_are_drawn_whole():
    random = np.random.default_rng(3)
    values = random.normal(0, 0.1, (1, 40)).repeat(5, axis=1) + random.normal(0, 0.02, (3, 200))
    ones, groups = np.ones((3, 200)), np.arange(40).repeat(5).astype(str)
    low, high = crossed_interval(values, ones, 0, groups=groups)
    queries = crossed_interval(values, ones, 0)
    assert high - low > 1.8 * (queries[1] - queries[0])
    alone = crossed_interval(values, ones, 0, groups=np.random.default_rng(4).permutation(200))
    assert alone == pytest.approx(queries)
