"""Waiting times: what the table of a run holds, and what it refuses to time."""

from __future__ import annotations

import numpy as np
import pytest

from hr_search.base.errors import InputError
from hr_search.evaluation import timing
from hr_search.evaluation.timing import search_timing


def test_search_timing():
    table = search_timing(np.random.default_rng(0).standard_normal((200, 16)), repeats=5)
    assert table["what"].tolist() == ["search top-1", "search top-5", "documents searched"]
    assert table["unit"].tolist() == ["ms", "ms", "texts"]
    assert (table["value"] > 0).all() and table["value"].iloc[2] == 200
    assert (search_timing(np.ones((2, 3)), repeats=1)["value"] > 0).all()
    with pytest.raises(InputError, match="repeats is 0"):
        search_timing(np.ones((2, 3)), repeats=0)
    with pytest.raises(InputError, match="row 1 holds NaN"):
        search_timing(np.full((2, 3), np.nan))


def test_every_repeat_is_one_search_after_the_warm_up():
    asked = []
    timing._median_seconds(asked.append, np.eye(4))
    assert len(asked) == 5
