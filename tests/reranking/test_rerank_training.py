"""A second stage is trained on lists, tested like any run, goes on from a checkpoint and refuses bad settings."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import JOBS, job_pairs, make_model, title
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import nn

from hr_search import Settings, run_experiment
from hr_search.base import plots
from hr_search.base.errors import InputError
from hr_search.base.signals import Interrupted
from hr_search.batches import index_rows
from hr_search.checks import check_settings
from hr_search.data.loading import load_data
from hr_search.data.tasks import tasks_of
from hr_search.evaluation.metrics import rank_all
from hr_search.mining import Miner
from hr_search.policies import list_policy
from hr_search.reranking import stage
from hr_search.reranking.candidates import candidates_of
from hr_search.reranking.cross_encoder import Reranker
from hr_search.reranking.lists import lists_of, listwise, parts_of
from hr_search.reranking.scorer import load_reranker, new_reranker
from hr_search.reranking.training import ListTraining
from hr_search.row_checks import check_rows
from hr_search.train import carry_out, make_accelerator


def settings_for(model, jobs_file, **changes) -> Settings:
    common = {"modelname": str(model), "datapath": str(jobs_file), "stage": "rerank", "maxlength": 32}
    small = {"candidates": 3, "minepool": 4, "mineshare": 0.0, "reranktop": 4, "batchsize": 8, "splitseed": 7}
    shares = {"validationshare": 0.2, "testshare": 0.25, "precision": "fp32"}
    return Settings(**(common | small | shares | changes))


# -- lists and their loss ------------------------------------------------------------------------


def test_loss_is_cross_entropy_of_each_list():
    sizes, logits = np.array([3, 1, 2]), torch.tensor([2.0, 1.0, -1.0, 5.0, 0.5, 0.5])
    losses, active = listwise(logits, sizes)
    wanted = [math.log(1 + math.exp(-1) + math.exp(-3)), 0.0, math.log(2)]
    assert losses.tolist() == pytest.approx(wanted, abs=1e-6)
    assert active.tolist() == [False, False, True]


@pytest.mark.parametrize("direction", ["q2d", "d2q"])
def test_lists_begin_with_the_own_pair(direction, jobs):
    rows = index_rows(jobs)
    chosen, wrong = np.array([5, 0]), [np.array([1, 9]), np.array([], np.int64)]
    lists = lists_of(rows, chosen, wrong, direction)
    assert lists.sizes.tolist() == [3, 1]
    searched, found = (lists.titles, lists.vacancies) if direction == "q2d" else (lists.vacancies, lists.titles)
    own = (rows.query, rows.positive) if direction == "q2d" else (rows.positive, rows.query)
    assert searched.tolist() == [own[0][5]] * 3 + [own[0][0]]
    assert found.tolist() == [own[1][5], 1, 9, own[1][0]]


def test_parts_hold_whole_lists_once_within_the_budget():
    draw = np.random.default_rng(0)
    sizes = draw.integers(1, 6, 40)
    lengths = draw.integers(3, 30, sizes.sum())
    parts = parts_of(sizes, lengths, 100)
    assert np.concatenate(parts).tolist() == list(range(40))
    tokens = [part.sum() for part in np.split(lengths, np.cumsum(sizes)[:-1])]
    assert all(sum(tokens[i] for i in part) <= 100 or len(part) == 1 for part in parts)
    assert 1 < len(parts) < 40


class Fixed:
    """An encoder whose embeddings are given."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def embed(self, table, progress=False, processes=None):
        return np.random.default_rng([self.seed, len(table)]).standard_normal((len(table), 8)).astype(np.float32)


def training(tiny_model, reads=32, **changes) -> ListTraining:
    pairs = job_pairs()
    settings = settings_for(tiny_model, "unused", **changes)
    rows, accelerator = index_rows(pairs), make_accelerator()
    tokens = {"query": rows.queries, "document": rows.documents}
    miner = Miner(rows, tokens, list_policy(settings), 1, settings.seed)
    miner.refresh(Fixed(), accelerator, 0)
    reranker = new_reranker(settings.modelname, reads, "fp32", 0.0, "cpu", settings.seed)
    return ListTraining(reranker, rows, miner, settings, "data", accelerator)


@pytest.mark.parametrize("direction", ["q2d", "d2q"])
def test_texts_of_the_own_group_are_never_wrong(direction, tiny_model):
    run = training(tiny_model, direction=direction, epochs=2)
    titles = dict(zip(job_pairs()["positive"], job_pairs()["query"], strict=True))
    count = 0
    for _, _, lists in run.batches():
        ends = np.cumsum(lists.sizes)
        pairs = [
            (run.rows.queries[a], run.rows.documents[b]) for a, b in zip(lists.titles, lists.vacancies, strict=True)
        ]
        right = np.zeros(len(pairs), bool)
        right[ends - lists.sizes] = True
        assert [titles[vacancy] == title for title, vacancy in pairs] == right.tolist()
        assert set(lists.sizes.tolist()) == {3}
        count += len(lists.sizes)
    assert count == 2 * len(run.rows)


def test_gradients_do_not_depend_on_the_parts(tiny_model):
    found = []
    for budget in (0, 40):
        run = training(tiny_model, chunktokens=budget)
        chosen, _, lists = next(run.batches())
        figures, tokens = run.gradients(lists, chosen)
        grads = {name: weight.grad.clone() for name, weight in run.encoder.named_parameters()}
        found.append((figures, tokens, grads))
    assert found[0][1] == found[1][1] and torch.isnan(found[0][0][2])
    assert torch.allclose(found[0][0][:2], found[1][0][:2], atol=1e-6)
    for name, gradient in found[0][2].items():
        assert torch.allclose(gradient, found[1][2][name], atol=1e-6), name
    run.encoder.train()
    titles = [run.rows.queries[at] for at in lists.titles]
    logits = run.encoder(run.encoder.rows(titles, [run.rows.documents[at] for at in lists.vacancies]))
    assert listwise(logits, lists.sizes)[0].mean().item() == pytest.approx(float(found[0][0][0]), abs=1e-6)


def test_a_trainlength_beyond_what_the_model_takes_is_lowered(tiny_model, monkeypatch):
    run = training(tiny_model, reads=9, maxlength=1024, trainlength=600)
    lengths, original = [], Reranker.forward
    monkeypatch.setattr(
        Reranker, "forward", lambda self, rows, *a: lengths.extend(map(len, rows)) or original(self, rows, *a)
    )
    chosen, _, lists = next(run.batches())
    run.gradients(lists, chosen)
    assert max(lengths) == 9


def test_the_vocabulary_is_that_of_the_lengths_that_are_read(tiny_model, monkeypatch, jobs_file):
    settings = settings_for(tiny_model, jobs_file, maxlength=1024, trainlength=600, condense=60)
    data, lengths, original = load_data(settings), [], Reranker.shortened
    monkeypatch.setattr(
        Reranker, "shortened", lambda self, texts, length: lengths.append(length) or original(self, texts, length)
    )
    reranker = stage.open_second_stage(settings, data, data.rows(), make_accelerator())
    assert reranker.maxlength < 600 and set(lengths) == {reranker.maxlength}


def test_training_lowers_the_loss_and_learns_the_pairs(tiny_model):
    run = training(tiny_model, epochs=60, learningrate=3e-3, patience=0)
    progress = carry_out(run, lambda step: {"mrr": math.nan}, lambda row: None)
    losses = [row["loss"] for row in progress.history[1:]]
    assert losses[-1] < 0.5 * losses[0]
    pairs = job_pairs()
    score = run.encoder.score(list(pairs["query"]), list(pairs["positive"]))
    assert (score > run.encoder.score(list(np.roll(pairs["query"], 6)), list(pairs["positive"]))).mean() > 0.7


def test_no_wrong_candidates_at_all_are_refused(tiny_model, jobs):
    settings, rows = settings_for(tiny_model, "unused"), index_rows(jobs)
    miner = Miner(rows, {}, list_policy(settings), 1, 0)
    miner.negatives = np.full((len(rows.queries), 4), -1)
    with pytest.raises(InputError, match="no text has a wrong candidate"):
        ListTraining(new_reranker(str(tiny_model), 32), rows, miner, settings, "data", make_accelerator())


def test_resumed_weights_are_those_of_an_uninterrupted_run(tiny_model, tmp_path):
    changes = {"epochs": 2, "dropout": 0.1, "checkpointpath": str(tmp_path / "c.pt"), "checkpointsteps": 1}

    def end(run: ListTraining) -> dict:
        carry_out(run, lambda step: {"mrr": math.nan}, lambda row: None)
        return run.encoder.state_dict()

    whole = end(training(tiny_model, **changes | {"checkpointpath": ""}))
    cut = training(tiny_model, **changes)
    steps, step = iter(range(2)), cut.step

    def stopped(chosen, batch):
        if next(steps, None) is None:
            raise InputError("stopped")
        step(chosen, batch)

    cut.step = stopped
    with pytest.raises(InputError, match="stopped"):
        end(cut)
    run = training(tiny_model, **changes, resume=True)
    assert run.progress.step == 2
    again = end(run)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_loss_that_is_nan_is_refused(tiny_model):
    run = training(tiny_model)
    nn.init.constant_(run.encoder.model.classifier.bias, float("nan"))
    with pytest.raises(InputError, match="the loss is nan at step 1 .with .*lower --learningrate"):
        carry_out(run, lambda step: {"mrr": 0.5}, lambda row: None)


# -- candidates ----------------------------------------------------------------------------------


def sides_of_jobs(tasks) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    sizes = {"query": len(tasks["q2d"].queries), "document": len(tasks["q2d"].documents)}
    return {side: draw.standard_normal((size, 8)).astype(np.float32) for side, size in sizes.items()}


@pytest.mark.parametrize("direction", ["q2d", "d2q"])
def test_reranked_order_is_that_of_a_naive_sort(direction, tiny_model, jobs):
    task = tasks_of(jobs)[direction]
    sides = sides_of_jobs(tasks_of(jobs))
    reranker = new_reranker(str(tiny_model), 32, "fp32").eval()
    read = candidates_of(reranker, task, sides, 5)
    logits = read.logits(reranker)
    table = read.ranked(logits)
    cosines = read.cosines(0, len(task.queries))
    for query, row in table.iterrows():
        order = np.argsort(-cosines[query], kind="stable")
        top = order[:5]
        pairs = [(task.queries[query], task.documents[at])[:: 1 if direction == "q2d" else -1] for at in top]
        score = reranker.score(*map(list, zip(*pairs, strict=True)))
        np.testing.assert_allclose(score, logits[query], atol=1e-5)
        final = [*top[np.argsort(-logits[query], kind="stable")], *order[5:]]
        best = min(final.index(at) for at in task.relevant[query])
        assert row["rank"] == best + 1


def test_logits_in_the_retrievers_order_change_nothing(tiny_model, jobs):
    task = tasks_of(jobs)["d2q"]
    read = candidates_of(new_reranker(str(tiny_model), 32), task, sides_of_jobs(tasks_of(jobs)), 50)
    assert read.found.shape == (len(task.queries), len(task.documents))  # no more than there are
    falling = -np.arange(read.found.shape[1], dtype=np.float32)[None].repeat(len(read.found), axis=0)
    pd.testing.assert_frame_equal(read.ranked(falling), rank_all(task, read.cosines))


def test_limit_draws_the_same_queries_by_seed(tiny_model, jobs):
    task, sides = tasks_of(jobs)["q2d"], sides_of_jobs(tasks_of(jobs))
    reranker = new_reranker(str(tiny_model), 32)
    drawn = [candidates_of(reranker, task, sides, 3, 5, seed) for seed in (1, 1, 2)]
    assert drawn[0].task.queries == drawn[1].task.queries != drawn[2].task.queries
    whole = candidates_of(reranker, task, sides, 3)
    places = [task.queries.index(text) for text in drawn[0].task.queries]
    assert len(places) == 5 and np.array_equal(drawn[0].found, whole.found[places])
    assert all(np.array_equal(a, task.relevant[at]) for a, at in zip(drawn[0].task.relevant, places, strict=True))


# -- a whole run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    from hr_search.base import paths

    folder = tmp_path_factory.mktemp("rerank")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.HOME_VARIABLE, str(folder / "home"))
        job_pairs()[["query", "positive"]].to_csv(folder / "jobs.csv", index=False)
        make_model(folder / "base")
        SentenceTransformer(str(make_model(folder / "plain")), device="cpu").save(str(folder / "retriever"))
        changes = {"retriever": str(folder / "retriever"), "outputpath": str(folder / "out"), "condense": 60}
        settings = settings_for(folder / "base", folder / "jobs.csv", epochs=2, **changes)
        yield folder, settings, run_experiment(settings, "second")


def test_run_has_the_tables_of_any_run(finished):
    _, _, run = finished
    assert run.table("metrics")["system"].unique().tolist() == ["bm25", "tfidf", "base", "trained"]
    assert set(run.table("metrics")["direction"]) == {"q2d", "d2q"}
    history = run.table("history")
    assert history["step"].tolist() == [0, *history["step"][1:]] and history["loss"][1:].notna().all()
    assert history["collapsed"].eq(0).all() and history["mrr"].between(0, 1).all()
    assert run.summary["verdict"] and run.summary["metrics"]["trained"]["q2d"]["mrr"][0] <= 1
    assert run.config["stage"] == "rerank" and "--stage=rerank" in run.summary["command"]
    assert {"second stage, q2d: top 4", "second stage, d2q: top 3"} <= set(run.table("timing")["what"])
    assert set(run.table("scores")["system"]) == {"base"}  # the scores of a second stage are no cosines
    assert len(run.table("mining")) == 1 and not (run.folder / "probes").exists()
    queries = run.table("queries")
    behind = [queries.query("system == @name and direction == 'q2d'") for name in ("base", "trained")]
    assert behind[0]["query"].tolist() == behind[1]["query"].tolist()


def test_saved_model_scores_as_cross_encoder_and_has_a_card(finished):
    folder, _, run = finished
    reranker = load_reranker(folder / "out", precision="fp32")
    assert reranker.condenser.characters == 60 and reranker.maxlength == 32
    titles, vacancies = list(JOBS), [reranker.condenser(text) for text in JOBS.values()]
    peer = CrossEncoder(str(folder / "out"), device="cpu")
    wanted = peer.predict(list(zip(titles, vacancies, strict=True)), activation_fn=nn.Identity())
    np.testing.assert_allclose(reranker.score(titles, list(JOBS.values())), wanted, atol=1e-4)
    card = (folder / "out" / "README.md").read_text()
    assert "CrossEncoder(" in card and run.summary["command"] in card and "| trained | d2q |" in card
    assert run.summary["verdict"] in card


def test_same_settings_give_the_same_weights_and_an_older_model_is_replaced(finished, monkeypatch):
    from hr_search.base import paths

    folder, settings, _ = finished
    monkeypatch.setenv(paths.HOME_VARIABLE, str(folder / "home"))
    before = load_reranker(folder / "out").state_dict()
    run_experiment(settings, "again")
    after = load_reranker(folder / "out").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("best", "told"), [(-0.01, True), (0.01, False)])
def test_a_second_stage_worse_than_the_retriever_is_named(finished, monkeypatch, caplog, best, told):
    from hr_search.base import paths

    folder, settings, _ = finished
    monkeypatch.setenv(paths.HOME_VARIABLE, str(folder / "home"))

    def trained(*given):
        first = float(re.search(r"mrr (\S+) without a second stage", caplog.text)[1])
        return dataclasses.replace(carry_out(*given), best=first + best)

    monkeypatch.setattr(stage, "carry_out", trained)
    caplog.set_level("INFO")
    run_experiment(settings.replace(outputpath="", epochs=1), f"told-{told}")
    assert ("alone, the second stage orders these texts worse" in caplog.text) == told


def test_report_leaves_drift_out_with_a_sentence(finished):
    from hr_search.reports.report import _nothing_to_read

    _, settings, _ = finished
    assert "no embeddings that could drift" in _nothing_to_read("03_embedding_drift", settings, "second")


def test_history_is_drawn_without_a_spread(finished, closed):
    assert title(plots.active_and_spread(finished[2].table("history"))).endswith("of the rows are active")


def test_run_without_validation_and_test_rows(tiny_model, jobs_file, home):
    settings = settings_for(tiny_model, jobs_file, validationshare=0.0, testshare=0.0, maxsteps=1, direction="d2q")
    run = run_experiment(settings)
    assert "no test rows" in run.summary["verdict"] and run.summary["best_step"] == 1


# -- bad settings --------------------------------------------------------------------------------


def test_settings_that_do_not_fit_are_refused(tiny_model, jobs):
    good = settings_for(tiny_model, "unused")
    check_settings(good)
    with pytest.raises(InputError, match="--retriever belongs to --stage rerank"):
        check_settings(good.replace(stage="encode", retriever="x"))
    with pytest.raises(InputError, match="stage is .rank.; did you mean"):
        good.replace(stage="rank")
    rows = index_rows(jobs)
    check_rows(good, jobs, rows)
    with pytest.raises(InputError, match="one process and 2 were launched"):
        check_rows(good, jobs, rows, 2)
    with pytest.raises(InputError, match="takes 50 wrong texts .* only 22; lower --candidates"):
        check_rows(good.replace(candidates=51), jobs, rows)
    with pytest.raises(InputError, match="takes 12 wrong texts .* only 11"):
        check_rows(good.replace(minepool=12, direction="d2q"), jobs, rows)
    with pytest.raises(InputError, match="--stage rerank: the rank window from 30"):
        check_rows(good.replace(minestart=30, minestop=40), jobs, rows)


def test_settings_without_effect_are_named(tiny_model, caplog):
    check_settings(settings_for(tiny_model, "unused", loss="infonce", mixing="mean"))
    assert "without effect in --stage rerank: loss, mixing" in caplog.text


def test_interrupted_says_how_to_go_on(tiny_model, tmp_path, monkeypatch):
    run = training(tiny_model, checkpointpath=str(tmp_path / "c.pt"))
    monkeypatch.setattr(run, "step", lambda chosen, batch: (_ for _ in ()).throw(Interrupted))
    monkeypatch.setattr("hr_search.train.leave", lambda signal, words: (_ for _ in ()).throw(InputError(words)))
    with pytest.raises(InputError, match="--resume goes on from"):
        carry_out(run, lambda step: {"mrr": 0.5}, lambda row: None)
