"""The training loop on a tiny model: it learns, stops, resumes to the bit, and refuses a broken loss."""

from __future__ import annotations

import math
import shutil
import signal
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import job_pairs

from hr_search import batches, mining, policies, step, train
from hr_search.base import signals
from hr_search.base.errors import InputError
from hr_search.batches import index_rows
from hr_search.checkpoint import previous
from hr_search.data.tasks import tasks_of
from hr_search.encoder import load_encoder
from hr_search.evaluation import scoring
from hr_search.row_checks import check_mining
from hr_search.settings import Settings

BASE = {"batchsize": 8, "epochs": 6, "learningrate": 3e-3, "precision": "fp32", "patience": 0, "seed": 1}


def run(model, pairs, compact=True, validate=None, lessons=None, **changes):
    """Trains the tiny model on the toy jobs and validates on the same rows."""
    encoder, fit = prepared(model, pairs, compact, validate, lessons, **changes)
    progress = fit()
    encoder.expand()
    return encoder, progress


def prepared(model, pairs, compact=True, validate=None, lessons=None, **changes):
    """An encoder, and the function that trains it with further changes of the settings."""
    settings = Settings(modelname=str(model), **{**BASE, **changes})
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision, settings.dropout)
    rows = index_rows(pairs)
    tables = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
    tasks = tasks_of(pairs)
    held = scoring.token_tables(encoder, tasks)
    if compact:
        encoder.compact([*tables.values(), *held.values()])

    def mrr(_):
        scores = scoring.evaluate_embeddings(tasks, scoring.embed_sides(encoder, held))
        return {"mrr": float(scores["q2d"]["mrr"].mean())}

    def fit(**more):
        given = settings.replace(**more)
        return train.fit(encoder, rows, tables, given, validate or mrr, "toy", lessons=lessons)

    return encoder, fit


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


@pytest.mark.parametrize(
    ("stop", "more"),
    [
        (1, {"mixing": "weighted"}),
        (4, {"mixing": "weighted", "bank": 40}),
        (7, MINED),
        (4, {"loss": "infonce", "baseshare": 0.3}),
    ],
)
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


# -- checkpoints that were edited ------------------------------------------------------------------

ZERO = torch.zeros(1)
EDITED = {
    "no parts": lambda state: state.pop("parts"),
    "a part is missing": lambda state: state["parts"].pop("bank"),
    "a part too many": lambda state: state["parts"].update(other={}),
    "a part of another type": lambda state: state["parts"].update(optimiser=[1, 2]),
    "a model's tensor is missing": lambda state: state["parts"]["model"].popitem(),
    "weights of another shape": lambda state: state["parts"]["model"].update(
        dict.fromkeys(state["parts"]["model"], ZERO)
    ),
    "an optimiser of another shape": lambda state: state["parts"]["optimiser"]["state"][3].update(exp_avg=ZERO),
    "optimiser groups": lambda state: state["parts"]["optimiser"]["param_groups"].pop(),
    "a bank of another size": lambda state: state["parts"]["bank"].update(embeddings=ZERO),
    "no random state": lambda state: state.pop("random"),
    "random state of text": lambda state: state["random"][0].update(cpu="abc"),
    "random state too short": lambda state: state["random"][0].update(cpu=torch.zeros(5, dtype=torch.uint8)),
    "random states of no process": lambda state: state["random"].clear(),
    "a negative step": lambda state: state["progress"].update(step=-3),
    "a step of text": lambda state: state["progress"].update(step="3"),
    "another step than the schedule's": lambda state: state["progress"].update(step=2),
    "progress unknown": lambda state: state["progress"].update(mood="good"),
    "no progress": lambda state: state.update(progress=None),
    "history of numbers": lambda state: state["progress"].update(history=[1, 2]),
    "seconds infinite": lambda state: state["progress"].update(seconds=math.inf),
    "counts of text": lambda state: state["progress"].update(counts="abc"),
    "sums of another shape": lambda state: state["progress"].update(sums=ZERO),
    "best weights of another model": lambda state: state["progress"].update(best_weights={"a": ZERO}),
    "a best value of text": lambda state: state["progress"].update(best="0.5"),
    "no schedule": lambda state: state.update(schedule=7),
    "settings of another type": lambda state: state.update(settings=[]),
}


@pytest.fixture(scope="module")
def two_checkpoints(tiny_model, tmp_path_factory):
    """The checkpoints after steps 3 and 6 of a run with a bank, and its settings."""
    place = tmp_path_factory.mktemp("edited") / "c.pt"
    given = {"mixing": "weighted", "bank": 40, "checkpointsteps": 3, "maxsteps": 6}
    run(tiny_model, job_pairs(), checkpointpath=str(place), **given)
    return place, given


@pytest.mark.parametrize("edit", EDITED.values(), ids=EDITED)
def test_an_edited_checkpoint_gives_way_to_the_one_before_or_ends_in_a_sentence(
    tiny_model, jobs, tmp_path, two_checkpoints, edit, caplog, home
):
    place, given = tmp_path / "c.pt", two_checkpoints[1]
    state = torch.load(two_checkpoints[0], weights_only=True)
    edit(state)
    torch.save(state, place)
    with pytest.raises(InputError, match=r"c.pt is not a whole checkpoint of this program; give another"):
        run(tiny_model, jobs, checkpointpath=str(place), resume=True, **given)
    shutil.copy(previous(two_checkpoints[0]), previous(place))
    _, progress = run(tiny_model, jobs, checkpointpath=str(place), resume=True, **given)
    assert progress.step == 6 and "going on from the checkpoint before it" in caplog.text


# -- more epochs -----------------------------------------------------------------------------------


def test_a_finished_run_goes_on_for_more_epochs_with_a_new_warmup(tiny_model, jobs, tmp_path, caplog, home):
    caplog.set_level("INFO", logger="hr_search")
    path, rates = str(tmp_path / "c.pt"), "learningrate"
    _, first = run(tiny_model, jobs, epochs=1, checkpointpath=path)
    longer = {"epochs": 3, "warmup": 0.5, "checkpointpath": path, "resume": True, "evalsteps": 1}
    with pytest.raises(InputError, match="warmup = "):
        run(tiny_model, jobs, **longer)
    del longer["warmup"], longer["evalsteps"]
    _, more = run(tiny_model, jobs, **longer)
    end = first.step
    assert more.step == 3 * end and [row["step"] for row in more.history] == [0, end, 2 * end, 3 * end]
    assert f"going on to step {3 * end}: from step {end} the learning rate rises for" in caplog.text
    assert more.history[1][rates] < more.history[2][rates] > more.history[3][rates] > 0
    _, again = run(tiny_model, jobs, **longer)  # finished: nothing is left to do
    assert again.step == 3 * end and [row["mrr"] for row in again.history] == [row["mrr"] for row in more.history]
    with pytest.raises(InputError, match=rf"stands at step {3 * end}, and --epochs 1 .* makes {end}; raise --epochs"):
        run(tiny_model, jobs, epochs=1, checkpointpath=path, resume=True)


def test_early_stopping_and_the_best_weights(tiny_model, jobs):
    values = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9])

    def scripted(step):
        return {"mrr": next(values)}

    encoder, progress = run(tiny_model, jobs, patience=2, validate=scripted)
    assert (progress.best, progress.best_step, progress.step) == (0.5, 3, 9)
    again, _ = run(tiny_model, jobs, validate=lambda step: {"mrr": 1.0 if step == 3 else 0.0})
    assert torch.equal(weights(encoder), weights(again))


def test_the_base_model_is_mixed_into_what_is_validated_and_kept_and_not_into_training(tiny_model, jobs):
    base = load_encoder(str(tiny_model), 128, "fp32", 0.0)
    nothing = lambda step: {"mrr": math.nan}  # noqa: E731
    plain, alone = run(tiny_model, jobs, validate=nothing)
    mixed, progress = run(tiny_model, jobs, validate=nothing, baseshare=0.4)
    assert [row["loss"] for row in progress.history[1:]] == [row["loss"] for row in alone.history[1:]]
    assert torch.allclose(weights(mixed), 0.6 * weights(plain) + 0.4 * weights(base), atol=1e-6)

    seen = []
    encoder, fit = prepared(tiny_model, jobs, compact=False, validate=lambda step: seen.append(weights(encoder)) or {
        "mrr": 1.0 if step == 9 else 0.5
    })  # fmt: skip
    assert fit(baseshare=0.4).best_step == 9
    assert torch.equal(seen[0], weights(base)) and torch.equal(seen[3], weights(encoder))


def test_mining_is_recorded_and_follows_the_weights(tiny_model, jobs):
    _, progress = run(tiny_model, jobs, **{**MINED, "mineevery": 6, "mixing": "none"})
    assert [row["step"] for row in progress.mining] == [0, 6, 12]
    suspected = [row["suspected"] for row in progress.mining]
    assert suspected[2] < suspected[0]  # fewer wrong documents stand close to, or above, the positive


def test_a_policy_that_leaves_too_little_names_its_settings(jobs):
    with pytest.raises(InputError, match=r"--negatives mined takes 23 .* only 22, .* lower --minepool"):
        check_mining(Settings(negatives="mined", minepool=23), index_rows(jobs))
    check_mining(Settings(negatives="mined", minepool=22), index_rows(jobs))


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
    factor = policies.warmup_then_linear(100, 0.1)
    assert [factor(0), factor(9), factor(10), factor(100)] == pytest.approx([0.1, 1.0, 1.0, 0.0])
    assert policies.warmup_then_linear(10, 0.0)(0) == 1.0
    plan = batches.step_plan(10, 4, 3, 7, 42)
    assert (plan.per_epoch, plan.total) == (3, 7)
    steps = list(plan.batches())
    assert [end for _, end in steps] == [False, False, True, False, False, True, False]
    assert sorted(np.concatenate([rows for rows, _ in steps[:3]])) == list(range(10))
    assert [rows.tolist() for rows, _ in plan.batches(4)] == [rows.tolist() for rows, _ in steps[4:]]


@pytest.mark.parametrize("per_step", [1, 2, 3, 4, 10, 11])
@pytest.mark.parametrize("count", [1, 2, 9, 10, 11])
def test_a_plan_counts_the_batches_that_an_epoch_has(count, per_step):
    plan = batches.step_plan(count, per_step, 2, 0, 42)
    assert plan.per_epoch == len(plan.epoch(0)) == plan.total // 2


def test_weight_decay_spares_embeddings_biases_and_norms(tiny_model):
    encoder = load_encoder(str(tiny_model))
    decayed, rest = policies.parameter_groups(encoder, 0.1)
    assert all(parameter.ndim == 2 for parameter in decayed["params"]) and rest["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    assert not any("embeddings" in names[id(parameter)] for parameter in decayed["params"])
    assert len(decayed["params"]) + len(rest["params"]) == len(names)


# -- signals -------------------------------------------------------------------------------------


STATEFUL = {"epochs": 3, "dropout": 0.1, "evalsteps": 2, **MINED, "mineevery": 3, "bank": 40}
TIMELESS = ["step", "epoch", "loss", "active", "spread", "learningrate", "mrr"]


TRAINED: list = []


@pytest.fixture
def undisturbed(tiny_model, jobs):
    """The weights and the progress of the run that no signal reaches; trained once."""
    if not TRAINED:
        encoder, progress = run(tiny_model, jobs, **STATEFUL)
        TRAINED.append((weights(encoder), progress))
    return TRAINED[0]


def asked_to_stop(monkeypatch, where: str, count: int, number: int) -> list[float]:
    """Makes a signal come in the middle of the `count`-th call of a function; what it does after that is listed."""
    owner, name = {"step": (train, "run_step"), "validation": (scoring, "evaluate_embeddings"),
                   "mining": (mining, "mine")}[where]  # fmt: skip
    original, calls, after = getattr(owner, name), [], []

    def signalled(*arguments, **named):
        calls.append(1)
        if len(calls) == count:
            signal.raise_signal(number)
            after.append(1)
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, signalled)
    return after


@pytest.mark.parametrize(
    ("where", "count", "step", "number"),
    [
        ("step", 1, 1, signal.SIGINT),
        ("step", 5, 5, signal.SIGTERM),
        ("step", 9, 9, signal.SIGINT),
        ("validation", 1, 0, signal.SIGTERM),
        ("validation", 2, 2, signal.SIGINT),
        ("validation", 7, 9, signal.SIGINT),
        ("mining", 1, 0, signal.SIGINT),
        ("mining", 3, 6, signal.SIGTERM),
    ],
)
def test_a_signal_leaves_a_checkpoint_from_which_the_run_goes_on(
    tiny_model, jobs, tmp_path, monkeypatch, caplog, home, undisturbed, where, count, step, number
):
    whole, reference = undisturbed
    path, usual = str(tmp_path / "c.pt"), [signal.getsignal(each) for each in signals.SIGNALS]
    with monkeypatch.context() as patch:
        after = asked_to_stop(patch, where, count, number)
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as caught:
            run(tiny_model, jobs, checkpointpath=path, **STATEFUL)
    # A step is ended first; what can be long is left at once.
    assert after == ([1] if where == "step" else [])
    assert f"stopped after step {step} of 9; the same command with --resume goes on from {path}" in caplog.text
    assert caught.value.args == (143,) if number == signal.SIGTERM else f"after step {step}" in str(caught.value)
    assert [signal.getsignal(each) for each in signals.SIGNALS] == usual
    torch.manual_seed(99)
    resumed, progress = run(tiny_model, jobs, checkpointpath=path, resume=True, **STATEFUL)
    assert torch.equal(whole, weights(resumed))
    for ours, theirs in [(progress.history, reference.history), (progress.mining, reference.mining)]:
        columns = TIMELESS if "loss" in theirs[0] else [name for name in theirs[0] if name != "seconds"]
        pd.testing.assert_frame_equal(pd.DataFrame(ours)[columns], pd.DataFrame(theirs)[columns], check_exact=True)


def test_a_second_signal_stops_at_once(tiny_model, jobs, tmp_path, monkeypatch, caplog, home):
    original = train.run_step

    def twice(*arguments):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(train, "run_step", twice)
    with pytest.raises(SystemExit) as caught:
        run(tiny_model, jobs, checkpointpath=str(tmp_path / "c.pt"))
    assert caught.value.code == 143 and not (tmp_path / "c.pt").exists()
    assert "a second signal stops at once" in caplog.text and "goes on from" not in caplog.text


def test_without_a_checkpoint_path_the_signal_is_obeyed_too(tiny_model, jobs, monkeypatch, caplog, home):
    asked_to_stop(monkeypatch, "step", 2, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="nothing is kept, as no --checkpointpath was given"):
        run(tiny_model, jobs)


def test_the_same_encoder_trains_on_after_ctrl_c(tiny_model, jobs, tmp_path, monkeypatch):
    """As in a notebook, where all objects are still there."""
    encoder, fit = prepared(tiny_model, jobs, epochs=3, dropout=0.1, checkpointpath=str(tmp_path / "c.pt"))
    threads = threading.active_count()
    with monkeypatch.context() as patch:
        asked_to_stop(patch, "step", 4, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            fit()
    assert threading.active_count() == threads  # none is left that makes batches for a loop that is gone
    assert np.isfinite(encoder.embed(encoder.tokens(["welder"], "query"))).all()
    progress = fit(resume=True)
    encoder.expand()
    whole, _ = run(tiny_model, jobs, epochs=3, dropout=0.1)
    assert progress.step == 9 and torch.equal(weights(whole), weights(encoder))


def test_signals_outside_the_loop_and_outside_the_main_thread_are_not_ours():
    usual = [signal.getsignal(each) for each in signals.SIGNALS]

    def elsewhere() -> None:
        with signals.postponed() as stop:
            handlers.append([signal.getsignal(each) for each in signals.SIGNALS])
            assert stop.at_once(abs)(-2) == 2 and not stop.signal

    handlers: list = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert handlers == [usual]
    with pytest.raises(KeyboardInterrupt), signals.postponed() as stop:  # nobody asked: it has its usual effect
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.postponed() as stop:
            signal.raise_signal(signal.SIGINT)  # ignored before, ignored now
        assert not stop.signal
    finally:
        signal.signal(signal.SIGINT, before)


def test_launchers_that_pass_a_signal_on_do_not_stop_at_once():
    with pytest.raises(SystemExit) as caught, signals.postponed(launched=True) as stop:
        work = stop.at_once(lambda: signal.raise_signal(signal.SIGINT))
        work()
        signal.raise_signal(signal.SIGTERM)  # the launcher's echo of the terminal's Ctrl-C
        assert stop.signal == signal.SIGINT
        stop._since -= 10
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143


def test_a_file_that_is_no_checkpoint_is_not_overwritten(tiny_model, jobs, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of it")
    with pytest.raises(InputError, match="is not a checkpoint; it would be overwritten"):
        run(tiny_model, jobs, checkpointpath=str(tmp_path / "thesis.txt"))
    assert (tmp_path / "thesis.txt").read_text() == "years of it"


def test_the_best_weights_are_stored_once_and_the_size_is_known(tiny_model, jobs, tmp_path):
    """Weights, two moments of AdamW and the best weights: four times the model, and no more."""
    encoder, _ = run(tiny_model, jobs, checkpointpath=str(tmp_path / "c.pt"), checkpointsteps=9, maxsteps=9)
    parameters = weights(encoder).numel() * 4
    kept = torch.load(tmp_path / "c.pt", weights_only=True)
    assert set(kept["progress"]["best_weights"]) == set(kept["parts"]["model"])
    assert 2 * parameters < (tmp_path / "c.pt").stat().st_size < 4 * parameters + 100_000
