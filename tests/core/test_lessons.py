"""Lessons: what of a teacher's scores a batch gets, and what training makes of it."""

from __future__ import annotations

import math
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from test_train import prepared, run, weights

from hr_search import train
from hr_search.base.errors import InputError
from hr_search.batches import Rows, index_rows, make_batch
from hr_search.lessons import Lesson, Lessons
from hr_search.losses import distillation
from hr_search.mining import anchors
from hr_search.mixing import MixingPolicy
from hr_search.step import Context, LossPolicy, batch_loss, sides_of

SIDES = ["document", "query"]
TAUGHT = {"loss": "infonce", "temperature": 0.1}


def lessons_of(rows: Rows, side: str = "document", count: int = 5, drawn: int = 0, seed: int = 0) -> Lessons:
    """Random scores of random texts that are wrong for their anchor; one anchor has one candidate less."""
    draw = np.random.default_rng(seed)
    distinct, place, _ = anchors(rows, side)
    groups = {"query": rows.query_groups, "document": rows.document_groups}
    fits = (groups["query" if side == "document" else "document"][distinct] @ groups[side].T).toarray() > 0
    candidates = np.stack([draw.permutation(np.flatnonzero(~row))[:count] for row in fits])
    candidates[1, -1] = -1
    scores, own = draw.normal(size=candidates.shape), draw.normal(size=len(rows))
    return Lessons(side, place, candidates, scores.astype(np.float32), own.astype(np.float32), drawn, 7, f"s{seed}")


def texts_of(lesson: Lesson, batch) -> np.ndarray:
    there = batch.documents if lesson.side == "document" else batch.queries
    return np.concatenate([there, lesson.further])


# -- what a batch gets ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("drawn", [0, 1, 3])
def test_a_row_has_its_own_pair_and_its_candidates_in_the_batch_and_nothing_else(jobs, side, drawn):
    rows = index_rows(jobs)
    lessons = lessons_of(rows, side, drawn=drawn)
    chosen = np.array([3, 0, 2, 17, 16])
    batch = make_batch(rows, chosen)
    lesson = lessons.lesson(batch, chosen, step=4)
    texts, own = texts_of(lesson, batch), rows.positive if side == "document" else rows.query
    assert lesson.scores.shape == lesson.allowed.shape == (len(chosen), len(texts)) and len(set(texts)) == len(texts)
    assert not set(lesson.further) & set(texts[: len(texts) - len(lesson.further)])
    for at, row in enumerate(chosen):
        logits = dict(zip(lessons.candidates[lessons.anchor[row]], lessons.scores[lessons.anchor[row]], strict=True))
        logits = {text: score for text, score in logits.items() if text >= 0} | {own[row]: lessons.own[row]}
        expected = {text: score for text, score in logits.items() if text in texts}
        assert len(expected) == len(logits) if not drawn else len(expected) > drawn
        found = {text: lesson.scores[at, place] for place, text in enumerate(texts) if lesson.allowed[at, place]}
        assert found == expected and (lesson.scores[at][~lesson.allowed[at]] == 0).all()


def test_the_draw_depends_on_seed_and_step_only(jobs):
    rows = index_rows(jobs)
    lessons, chosen = lessons_of(rows, drawn=1), np.arange(6)
    batch = make_batch(rows, chosen)
    first, again, later = (lessons.lesson(batch, chosen, step).further.tolist() for step in (2, 2, 3))
    assert first == again != later
    every = {text for step in range(60) for text in lessons.lesson(batch, chosen, step).further}
    assert every == set(lessons.candidates[lessons.anchor[chosen]].ravel()) - {-1} - set(batch.documents)


# -- in the loss ---------------------------------------------------------------------------------


def context(rows: Rows, policy: LossPolicy) -> Context:
    return Context(rows, {}, policy, MixingPolicy(), 0, 1)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("policy", [LossPolicy("infonce"), LossPolicy("triplet", negatives="random")])
def test_the_term_comes_beside_the_loss_and_changes_nothing_in_it(jobs, side, policy):
    rows, chosen = index_rows(jobs), np.array([0, 5, 4, 9])
    batch = make_batch(rows, chosen)
    lesson = lessons_of(rows, side).lesson(batch, chosen, 0)
    draw = torch.Generator().manual_seed(0)
    count = len(batch.queries) + len(batch.documents) + len(lesson.further)
    embeddings = torch.nn.functional.normalize(torch.randn(count, 8, generator=draw), dim=-1)
    alone = embeddings[: count - len(lesson.further)]
    plain, figures = batch_loss(alone, batch, context(rows, policy), 0)
    heavy = LossPolicy(policy.name, negatives=policy.negatives, teacher_weight=3.0, teacher_temperature=2.0)
    both, more = batch_loss(embeddings, batch, context(rows, heavy), 0, lesson)
    queries, documents, further = sides_of(embeddings, batch)
    left = queries[batch.query] if side == "document" else documents[batch.positive]
    cosines = left @ torch.cat([documents if side == "document" else queries, further]).T
    term = distillation(cosines, torch.from_numpy(lesson.scores), torch.from_numpy(lesson.allowed), 0.05, 2.0)
    assert figures.shape == (3,) and more.shape == (4,) and term > 0.01
    torch.testing.assert_close(both, plain + 3 * term)
    assert torch.equal(more[1:3], figures[1:]) and more[3].item() == pytest.approx(term.item(), rel=1e-5)
    assert more[0].item() == pytest.approx(both.item(), rel=1e-5)


# -- in training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_an_encoder_learns_to_rank_as_its_teacher(tiny_model, jobs, side):
    lessons = lessons_of(index_rows(jobs), side)
    _, progress = run(tiny_model, jobs, lessons=lessons, epochs=15, teacherweight=5.0, **TAUGHT)
    history = pd.DataFrame(progress.history)
    assert history.columns.tolist()[2:5] == ["loss", "teacher", "active"] and math.isnan(history["teacher"].iloc[0])
    assert history["teacher"].iloc[-1] < 0.5 * history["teacher"].iloc[1]
    assert (history["loss"].iloc[1:] >= 5 * history["teacher"].iloc[1:]).all()
    _, alone = run(tiny_model, jobs, epochs=1, **TAUGHT)
    assert "teacher" not in alone.history[1]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("more", [{}, {"mixing": "weighted", "bank": 40, "negatives": "mined", "minepool": 4}])
def test_gradient_caching_trains_the_same_model(tiny_model, jobs, side, more):
    changes = {"epochs": 2, "learningrate": 1e-3, "chunktokens": 40, "dropout": 0.2, **TAUGHT, **more}
    lessons = lessons_of(index_rows(jobs), side, drawn=2)
    whole, _ = run(tiny_model, jobs, lessons=lessons, **changes)
    parts, _ = run(tiny_model, jobs, lessons=lessons, gradcache=True, **changes)
    other, _ = run(tiny_model, jobs, **changes)
    assert torch.allclose(weights(whole), weights(parts), atol=2e-5)
    assert not torch.allclose(weights(whole), weights(other), atol=2e-5)


def test_a_resumed_run_ends_as_the_uninterrupted_one(tiny_model, jobs, tmp_path, monkeypatch):
    changes = {"epochs": 3, "dropout": 0.1, "checkpointsteps": 1, "evalsteps": 2, **TAUGHT}
    lessons, path = lessons_of(index_rows(jobs), drawn=2), str(tmp_path / "c.pt")
    whole, reference = run(tiny_model, jobs, lessons=lessons, **changes)
    original, seen = train.run_step, []

    def dies(*arguments):
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(1)
        return original(*arguments)

    monkeypatch.setattr(train, "run_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_model, jobs, lessons=lessons, checkpointpath=path, **changes)
    monkeypatch.setattr(train, "run_step", original)
    for other in (None, lessons_of(index_rows(jobs), drawn=2, seed=1)):
        with pytest.raises(InputError, match=r"c.pt was made on other data"):
            run(tiny_model, jobs, lessons=other, checkpointpath=path, resume=True, **changes)
    resumed, progress = run(tiny_model, jobs, lessons=lessons, checkpointpath=path, resume=True, **changes)
    assert torch.equal(weights(whole), weights(resumed))
    assert [row["teacher"] for row in reference.history[1:]] == [row["teacher"] for row in progress.history[1:]]


def test_a_checkpoint_whose_sums_do_not_fit_its_history_is_not_whole(tiny_model, jobs, tmp_path):
    place = tmp_path / "c.pt"
    lessons = lessons_of(index_rows(jobs))
    _, fit = prepared(tiny_model, jobs, lessons=lessons, checkpointpath=str(place), maxsteps=2)
    fit()
    state = torch.load(place, weights_only=True)
    state["progress"]["sums"] = torch.zeros(3, dtype=torch.float64)
    torch.save(state, place)
    with pytest.raises(InputError, match="is not a whole checkpoint"):
        fit(resume=True)


def test_a_run_stopped_in_its_first_validation_goes_on(tiny_model, jobs, tmp_path, monkeypatch):
    lessons, path = lessons_of(index_rows(jobs)), str(tmp_path / "c.pt")
    more = {**TAUGHT, "epochs": 1, "checkpointpath": path, "lessons": lessons}
    whole, _ = run(tiny_model, jobs, **more | {"checkpointpath": ""})

    def stopped(step):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the validation went on")

    with pytest.raises(KeyboardInterrupt, match="stopped after step 0 of 3"):
        run(tiny_model, jobs, validate=stopped, **more)
    again, progress = run(tiny_model, jobs, resume=True, **more)
    assert progress.step == 3 and torch.equal(weights(whole), weights(again))
