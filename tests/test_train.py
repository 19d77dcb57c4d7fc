"""The training loop on a tiny model: it learns, stops, resumes to the bit, and refuses a broken loss."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from hr_search import data, evaluation, schedule, step, train
from hr_search.batches import index_rows
from hr_search.config import Settings
from hr_search.encoder import load_encoder
from hr_search.errors import InputError

BASE = {"batchsize": 8, "epochs": 6, "learningrate": 3e-3, "precision": "fp32", "patience": 0, "seed": 1}


def run(model, pairs, compact=True, validate=None, **changes):
    """Trains the tiny model on the toy jobs and validates on the same rows."""
    settings = Settings(modelname=str(model), **{**BASE, **changes})
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision, settings.dropout)
    rows = index_rows(pairs)
    tables = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
    tasks = data.tasks(pairs)
    held = evaluation.token_tables(encoder, tasks)
    if compact:
        encoder.compact([*tables.values(), *held.values()])

    def mrr(_):
        scores = evaluation.evaluate_embeddings(tasks, evaluation.embed_sides(encoder, held))
        return {"mrr": float(scores["q2d"]["mrr"].mean())}

    progress = train.fit(encoder, rows, tables, settings, validate or mrr, "toy")
    encoder.expand()
    return encoder, progress


def weights(encoder):
    return torch.cat([parameter.detach().flatten() for parameter in encoder.parameters()])


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "triplet", "learningrate": 1e-3, "epochs": 25},
        {"loss": "triplet", "negatives": "random"},
        {"loss": "margin-ce"},
        {"loss": "infonce"},
        {"loss": "infonce", "mixing": "mean"},
        {"loss": "infonce", "mixing": "weighted", "mixk": 2},
        {"loss": "infonce", "mixing": "rocchio", "bank": 24, "mixstart": 0.3},
        {"loss": "infonce", "mixing": "slerp", "mixprobability": 0.5},
        {"loss": "infonce", "mixing": "mochi", "bank": 24, "mixk": 3},
        {"loss": "triplet", "mixing": "synco", "learningrate": 1e-3, "epochs": 25},
        {"loss": "triplet", "hardness": "semi-hard", "learningrate": 1e-3, "epochs": 25},
        {"loss": "triplet", "hardness": "all", "epochs": 25, "learningrate": 1e-3},
        {"loss": "infonce", "negatives": "mined", "minepool": 4, "minecount": 2},
        {"loss": "margin-ce", "symmetric": False},
    ],
)
def test_training_learns(tiny_model, jobs, changes):
    _, progress = run(tiny_model, jobs, **changes)
    history = pd.DataFrame(progress.history)
    assert history["step"].tolist() == list(range(0, 3 * changes.get("epochs", 6) + 1, 3))
    assert history["loss"].iloc[-1] < 0.8 * history["loss"].iloc[1]
    assert history["mrr"].max() > history["mrr"].iloc[0] + 0.2
    assert history["active"].iloc[-1] <= history["active"].iloc[1]
    assert (history[["tokens_per_s", "rows_per_s", "memory_gb"]].iloc[1:] > 0).all(axis=None)


def test_given_negatives_are_used(tiny_model, jobs):
    wrong = jobs["positive"].iloc[::-1].tolist()
    given = jobs.assign(negatives=[[text] for text in wrong])
    _, progress = run(tiny_model, given, negatives="given", batchsize=1, epochs=2)
    assert progress.step == 48 and progress.history[-1]["loss"] < progress.history[1]["loss"]
    # In a batch of one, the only document that can be wrong is the given one.
    _, idle = run(tiny_model, jobs, negatives="batch", batchsize=1, epochs=1, maxsteps=2)
    assert idle.history[-1]["loss"] == 0.0


def test_same_seed_same_numbers_other_seed_others(tiny_model, jobs):
    first, again, other = (run(tiny_model, jobs, epochs=2, dropout=0.1, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_compaction_does_not_change_the_model(tiny_model, jobs):
    small, _ = run(tiny_model, jobs, compact=True, epochs=2, weightdecay=0.1)
    whole, _ = run(tiny_model, jobs, compact=False, epochs=2, weightdecay=0.1)
    assert torch.allclose(weights(small), weights(whole), atol=1e-6)


MINED = {"negatives": "mined", "minepool": 4, "mineevery": 2, "mixing": "mochi", "loss": "infonce"}


@pytest.mark.parametrize("stop", [1, 4, 7])
@pytest.mark.parametrize("more", [{"mixing": "weighted"}, {"mixing": "weighted", "bank": 40}, MINED])
def test_a_resumed_run_ends_as_the_uninterrupted_one(tiny_model, jobs, tmp_path, stop, more):
    changes = {"epochs": 3, "dropout": 0.1, "checkpointsteps": 1, "evalsteps": 2, **more}
    whole, reference = run(tiny_model, jobs, **changes)
    path = str(tmp_path / "checkpoint.pt")
    original, seen = train.run_step, []

    def dies(*arguments):
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(1)
        return original(*arguments)

    train.run_step = dies
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tiny_model, jobs, checkpointpath=path, **changes)
    finally:
        train.run_step = original
    torch.manual_seed(99)
    resumed, progress = run(tiny_model, jobs, checkpointpath=path, resume=True, **changes)
    assert torch.equal(weights(whole), weights(resumed))
    timeless = ["step", "epoch", "loss", "active", "spread", "learningrate", "mrr"]
    pd.testing.assert_frame_equal(
        pd.DataFrame(reference.history)[timeless], pd.DataFrame(progress.history)[timeless], check_exact=True
    )


def test_early_stopping_and_the_best_weights(tiny_model, jobs):
    values = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    kept = {}

    def scripted(step):
        return {"mrr": next(values)}

    encoder, progress = run(tiny_model, jobs, patience=2, validate=scripted)
    assert (progress.best, progress.best_step, progress.step) == (0.5, 3, 9)
    kept["best"] = weights(encoder)
    one_epoch, _ = run(tiny_model, jobs, validate=lambda step: {"mrr": float(step)}, epochs=6, maxsteps=3)
    # The schedule of the shorter run differs, so its weights do too; the best ones are those of step 3.
    assert not torch.equal(kept["best"], weights(one_epoch))
    again, _ = run(tiny_model, jobs, validate=lambda step: {"mrr": 1.0 if step == 3 else 0.0})
    assert torch.equal(kept["best"], weights(again))


def test_mining_is_recorded_and_follows_the_weights(tiny_model, jobs):
    _, progress = run(tiny_model, jobs, **{**MINED, "mineevery": 6, "mixing": "none"})
    assert [row["step"] for row in progress.mining] == [0, 6, 12]
    suspected = [row["suspected"] for row in progress.mining]
    assert suspected[2] < suspected[0]  # fewer wrong documents stand close to, or above, the positive


def test_a_policy_that_leaves_too_little_names_its_settings(tiny_model, jobs):
    with pytest.raises(InputError, match=r"--negatives mined: .*--minepool"):
        run(tiny_model, jobs, negatives="mined", minepool=23)


def test_a_target_that_is_reached_ends_the_run(tiny_model, jobs):
    _, progress = run(tiny_model, jobs, target=0.5, validate=lambda at: {"mrr": 0.2 if at < 6 else 0.6})
    assert progress.step == 6


def test_a_loss_that_is_no_number_stops_with_the_knob(tiny_model, jobs, monkeypatch):
    original = step.losses.triplet
    calls = []

    def broken(*arguments, **named):
        calls.append(1)
        return original(*arguments, **named) * (math.nan if len(calls) == 3 else 1.0)

    monkeypatch.setattr(step.losses, "triplet", broken)
    with pytest.raises(InputError, match=r"the loss is nan at step 3 .*--learningrate"):
        run(tiny_model, jobs)


def test_collapse_is_said_aloud(tiny_model, jobs, caplog, home):
    monkey = step.losses.spread
    step.losses.spread = lambda documents: torch.tensor(0.001)
    try:
        run(tiny_model, jobs, epochs=1)
    finally:
        step.losses.spread = monkey
    assert "the embeddings have collapsed" in caplog.text


def test_schedule_and_plan():
    factor = schedule.warmup_then_linear(100, 0.1)
    assert [factor(0), factor(9), factor(10), factor(100)] == pytest.approx([0.1, 1.0, 1.0, 0.0])
    assert schedule.warmup_then_linear(10, 0.0)(0) == 1.0
    plan = schedule.step_plan(10, 4, Settings(epochs=3, maxsteps=7))
    assert (plan.per_epoch, plan.total) == (3, 7)
    steps = list(plan.batches())
    assert [end for _, end in steps] == [False, False, True, False, False, True, False]
    assert sorted(np.concatenate([rows for rows, _ in steps[:3]])) == list(range(10))
    assert [rows.tolist() for rows, _ in plan.batches(4)] == [rows.tolist() for rows, _ in steps[4:]]


def test_weight_decay_spares_embeddings_biases_and_norms(tiny_model):
    encoder = load_encoder(str(tiny_model))
    decayed, rest = schedule.parameter_groups(encoder, 0.1)
    assert all(parameter.ndim == 2 for parameter in decayed["params"]) and rest["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    assert not any("embeddings" in names[id(parameter)] for parameter in decayed["params"])
    assert len(decayed["params"]) + len(rest["params"]) == len(names)
