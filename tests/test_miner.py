"""Mining for the training loop, and the overview of hard negatives that is read before training."""

from __future__ import annotations

import numpy as np
import pytest

from hr_search import miner
from hr_search.batches import index_rows
from hr_search.config import Settings


@pytest.fixture
def settings(tiny_model):
    return Settings(modelname=str(tiny_model), maxlength=32, precision="fp32")


def test_a_query_is_judged_by_the_document_of_its_first_row(jobs):
    rows = index_rows(jobs)
    own = miner.own_documents(rows)
    for query, title in enumerate(rows.queries):
        assert rows.documents[own[query]] == jobs.loc[jobs["query"] == title, "positive"].iloc[0]


def test_the_overview_shows_wrong_documents_nearest_first(settings, jobs):
    figures, hard = miner.overview(jobs, settings, rows=len(jobs), queries=4, nearest=3)
    assert figures["queries"].item() == 12 and figures["count"].item() == 3
    assert hard["query"].nunique() == 4 and hard["rank"].tolist() == [1, 2, 3] * 4
    right = set(zip(jobs["query"], jobs["positive"], strict=True))
    assert all((row.query, row.positive) in right for row in hard.itertuples())
    assert not any((row.query, row.negative) in right for row in hard.itertuples())
    assert (np.diff(hard["negative_score"].to_numpy().reshape(4, 3), axis=1) <= 0).all()


def test_the_overview_keeps_what_scores_above_the_positive(settings, jobs):
    # A random model ranks at random, so many wrong documents stand above the right one; the share rule would drop them.
    figures, hard = miner.overview(jobs, settings, rows=len(jobs), queries=12, nearest=3)
    assert (hard["negative_score"] > hard["positive_score"]).any() and figures["suspected"].item() > 0
    assert figures["without"].item() == 0


def test_the_overview_of_few_rows_is_short_or_empty(settings, jobs):
    _, hard = miner.overview(jobs, settings, rows=3, queries=9, nearest=3)
    assert 1 <= hard["rank"].max() <= 2
    assert all(table.empty for table in miner.overview(jobs[:2], settings))


def test_texts_of_the_overview_are_cut(settings, jobs):
    long = jobs.assign(positive=jobs["positive"] + " x" * 400)
    _, hard = miner.overview(long, settings, rows=len(jobs))
    assert hard["negative"].str.len().max() == 200
