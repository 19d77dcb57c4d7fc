"""The race: both contenders get equal time and texts, the peer its best learning rate, queries are compared in pairs."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import JOBS

from hr_search import train
from hr_search.base.errors import InputError
from hr_search.base.files import write_csv
from hr_search.bench import peer, processes, race, racers
from hr_search.bench.cases import Order
from hr_search.models import condenser
from hr_search.settings import Settings


@pytest.fixture
def recipe(tiny_model, tmp_path):
    """Settings over two small tables without a common text."""
    words = sorted({word for text in JOBS.values() for word in text.split()})
    generator = np.random.default_rng(0)
    texts = [" ".join(row) for row in generator.choice(words, (240, 6))]
    pairs = pd.DataFrame({"query": texts[:120], "positive": texts[120:]}).drop_duplicates("query")
    write_csv(tmp_path / "train.csv", pairs[:80])
    write_csv(tmp_path / "test.csv", pairs[80:])
    tables = {"datapath": str(tmp_path / "train.csv"), "testpath": str(tmp_path / "test.csv"), "validationshare": 0.1}
    small = {"modelname": str(tiny_model), "batchsize": 4, "maxlength": 16, "precision": "fp32"}
    return Settings(**tables, **small, testshare=0.0, loss="infonce")


def order(recipe, **changes):
    given = {"batchsize": 4, "maxlength": 16, "dropout": -1.0, "loss": "infonce", "recipe": recipe.to_dict()}
    return Order("race", recipe.modelname, seconds=0.05, **(given | changes))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_arm_is_tested_on_the_same_queries(recipe, monkeypatch, tmp_path, workers):
    asked = []

    def answer(contender, given, texts):
        asked.append((contender, given.loss, given.learningrate, given.seed))
        assert (given.threads > 0) == (workers > 1)
        assert given.seconds == (50.0 if contender == "ours" else 60.0)  # ours gets no more than theirs really took
        good = 0.9 if contender == "ours" else 0.2 + (given.learningrate == 5e-5) / 4 + (given.loss == "infonce") / 4
        values = np.clip(good + np.linspace(-0.1, 0.1, 30), 0, 1).tolist()
        return {"values": dict.fromkeys(race.TESTED, values), "steps": 7, "seconds": 50.0}

    monkeypatch.setattr(race, "measure", answer)
    monkeypatch.setattr(race.provenance, "commit", lambda: "")
    runs, effects = race.race(
        recipe, minutes=1, seeds=(1, 2), model=recipe.modelname, out=str(tmp_path / "race.csv"), workers=workers
    )
    assert ("ours", "infonce", recipe.learningrate, 1) in asked and len(asked) == 4 + 1 + 2 + 2
    # Only the rate that suited the peer best runs with the other seeds, and with its triplet loss.
    assert {rate for contender, _, rate, seed in asked if contender == "peer" and seed == 2} == {5e-5}
    assert [(loss, rate) for _, loss, rate, seed in asked if loss == "triplet"] == [("triplet", 5e-5)] * 2
    assert len(runs) == 9 and len(pd.read_csv(tmp_path / "race.csv")) == 9
    mine = effects[(effects.metric == "mrr") & (effects.arm == race.PEER)].iloc[0]
    assert mine.difference == pytest.approx(0.2) and mine.p < mine.p_holm < 0.001
    assert effects[effects.arm == "ours"].difference.isna().all()
    written = pd.read_csv(tmp_path / "race_effects.csv")
    assert len(written) == 9 and (written.seconds == 50).all() and (written.steps == 7).all()
    assert written["minuend"].dropna().unique().tolist() == ["ours"]  # nothing was mixed in anywhere


def test_either_contender_is_tested_with_and_without_the_base_model(recipe, monkeypatch, tmp_path):
    asked = []

    def answer(contender, given, texts):
        asked.append((contender, given.loss, given.learningrate, given.seed))
        high = given.learningrate == 1e-4  # where blending pays most and training alone least
        seconds = 40.0 + 10 * (given.learningrate == 1e-5)
        assert contender == "peer" or given.seconds == 40.0  # the shorter of the two that ours is compared with
        found = {"values": {key: [0.5 - high / 5, 0.4, 0.6] for key in race.TESTED}, "steps": 7, "seconds": seconds}
        blended = {"blended": {key: [0.6 + high / 5, 0.5, 0.6] for key in race.TESTED}}
        return found | (blended if given.loss == "infonce" else {})

    monkeypatch.setattr(race, "measure", answer)
    monkeypatch.setattr(race.provenance, "commit", lambda: "")
    runs, effects = race.race(recipe, 1, (1, 2), (1e-5, 1e-4), str(tmp_path / "race.csv"), recipe.modelname)
    assert [rate for contender, loss, rate, seed in asked if (contender, loss, seed) == ("peer", "infonce", 2)] == [
        1e-5,
        1e-4,
    ]
    assert len(runs) == 2 * (2 + 2 + 2) + 2 and effects["arm"].nunique() == 5
    found = effects[effects.minuend == "ours"].set_index(["arm", "metric"])
    blended = found.loc[("MultipleNegativesRankingLoss, base mixed in", "mrr")]
    # Our recipe's rate is neither of the two, so ours has .6, .5, .6 with the base model and .5, .4, .6 without.
    assert blended.learningrate == 1e-4 and blended.difference == pytest.approx(-0.2 / 3)
    plain = found.loc[("MultipleNegativesRankingLoss", "mrr")]
    assert plain.learningrate == 1e-5 and plain.difference == pytest.approx(0.2 / 3)
    assert found.loc[("ours, nothing mixed in", "mrr"), "difference"] == pytest.approx(0.2 / 3)
    like = effects[(effects.minuend == "ours, nothing mixed in") & (effects.metric == "mrr")].iloc[0]
    assert like.arm == race.PEER and like.difference == pytest.approx(0) and like.p == 1


def test_both_contenders_blend_the_base_model_in_as_the_recipe_says(recipe):
    recipe = recipe.replace(baseshare=0.5, learningrate=1e-2)
    for answer in (racers.run_ours(order(recipe)), racers.run_peer(order(recipe, learningrate=1e-2))):
        assert len(answer["blended"]["mrr"]) == len(answer["values"]["mrr"]) and answer["blended"] != answer["values"]
    assert "blended" not in racers.run_peer(order(recipe, loss="triplet"))
    assert "blended" not in racers.run_ours(order(recipe.replace(baseshare=0.0)))


def test_blending_afterwards_is_what_the_recipe_does_in_training(recipe, monkeypatch):
    """The race leaves the blending to the end, to test both; `train` does it in the loop."""
    monkeypatch.setattr(racers, "steps_after_preparation", lambda *given: 8)
    monkeypatch.setattr(racers, "_PILOT", 2)
    recipe, fit = recipe.replace(baseshare=0.4, learningrate=1e-2), train.fit
    afterwards = racers.run_ours(order(recipe))["blended"]
    monkeypatch.setattr(train, "fit", lambda *given: fit(*given[:3], given[3].replace(baseshare=0.4), given[4]))
    assert racers.run_ours(order(recipe))["values"] == afterwards


def test_a_race_that_was_stopped_goes_on_where_it_was(recipe, monkeypatch, tmp_path):
    """Runs are kept; changed data, model, code or minutes begin anew."""
    asked = []

    def answer(contender, given, texts):
        asked.append((contender, given.loss, given.learningrate, given.seed))
        if off and given.loss == "triplet":
            raise InputError("the machine is switched off.")
        values = [0.1 * given.seed, 0.5, given.learningrate * 1000, 1.0]
        return {"values": dict.fromkeys(race.TESTED, values), "steps": 7, "seconds": 60.0}

    def raced(**changes):
        given = {"minutes": 1, "seeds": (1, 2), "model": recipe.modelname, "out": str(tmp_path / "race.csv")}
        return race.race(recipe, **(given | changes))[1]

    monkeypatch.setattr(race, "measure", answer)
    monkeypatch.setattr(race.provenance, "commit", lambda: "abc")
    off = True
    with pytest.raises(InputError, match="switched off"):
        raced()
    assert len(pd.read_csv(tmp_path / "race.csv")) == 7  # four rates, one of them with the other seed, and ours
    off = False
    asked.clear()
    first = raced()
    assert [loss for _, loss, _, _ in asked] == ["triplet"] * 2
    assert raced().equals(first) and len(asked) == 2
    raced(minutes=2)
    assert len(asked) == 2 + 9
    monkeypatch.setattr(race.provenance, "commit", lambda: "abc+")
    raced()
    raced()
    assert len(asked) == 11 + 9 + 9  # of changed code nobody can tell
    monkeypatch.setattr(race.provenance, "commit", lambda: "abc")
    table = pd.read_csv(recipe.datapath)
    write_csv(recipe.datapath, table[:-1])
    raced()
    assert len(asked) == 29 + 9
    (tmp_path / "other").mkdir()
    raced(model=str(shutil.copytree(recipe.modelname, tmp_path / "other" / "model")))
    again = shutil.copytree(
        recipe.modelname, tmp_path / "other" / "model", dirs_exist_ok=True, copy_function=shutil.copyfile
    )
    raced(model=str(again))  # the same place, written anew
    assert len(asked) == 38 + 9 + 9


def test_a_querys_value_is_its_mean_over_the_seeds():
    ours, theirs = ([1.0, 0.0, 1.0], [0.0, 0.0, 1.0]), ([0.0, 0.0, 0.5], [0.0, 0.0, 0.5])
    values = {"ours": [dict.fromkeys(race.TESTED, seed) for seed in ours]}
    values["b"] = [dict.fromkeys(race.TESTED, seed) for seed in theirs]
    table = race.effects(values).set_index(["arm", "metric"])
    assert table.loc[("ours", "mrr"), "value"] == pytest.approx(0.5)
    assert table.loc[("b", "mrr"), "difference"] == pytest.approx((0.5 + 0.0 + 0.5) / 3)


def test_our_preparation_is_paid_from_our_time(recipe, monkeypatch):
    """Half of the time is gone before the first step, so half as many steps fit."""
    asked, train_ours = [], racers.train_ours

    def trained(settings, pairs, rows, searched, steps):
        asked.append(steps)
        found = train_ours(settings, pairs, rows, searched, 2)
        # Ten steps of 0.1 s each, after a preparation of 1 s.
        return dataclasses.replace(found, ticks=(1.1 + 0.1 * np.arange(10)).tolist(), seconds=2.0)

    monkeypatch.setattr(racers, "train_ours", trained)
    racers.run_ours(dataclasses.replace(order(recipe), seconds=2.0))
    assert asked == [racers._PILOT, 10]


def test_the_pilots_first_steps_do_not_count():
    assert racers.fitting_steps(10.0, [0.0, 9.0, 9.5, 9.9, 10.0, 10.5, 11.0, 11.5]) == 20
    assert racers.fitting_steps(0.001, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == 2


def test_our_side_condenses_where_the_recipe_does(recipe, monkeypatch):
    learnt = []
    monkeypatch.setattr(condenser, "learn", lambda *given: learnt.append(given[2]) or None)
    racers.run_ours(order(recipe.replace(condense=12)))
    assert set(learnt) == {12}


@pytest.mark.parametrize("direction", ["q2d", "d2q"])
def test_both_contenders_train_and_are_tested_in_the_direction_of_the_recipe(recipe, direction):
    recipe = recipe.replace(direction=direction)
    recipe = recipe.replace(maxlength=24, trainlength=16)
    answers = [racers.run_ours(order(recipe)), racers.run_peer(order(recipe))]
    for answer in answers:
        assert answer["steps"] >= 2 and answer["seconds"] > 0
        assert {len(values) for values in answer["values"].values()} == {len(pd.read_csv(recipe.testpath))}
        assert json.dumps(answer)


def test_the_peers_triplets_have_another_rows_document(recipe, tmp_path):
    pairs = pd.DataFrame({"anchor": [f"a{i}" for i in range(20)], "positive": [f"p{i}" for i in range(20)]})
    given = order(recipe, loss="triplet", learningrate=3e-4, seed=5)
    trainer = peer.make_race_trainer(given, peer.load(given), pairs, ("document", "query"), 6, str(tmp_path))
    rows = trainer.train_dataset.to_pandas()
    assert (rows["negative"] != rows["positive"]).all() and rows["negative"].nunique() > 5
    arguments = trainer.args
    assert (arguments.learning_rate, arguments.max_steps, arguments.seed) == (3e-4, 6, 5)
    assert arguments.warmup_steps == 1 and type(trainer.loss).__name__ == "TripletLoss"


def test_a_process_of_its_own_answers(recipe, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    answer = processes.measure("ours", order(recipe), {})
    assert set(answer["values"]) == set(race.TESTED) and answer["steps"] >= 2
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    ("changes", "minutes", "said"),
    [
        ({"testpath": ""}, 1.0, "needs --testpath"),
        ({}, 0.0, "must be above 0"),
        ({}, float("nan"), "must be above 0"),
    ],
)
def test_what_cannot_race_is_refused(recipe, changes, minutes, said):
    with pytest.raises(InputError, match=said):
        race.race(dataclasses.replace(recipe, **changes), minutes, model=recipe.modelname)
