"""Both contenders get equal work: the same batches, losses, settings, rankings and negatives."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import JOBS

from hr_search import train
from hr_search.base.devices import multiplies_integers
from hr_search.base.errors import InputError
from hr_search.batches import index_rows, step_plan
from hr_search.bench import model_folders, ours, peer, proof, speeds, texts
from hr_search.bench.cases import CASES, Order
from hr_search.encoder import load_encoder
from hr_search.settings import Settings


@pytest.fixture
def small(tiny_model):
    """An order of few short steps on the tiny model."""
    return Order("learn", model=str(tiny_model), dropout=0.0, batchsize=4, maxlength=16, warm=1, steps=3)


def known(count):
    """Different texts of words that the tiny tokenizer knows, so that none of them tie."""
    words = np.array(sorted({word for text in JOBS.values() for word in text.split()}))
    return [" ".join(row) for row in np.random.default_rng(0).choice(words, (count, 6))]


@pytest.mark.parametrize("loss", ["triplet", "infonce"])
def test_both_contenders_train_on_the_same_batches_with_the_same_losses(small, loss):
    order = dataclasses.replace(small, loss=loss)
    given = texts.texts_for(order)
    mine, theirs = ours.run_training(order, given), peer.run_training(order, given)
    losses = proof.loss_table(loss, mine["losses"], theirs["losses"])
    assert len(losses) == 5 and (losses["difference"] < 1e-4).all()
    assert losses["ours"].nunique() == 5  # each step sees other rows
    assert len(mine["seconds"]) == len(theirs["seconds"]) == order.steps
    assert len(mine["mrr"]) == len(theirs["mrr"]) == len(mine["base"]) == texts.HELD_OUT
    assert mine["base"] != mine["mrr"]
    assert np.allclose(mine["mrr"], theirs["mrr"], atol=1e-3)


def test_the_peer_reads_our_batches_token_by_token(small, tmp_path):
    order = dataclasses.replace(small, kind="train", loss="triplet")
    pairs = pd.DataFrame(texts.texts_for(order))
    model = peer.load(order)
    trainer = peer.make_trainer(order, model, texts.in_training_order(pairs, order.settings), str(tmp_path))
    encoder, rows = load_encoder(order.model, order.maxlength), index_rows(pairs)
    tables = ours.token_tables(encoder, rows)
    plan = step_plan(len(rows), order.batchsize, order.settings.epochs, order.settings.maxsteps, order.settings.seed)
    batches = list(trainer.get_train_dataloader())
    assert len(batches) == plan.total == order.warm + order.steps + 1
    for (chosen, _), batch in zip(plan.batches(), batches, strict=True):
        wrong = np.concatenate([rows.negatives[at] for at in chosen])
        sides = {
            "anchor": (tables["query"], rows.query[chosen]),
            "positive": (tables["document"], rows.positive[chosen]),
            "negative": (tables["document"], wrong),
        }
        for column, (tokens, indices) in sides.items():
            ids, mask = (batch[f"{column}_{what}"].numpy() for what in ("input_ids", "attention_mask"))
            assert [ids[at][mask[at] > 0].tolist() for at in range(len(ids))] == [tokens[i].tolist() for i in indices]


def test_the_trainers_share_rates_decay_clipping_and_precision(small, tmp_path):
    order = dataclasses.replace(small, kind="train", precision="bf16")
    pairs = pd.DataFrame(texts.texts_for(order))
    arguments = peer.make_trainer(order, peer.load(order), pairs, str(tmp_path)).args
    settings = order.settings
    assert arguments.learning_rate == settings.learningrate and arguments.weight_decay == settings.weightdecay
    assert arguments.max_grad_norm == settings.clip and settings.warmup == arguments.warmup_steps == 0
    assert arguments.bf16 and settings.precision == "bf16" and arguments.per_device_train_batch_size == 4
    assert not settings.symmetric and settings.temperature == pytest.approx(1 / 20)


def test_defaults_are_each_contenders_own(tiny_model, tmp_path):
    order = dataclasses.replace(CASES["train-defaults"].orders[""], model=str(tiny_model), steps=1, warm=1)
    assert order.settings == Settings(modelname=str(tiny_model))
    pairs = pd.DataFrame(texts.texts_for(order))
    assert len(pairs) == 96 and not pairs["negatives"].str.len().any()
    model = peer.load(order)
    trainer = peer.make_trainer(order, model, pairs, str(tmp_path))
    assert trainer.args.per_device_train_batch_size == 8 and not trainer.args.bf16
    assert model[0].auto_model.config.hidden_dropout_prob == 0.1
    assert type(trainer.loss).__name__ == "MultipleNegativesRankingLoss"


def test_dropout_and_length_reach_the_peer(small):
    model = peer.load(dataclasses.replace(small, dropout=0.25, maxlength=9))
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    assert model.tokenize(["welder " * 50])["input_ids"].shape[1] == 9
    assert peer.load(dataclasses.replace(small, maxlength=4000)).max_seq_length <= 80


def test_evaluation_finds_the_same_for_both_contenders(tiny_model):
    order = Order("evaluate", model=str(tiny_model), maxlength=16)
    found = known(60)
    given = {"queries": known(70)[60:], "documents": found, "relevant": [[at, at + 20] for at in range(10)]}
    mine, theirs = ours.measure(order, given), peer.measure(order, given)
    assert set(mine["rows"]) == set(theirs["rows"]) == {"", "-memory", "-mrr"}
    assert mine["rows"]["-mrr"]["value"] == pytest.approx(theirs["rows"]["-mrr"]["value"], abs=1e-6)
    assert mine["rows"][""]["value"] > 0 and mine["precision"] == "fp32"
    speeds.refuse_disagreement("evaluate", mine, theirs)


def test_our_side_evaluates_with_int8_weights(home, tiny_model):
    if not multiplies_integers():
        pytest.skip("this processor has no integer products")
    order = Order("evaluate", model=str(tiny_model), maxlength=16, precision="int8")
    found = ours.measure(order, {"queries": known(70)[60:], "documents": known(60), "relevant": [[0]] * 10})
    assert found["precision"] == "int8" and found["rows"][""]["value"] > 0
    assert ours.warm_encoder(order).precision == "int8"


def test_mining_finds_the_same_for_both_contenders(tiny_model):
    order = Order("mine", model=str(tiny_model), maxlength=32)
    given = {"query": known(300)[:150], "positive": known(300)[150:]}
    mine, theirs = ours.measure(order, given), peer.measure(order, given)
    assert len(mine["negatives"]) == len(theirs["negatives"]) == 150
    assert all(len(found) == 10 for found in theirs["negatives"].values())
    speeds.refuse_disagreement("mine", mine, theirs)
    assert set(mine["rows"]) == set(theirs["rows"]) == {"", "-search"}


def test_a_random_model_of_another_architecture_trains_with_both_contenders(tiny_model, tmp_path):
    sizes = {"vocab_size": 200, "max_position_embeddings": 80, "hidden_size": 32, "intermediate_size": 64}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    folder = model_folders.random_model(tmp_path / "random", str(tiny_model), **sizes)
    assert model_folders.random_model(tmp_path / "random", "not looked at again") == folder
    order = dataclasses.replace(CASES["train-infonce-mpnet"].orders["-128"], model=folder, batchsize=4, steps=1, warm=1)
    order = dataclasses.replace(order, precision="fp32", kind="learn", dropout=0.0, maxlength=48)
    given = texts.texts_for(order)
    losses = [side.run_training(order, given)["losses"] for side in (ours, peer)]
    assert np.allclose(*losses, rtol=1e-4) and len(losses[0]) == 3


def test_our_side_goes_through_the_real_loop(small, monkeypatch):
    def refuse(*_):
        raise InputError("the real loop")

    monkeypatch.setattr(train, "fit", refuse)
    with pytest.raises(InputError, match="the real loop"):
        ours.run_training(small, texts.texts_for(small))


def test_rows_per_second_count_tokenisation(small):
    order = dataclasses.replace(small, kind="train", loss="infonce")
    answer = ours.run_training(order, texts.texts_for(order))
    rows = order.batchsize * order.steps
    assert answer["rows"][""]["value"] == pytest.approx(rows / (sum(answer["seconds"]) + answer["tokenising"]))
    assert answer["tokenising"] > 0
    body = sum(p.numel() for p in load_encoder(order.model).parameters())
    assert 0 < answer["rows"][""]["flops"] < 6 * body * 2 * order.maxlength
