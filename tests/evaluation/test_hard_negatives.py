"""Hard negatives to be read by eye: what the overview shows of a table."""

from __future__ import annotations

import numpy as np
import pytest

from hr_search.encoder import load_encoder
from hr_search.evaluation.hard_negatives import overview


@pytest.fixture
def encoder(tiny_model):
    return load_encoder(str(tiny_model), 32, "fp32")


def test_the_overview_shows_wrong_documents_nearest_first(encoder, jobs):
    figures, hard = overview(jobs, encoder, rows=len(jobs), queries=4, nearest=3)
    assert figures["queries"].item() == 12 and figures["count"].item() == 3
    assert hard["query"].nunique() == 4 and hard["rank"].tolist() == [1, 2, 3] * 4
    right = set(zip(jobs["query"], jobs["positive"], strict=True))
    assert all((row.query, row.positive) in right for row in hard.itertuples())
    assert not any((row.query, row.negative) in right for row in hard.itertuples())
    assert (np.diff(hard["negative_score"].to_numpy().reshape(4, 3), axis=1) <= 0).all()


def test_the_overview_keeps_what_scores_above_the_positive(encoder, jobs):
    # A random model ranks at random, so many wrong documents stand above the right one; the share rule would drop them.
    figures, hard = overview(jobs, encoder, rows=len(jobs), queries=12, nearest=3)
    assert (hard["negative_score"] > hard["positive_score"]).any() and figures["suspected"].item() > 0
    assert figures["without"].item() == 0


def test_the_overview_of_few_rows_is_short_or_empty(encoder, jobs):
    _, hard = overview(jobs, encoder, rows=3, queries=9, nearest=3)
    assert 1 <= hard["rank"].max() <= 2
    assert all(table.empty for table in overview(jobs[:2], encoder))


def test_texts_of_the_overview_are_cut(encoder, jobs):
    long = jobs.assign(positive=jobs["positive"] + " x" * 400)
    _, hard = overview(long, encoder, rows=len(jobs))
    assert hard["negative"].str.len().max() == 200
