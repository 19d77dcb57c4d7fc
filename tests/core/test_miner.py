"""Mining while the encoder learns: who is mined for, what joins a batch, what is refused."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from hr_search import experiment, row_checks
from hr_search.base.errors import InputError
from hr_search.batches import index_rows
from hr_search.encoder import load_encoder
from hr_search.mining import Miner, anchors
from hr_search.policies import mining_policy
from hr_search.row_checks import check_mining, fewest_wrong
from hr_search.settings import Settings
from hr_search.train import make_accelerator


@pytest.fixture
def settings(tiny_model):
    return Settings(modelname=str(tiny_model), maxlength=32, precision="fp32")


def test_a_query_is_judged_by_the_document_of_its_first_row(jobs):
    rows = index_rows(jobs)
    distinct, place, own = anchors(rows)
    assert distinct[place].tolist() == rows.query.tolist()
    for query, title in enumerate(rows.queries):
        assert rows.documents[own[query]] == jobs.loc[jobs["query"] == title, "positive"].iloc[0]


def test_a_document_is_judged_by_its_query_and_given_negatives_are_none(jobs):
    rows = index_rows(jobs.assign(negatives=[["nobody is paid for this"]] * len(jobs)))
    distinct, place, own = anchors(rows, "query")
    assert "nobody is paid for this" in rows.documents and len(distinct) == len(rows.documents) - 1
    assert distinct[place].tolist() == rows.positive.tolist() and own[place].tolist() == rows.query.tolist()


# -- partial matches -------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["document", "query"])
def test_partial_matches_are_never_mined(settings, jobs, side):
    titles = sorted(set(jobs["query"]))
    kind = dict(zip(titles, np.arange(len(titles)) % 3, strict=True))
    rows = index_rows(jobs.assign(softgroup=[str(kind[title]) for title in jobs["query"]]))
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision)
    tables = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
    given = settings.replace(
        negatives="mined", mineside=side, loss="infonce", softgroupcolumn="kind", minepool=4, mineshare=0.0
    )
    found = Miner(rows, tables, mining_policy(given), 6, given.seed)
    found.refresh(encoder, make_accelerator(), 0)
    kinds = {"query": np.array([kind[title] for title in rows.queries])}
    kinds["document"] = np.array([kind[jobs.set_index("positive")["query"][text]] for text in rows.documents])
    distinct, _, _ = anchors(rows, side)
    own = kinds["query" if side == "document" else "document"][distinct]
    assert (found.negatives >= 0).all() and (kinds[side][found.negatives] != own[:, None]).all()
    left = {"document": 16, "query": 8}[side]  # a third of the 24 documents, or 12 titles, is of the kind
    assert fewest_wrong(rows, side) == left and fewest_wrong(rows, side, partly=False) == {16: 22, 8: 11}[left]
    check_mining(given.replace(minepool=left), rows)
    with pytest.raises(InputError, match=f"a row has only {left}, .*--softgroupcolumn"):
        check_mining(given.replace(minepool=left + 1), rows)


# -- how many are wrong ----------------------------------------------------------------------------

TEXTS = st.tuples(*(st.sampled_from(letters) for letters in ("qrst", "abcdef", "ABC", ["", "1", "2"])))


@given(st.lists(TEXTS, min_size=1, max_size=14, unique=True))
@settings_of_hypothesis(deadline=None, derandomize=True)
def test_the_fewest_wrong_texts_are_those_of_the_whole_product(found):
    pairs = pd.DataFrame(found, columns=["query", "positive", "group", "softgroup"])
    for rows in (index_rows(pairs), index_rows(pairs.drop(columns="softgroup"))):
        for side, partly in itertools.product(("document", "query"), (True, False)):
            fits = rows.query_groups @ rows.document_groups.T
            if partly and rows.query_softgroups is not None:
                fits = fits + rows.query_softgroups @ rows.document_softgroups.T
            wrong = (fits.toarray() == 0).sum(axis=1 if side == "document" else 0)
            with pytest.MonkeyPatch.context() as patch:
                for entries in (1, 5, 2**22):
                    patch.setattr(row_checks, "_ENTRIES", entries)
                    assert fewest_wrong(rows, side, partly) == wrong.min()


def test_counting_the_wrong_texts_of_a_large_group_takes_little_memory(monkeypatch):
    monkeypatch.setattr(row_checks, "_ENTRIES", 10_000, raising=False)
    pairs = pd.DataFrame({"query": [f"q{at}" for at in range(1500)], "positive": [f"d{at}" for at in range(1500)]})
    rows = index_rows(pairs.assign(group=["A"] * 1499 + ["B"]))
    tracemalloc.start()
    try:
        assert fewest_wrong(rows, "document") == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2e6  # the whole product has 2 million entries


# -- wrong queries for each document ---------------------------------------------------------------


def test_mined_queries_join_the_batch_and_no_own_query_is_among_them(settings, jobs):
    rows = index_rows(jobs)
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision)
    tables = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
    given = settings.replace(negatives="mined", mineside="query", minepool=4, minecount=2, mineshare=0.0)
    found = Miner(rows, tables, mining_policy(given), 6, given.seed)
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
