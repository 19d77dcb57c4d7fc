"""Knobs fitted on validation rows: what helps is taken, what does not is not, and noise turns nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hr_search.base import arrays
from hr_search.data.tasks import Task
from hr_search.evaluation.metrics import embedding_scores, rank_all
from hr_search.evaluation.significance import standard_error
from hr_search.search import fusion, tuning
from hr_search.search.memory import Memory, keys_of
from hr_search.search.policy import SearchPolicy
from hr_search.search.stages import evaluate_stages
from hr_search.search.tuning import Tuned, tune

COUNT, DIMENSIONS = 40, 12


LETTERS = str.maketrans("0123456789", "abcdefghij")


def task_of(direction: str = "q2d", spelt: bool = False) -> Task:
    """As many queries as documents; each has one answer, which is spelt like it or shares no letter with it."""
    documents = [f"text {at:02d}{at:02d}".translate(LETTERS) for at in range(COUNT)]
    queries = documents if spelt else [f"{at:02d}{at:02d}" for at in range(COUNT)]
    return Task(direction, queries, documents, [np.array([at]) for at in range(COUNT)], queries)


def world(turn: float, offset: float = 0.0, noise: float = 0.3, seed: int = 0):
    """Embeddings of validation texts, and a memory of 80 pairs.

    Titles and vacancies of one job differ by a rotation (`turn` of the way to other axes), which only known pairs
    show, by an offset that all texts of a side share, and by noise.
    """
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(DIMENSIONS, DIMENSIONS)))[0]
    cone = offset * generator.normal(size=DIMENSIONS)

    def both(count: int) -> dict[str, np.ndarray]:
        jobs = generator.normal(size=(count, DIMENSIONS))
        titles = jobs + noise * generator.normal(size=jobs.shape) + cone
        vacancies = (1 - turn) * jobs + turn * jobs @ rotation + noise * generator.normal(size=jobs.shape)
        return {"query": arrays.normalised(titles, "query"), "document": arrays.normalised(vacancies, "document")}

    sides, known = both(COUNT), both(400)
    keys = {side: keys_of([f"{side} {at}" for at in range(400)]) for side in known}
    pairs = arrays.incidence(np.arange(400), np.arange(400), (400, 400))
    return sides, Memory(known, pairs, keys, fusion.frequencies(["other"]))


def taken(tuned: Tuned) -> dict[str, bool]:
    return dict(zip(tuned.steps["stage"], tuned.steps["taken"].tolist(), strict=True))


def test_mixing_is_chosen_where_it_helps():
    sides, known = world(turn=0.9)
    tuned = tune(task_of(), sides, known)
    step = tuned.steps.set_index("stage").loc["mixing"]
    assert step["taken"] and tuned.policy.mixing != "none" and step["gain"] > 3 * step["se"] > 0
    found = evaluate_stages(task_of(), sides, tuned.policy, known)
    assert found[-1].results["mrr"].mean() == pytest.approx(tuned.steps["value"][tuned.steps["taken"]].iloc[-1])
    assert found[0].results["mrr"].mean() == pytest.approx(tuned.steps["before"].iloc[0])


def test_mixing_is_not_chosen_where_it_hurts():
    sides, known = world(turn=0.0, noise=0.05)
    shuffled = np.random.default_rng(0).permutation(400)
    wrong = Memory(known.vectors, arrays.incidence(np.arange(400), shuffled, (400, 400)), known.keys, known.background)
    tuned = tune(task_of(), sides, wrong)
    assert not taken(tuned)["mixing"] and tuned.policy.mixing == "none" and tuned.policy.k == SearchPolicy().k


def test_centring_is_chosen_where_a_side_lies_in_a_cone():
    sides, known = world(turn=0.0, offset=3.0)
    tuned = tune(task_of("d2q"), sides, known)
    assert taken(tuned)["centring"] and tuned.policy.centre


def test_words_are_chosen_where_they_help_and_only_there():
    sides, known = world(turn=0.6, noise=0.8)
    assert not taken(tune(task_of(), sides, known))["words"]
    task = task_of(spelt=True)
    tuned = tune(task, sides, known)
    assert taken(tuned)["words"] and tuned.policy.fusion > 0
    assert (
        tuned.steps["value"].max() > rank_all(task, embedding_scores(sides["query"], sides["document"]))["mrr"].mean()
    )


def test_a_gain_within_its_standard_error_is_not_taken():
    """No stage of pure noise is taken unless its gain is larger than the error printed beside it."""
    turned = 0
    for seed in range(3):
        generator = np.random.default_rng(seed)
        sides = {side: arrays.normalised(generator.normal(size=(COUNT, DIMENSIONS)), side) for side in world(0)[0]}
        _, known = world(0.9, seed=seed)
        steps = tune(task_of(), sides, known).steps
        assert (steps["taken"] == (steps["gain"] > steps["se"])).all()
        assert (steps["gain"] == steps["value"] - steps["before"]).all() or np.allclose(
            steps["gain"], steps["value"] - steps["before"]
        )
        turned += (~steps["taken"]).sum()
        last = steps["before"].to_numpy()[1:]
        there = np.where(steps["taken"], steps["value"], steps["before"])[:-1]
        np.testing.assert_allclose(last, there)  # what was not taken is not there in the next step
    assert turned


def test_one_query_chooses_nothing():
    sides, known = world(0.9)
    task = task_of()
    single = Task("q2d", task.queries[:1], task.documents, task.relevant[:1], task.groups[:1])
    tuned = tune(single, sides, known, goal="ndcg@10")
    assert not tuned.steps["taken"].any() and tuned.policy == SearchPolicy() and tuned.steps["se"].isna().all()


def test_word_scores_that_do_not_fit_into_memory_choose_the_same_knobs(monkeypatch):
    sides, known = world(turn=0.6, noise=0.8)
    task = task_of(spelt=True)
    held = tune(task, sides, known)
    asked, scores = [], fusion.WordIndex.scores
    monkeypatch.setattr(tuning, "_HELD", COUNT * COUNT - 1)
    monkeypatch.setattr(fusion.WordIndex, "scores", lambda self, texts: asked.append(len(texts)) or scores(self, texts))
    monkeypatch.setattr(tuning, "rank_all", lambda task, scores: rank_all(task, scores, 7))
    found = tune(task, sides, known)
    assert found.policy == held.policy and found.steps.equals(held.steps) and held.policy.fusion > 0
    assert max(asked) == 7


def test_the_same_rows_choose_the_same_knobs():
    sides, known = world(0.7, noise=0.6)
    one, other = (tune(task_of("d2q"), sides, known, goal="map") for _ in range(2))
    assert one.policy == other.policy and one.steps.equals(other.steps)


def test_a_small_memory_limits_its_neighbours():
    sides, known = world(0.9)
    few = {side: vectors[:3] for side, vectors in known.vectors.items()}
    small = Memory(few, arrays.incidence(range(3), range(3), (3, 3)), known.keys, known.background)
    mixing = tune(task_of(), sides, small).steps.set_index("stage").loc["mixing", "knobs"]
    assert mixing.get("k", 3) == 3


# -- second stage --------------------------------------------------------------------------------


class Judge:
    """A second stage that knows every answer, or none; it keeps what it has read."""

    def __init__(self, knows: bool) -> None:
        self.knows, self.read = knows, []

    def score(self, queries, documents):
        self.read += zip(queries, documents, strict=True)
        pairs = self.read[-len(queries) :]
        right = [document.endswith(query.translate(LETTERS)) for query, document in pairs]
        noise = [sum(map(ord, query + document[::2])) * 7919 % 101 / 101 for query, document in pairs]
        return np.array(right if self.knows else noise, np.float32)


@pytest.mark.parametrize("direction", ["q2d", "d2q"])
def test_a_good_second_stage_is_taken_and_reads_no_pair_twice(direction):
    sides, known = world(0.5, noise=0.9)
    task = task_of(direction) if direction == "q2d" else Task("d2q", *swapped(task_of()))
    judge, start = Judge(True), SearchPolicy(rerank="folder", reranktop=15)
    tuned = tune(task, sides, known, reads=judge, start=start)
    assert taken(tuned)["second stage"] and tuned.policy.rerank == "folder" and tuned.policy.reranktop == 15
    assert len(judge.read) == len(set(judge.read)) == 15 * COUNT
    assert all(query.isdigit() for query, _ in judge.read)


def swapped(task: Task):
    return task.documents, task.queries, task.relevant, task.groups


def test_a_second_stage_that_does_not_help_is_left_out():
    sides, known = world(0.0, noise=0.05)
    tuned = tune(task_of(), sides, known, reads=Judge(False), start=SearchPolicy(rerank="folder", reranktop=15))
    assert not taken(tuned)["second stage"] and tuned.policy.rerank == ""
    assert "second stage" not in taken(tune(task_of(), sides, known))


def test_a_stage_is_judged_by_the_spread_between_groups():
    sides, known = world(0.9, offset=2.0)
    alone = task_of()
    grouped = dataclasses.replace(alone, groups=[str(at // 8) for at in range(len(alone.groups))])
    steps = [tune(task, sides, known).steps.set_index("stage") for task in (alone, grouped)]
    assert steps[0].loc["centring", "gain"] == steps[1].loc["centring", "gain"]
    policies = SearchPolicy(), SearchPolicy(centre=True)
    before, after = (evaluate_stages(alone, sides, policy, known)[-1].results for policy in policies)
    for table, task in zip(steps, (alone, grouped), strict=True):
        assert table.loc["centring", "se"] == pytest.approx(standard_error(after["mrr"] - before["mrr"], task.groups))
    assert steps[0].loc["centring", "se"] != pytest.approx(steps[1].loc["centring", "se"])


def test_knobs_that_are_given_stay():
    sides, known = world(0.9)
    start = SearchPolicy(strategy="slerp", scaling="minmax", centre=True, fusion=0.4)
    tuned = tune(task_of(), sides, known, start=start)
    assert (tuned.policy.strategy, tuned.policy.scaling) == ("slerp", "minmax")
    assert tuned.policy.centre == taken(tuned)["centring"] and (tuned.policy.fusion > 0) == taken(tuned)["words"]
