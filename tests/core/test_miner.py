"""Mining for the training loop, and the overview of hard negatives that is read before training."""

from __future__ import annotations

import numpy as np
import pytest

from hr_search import experiment, miner
from hr_search.base.errors import InputError
from hr_search.batches import index_rows
from hr_search.encoder import load_encoder
from hr_search.settings import Settings
from hr_search.train import make_accelerator


@pytest.fixture
def settings(tiny_model):
    return Settings(modelname=str(tiny_model), maxlength=32, precision="fp32")


def test_a_query_is_judged_by_the_document_of_its_first_row(jobs):
    rows = index_rows(jobs)
    distinct, place, own = miner.anchors(rows)
    assert distinct[place].tolist() == rows.query.tolist()
    for query, title in enumerate(rows.queries):
        assert rows.documents[own[query]] == jobs.loc[jobs["query"] == title, "positive"].iloc[0]


def test_a_document_is_judged_by_its_query_and_given_negatives_are_none(jobs):
    rows = index_rows(jobs.assign(negatives=[["nobody is paid for this"]] * len(jobs)))
    distinct, place, own = miner.anchors(rows, "query")
    assert "nobody is paid for this" in rows.documents and len(distinct) == len(rows.documents) - 1
    assert distinct[place].tolist() == rows.positive.tolist() and own[place].tolist() == rows.query.tolist()


# -- wrong queries for each document ---------------------------------------------------------------


def test_mined_queries_join_the_batch_and_no_own_query_is_among_them(settings, jobs):
    rows = index_rows(jobs)
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision)
    tables = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
    given = settings.replace(negatives="mined", mineside="query", minepool=4, minecount=2, mineshare=0.0)
    found = miner.Miner(rows, tables, given, 6)
    steps = [(np.array([0, 1, 2]), False), (np.array([3, 8]), True)]
    for chosen, _, batch in found.batches(steps, 0, encoder, make_accelerator()):
        further = batch.queries[batch.further]
        assert 2 <= len(further) <= 2 * len(chosen) and not set(further) & set(rows.query[chosen])
        assert batch.documents.tolist() == sorted(rows.positive[chosen])
        assert rows.query[chosen].tolist() == batch.queries[batch.query].tolist()
        # Both documents of a title have it as their right query, whichever row brought it.
        titles = np.array(rows.queries)[further]
        assert (batch.wrong == (titles[None, :] != jobs["query"].to_numpy()[chosen][:, None])).all()
    assert found.negatives.shape == (len(rows.documents), 4) and found.history[0]["queries"] == len(rows.documents)


def test_training_with_mined_queries_and_what_refuses_them(settings, jobs_file, home):
    given = settings.replace(
        datapath=str(jobs_file), negatives="mined", mineside="query", minepool=3, minecount=2, loss="infonce",
        batchsize=4, maxsteps=3, validationshare=0.25, testshare=0.25, probes=0,
    )  # fmt: skip
    run = experiment.run_experiment(given, "asked")
    assert run.table("mining")["count"].tolist() == [3] and run.summary["steps"] == 3
    for changes in ({"loss": "triplet"}, {"symmetric": False}):
        with pytest.raises(InputError, match=r"--mineside query .* take --mineside document"):
            experiment.run_experiment(given.replace(**changes))
    with pytest.raises(InputError, match="trainlength 33 is more than maxlength 32; lower it"):
        experiment.run_experiment(given.replace(trainlength=33))
    with pytest.raises(InputError, match="takes 9 queries a document and train has"):
        experiment.run_experiment(given.replace(minepool=9))


# -- the overview ----------------------------------------------------------------------------------


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
