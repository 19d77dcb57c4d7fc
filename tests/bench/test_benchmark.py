"""The speed benchmark: equal work on both sides, honest arithmetic, its table, its processes and its refusals."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import JOBS

from hr_search import train
from hr_search.base import choices
from hr_search.base.errors import InputError
from hr_search.base.files import read_json
from hr_search.batches import index_rows
from hr_search.bench import cases, costs, kernels, meters, ours, peer, processes, proof
from hr_search.bench import plots as drawings
from hr_search.bench import table as speeds
from hr_search.bench.cases import CASES, Order
from hr_search.encoder import load_encoder
from hr_search.models import embedded
from hr_search.schedule import step_plan
from hr_search.settings import Settings


@pytest.fixture
def small(tiny_model):
    """An order of few short steps on the tiny model."""
    return Order("learn", model=str(tiny_model), dropout=0.0, batchsize=4, maxlength=16, warm=1, steps=3)


def row(case="train-x", hardware="abacus", ours=(4.0, 2.0, 3.0), peer=(1.0, 1.0, 2.0), unit="rows/s", limit=30.0):
    return speeds.table_row(case, unit, ours, peer, limit, hardware)


def known(count):
    """Different texts of words that the tiny tokenizer knows, so that none of them tie."""
    words = np.array(sorted({word for text in JOBS.values() for word in text.split()}))
    return [" ".join(row) for row in np.random.default_rng(0).choice(words, (count, 6))]


def table(*rows):
    return pd.DataFrame(rows, columns=speeds.COLUMNS)


# -- equal work ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["triplet", "infonce"])
def test_both_sides_train_on_the_same_batches_with_the_same_losses(small, loss):
    order = dataclasses.replace(small, loss=loss)
    texts = cases.texts(order)
    mine, theirs = ours.run_training(order, texts), peer.run_training(order, texts)
    losses = proof.loss_table(loss, mine["losses"], theirs["losses"])
    assert len(losses) == 5 and (losses["difference"] < 1e-4).all()
    assert losses["ours"].nunique() == 5  # each step sees other rows
    assert len(mine["seconds"]) == len(theirs["seconds"]) == order.steps
    assert len(mine["mrr"]) == len(theirs["mrr"]) == len(mine["base"]) == cases.HELD_OUT
    assert mine["base"] != mine["mrr"]
    assert np.allclose(mine["mrr"], theirs["mrr"], atol=1e-3)


def test_the_peer_reads_our_batches_token_by_token(small, tmp_path):
    order = dataclasses.replace(small, kind="train", loss="triplet")
    pairs = pd.DataFrame(cases.texts(order))
    model = peer.load(order)
    trainer = peer.make_trainer(order, model, cases.laid_out(pairs, order.settings), str(tmp_path))
    encoder, rows = load_encoder(order.model, order.maxlength), index_rows(pairs)
    tables = ours.token_tables(encoder, rows)
    plan = step_plan(len(rows), order.batchsize, order.settings)
    batches = list(trainer.get_train_dataloader())
    assert len(batches) == plan.total == order.warm + order.steps + 1
    for (chosen, _), batch in zip(plan.batches(), batches, strict=True):
        wrong = np.concatenate([rows.negatives[at] for at in chosen])
        sides = {"anchor": (tables["query"], rows.query[chosen]), "positive": (tables["document"], rows.positive[chosen]),
                 "negative": (tables["document"], wrong)}  # fmt: skip
        for column, (tokens, indices) in sides.items():
            ids, mask = (batch[f"{column}_{what}"].numpy() for what in ("input_ids", "attention_mask"))
            assert [ids[at][mask[at] > 0].tolist() for at in range(len(ids))] == [tokens[i].tolist() for i in indices]


def test_the_trainers_share_rates_decay_clipping_and_precision(small, tmp_path):
    order = dataclasses.replace(small, kind="train", precision="bf16")
    pairs = pd.DataFrame(cases.texts(order))
    arguments = peer.make_trainer(order, peer.load(order), pairs, str(tmp_path)).args
    settings = order.settings
    assert arguments.learning_rate == settings.learningrate and arguments.weight_decay == settings.weightdecay
    assert arguments.max_grad_norm == settings.clip and settings.warmup == arguments.warmup_steps == 0
    assert arguments.bf16 and settings.precision == "bf16" and arguments.per_device_train_batch_size == 4
    assert not settings.symmetric and settings.temperature == pytest.approx(1 / 20)


def test_defaults_are_each_sides_own(tiny_model, tmp_path):
    order = dataclasses.replace(CASES["train-defaults"].orders[""], model=str(tiny_model), steps=1, warm=1)
    assert order.settings == Settings(modelname=str(tiny_model))
    pairs = pd.DataFrame(cases.texts(order))
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


def test_evaluation_finds_the_same_on_both_sides(tiny_model):
    order = Order("evaluate", model=str(tiny_model), maxlength=16)
    found = known(60)
    texts = {"queries": known(70)[60:], "documents": found, "relevant": [[at, at + 20] for at in range(10)]}
    mine, theirs = ours.measure(order, texts), peer.measure(order, texts)
    assert set(mine["rows"]) == set(theirs["rows"]) == {"", "-memory", "-mrr"}
    assert mine["rows"]["-mrr"]["value"] == pytest.approx(theirs["rows"]["-mrr"]["value"], abs=1e-6)
    assert mine["rows"][""]["value"] > 0 and mine["precision"] == "fp32"
    speeds.refuse_disagreement("evaluate", mine, theirs)


def test_mining_finds_the_same_on_both_sides(tiny_model):
    order = Order("mine", model=str(tiny_model), maxlength=32)
    texts = {"query": known(300)[:150], "positive": known(300)[150:]}
    mine, theirs = ours.measure(order, texts), peer.measure(order, texts)
    assert len(mine["negatives"]) == len(theirs["negatives"]) == 150
    assert all(len(found) == 10 for found in theirs["negatives"].values())
    speeds.refuse_disagreement("mine", mine, theirs)
    assert set(mine["rows"]) == set(theirs["rows"]) == {"", "-search"}


@pytest.mark.parametrize("suffix", ["-batch-hard", "-semi-hard"])
def test_the_losses_have_one_value_on_both_sides(suffix, monkeypatch):
    monkeypatch.setattr(kernels, "durations", lambda work, *_: np.array([work().item() and 0.5]))
    order = CASES["loss-kernels"].orders[suffix]
    mine, theirs = (kernels.measure(side, order) for side in cases.SIDES)
    assert mine["losses"][0] > 0
    speeds.refuse_disagreement("loss-kernels" + suffix, mine, theirs)
    assert mine["rows"][""] == {"value": 2.0, "unit": "passes/s", "flops": 6 * 256 * 256 * 384}


def test_a_random_model_of_another_architecture_trains_on_both_sides(tiny_model, tmp_path):
    sizes = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 80}  # fmt: skip
    folder = processes.random_model(tmp_path / "random", str(tiny_model), **sizes)
    assert processes.random_model(tmp_path / "random", "not looked at again") == folder
    order = dataclasses.replace(CASES["train-infonce-mpnet"].orders["-128"], model=folder, batchsize=4, steps=1, warm=1)
    order = dataclasses.replace(order, precision="fp32", kind="learn", dropout=0.0, maxlength=48)
    texts = cases.texts(order)
    losses = [side.run_training(order, texts)["losses"] for side in (ours, peer)]
    assert np.allclose(*losses, rtol=1e-4) and len(losses[0]) == 3


def test_disagreement_is_refused_in_fp32_and_said_in_bf16():
    def answer(mrr, precision="fp32", negatives="abcd", loss=1.0):
        return {"rows": {"-mrr": {"value": mrr}}, "precision": precision, "losses": [loss], "negatives": {"q": list(negatives)}}  # fmt: skip

    speeds.refuse_disagreement("evaluate", answer(0.5), answer(0.5019))
    speeds.refuse_disagreement("evaluate", answer(0.5, "bf16", "wxyz"), answer(0.6))
    with pytest.raises(
        InputError, match=r"evaluate: the two sides compute different things \(MRR@10 0.5000 and 0.5030"
    ):
        speeds.refuse_disagreement("evaluate", answer(0.5), answer(0.503))
    with pytest.raises(InputError, match="only 75.0% of the negatives are the same"):
        speeds.refuse_disagreement("mine", answer(0.5, negatives="abcx"), answer(0.5))
    with pytest.raises(InputError, match="losses 1.000000 and 1.001000"):
        speeds.refuse_disagreement("loss-kernels-x", answer(0.5), answer(0.5, loss=1.001))


# -- texts ---------------------------------------------------------------------------------------


def test_training_texts_never_repeat_and_never_change():
    order = Order("learn", loss="triplet", batchsize=8, steps=2)
    first, again = (cases.training_texts(order, "esco") for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert len(first) == order.rows + cases.HELD_OUT == 40 + cases.HELD_OUT
    given = first["negatives"][: order.rows]
    documents = [*first["positive"], *(wrong[0] for wrong in given)]
    assert len(set(documents)) == len(documents) == 2 * order.rows + cases.HELD_OUT
    assert first["group"].is_unique and first["query"].is_unique
    assert not first["negatives"][order.rows :].str.len().any()


def test_too_little_data_is_refused(jobs_file):
    with pytest.raises(InputError, match=r"has 12 rows without a repeated text or group, and the case needs 22; lower"):
        cases.training_texts(Order("train", loss="triplet", batchsize=1, steps=8), str(jobs_file))
    pairs = cases.training_texts(Order("train", loss="infonce", batchsize=1, steps=8), str(jobs_file))
    assert set(pairs["query"]) < set(JOBS)


def test_search_texts_know_their_answers():
    texts = cases.search_texts(34_000, 1_500)
    assert (len(texts["queries"]), len(texts["documents"])) == (1_500, 34_000)
    assert len(set(texts["documents"])) == 34_000 and len(set(texts["queries"])) == 1_500
    assert not set(texts["queries"]) & set(texts["documents"])
    assert all(len(places) in (1, 2) and places == sorted(places) for places in texts["relevant"])
    assert cases.search_texts(100, 10) == cases.search_texts(100, 10)
    assert len(cases.search_texts(100, 10)["queries"]) == 10
    mined = cases.mining_texts(12_000)
    assert len(set(mined["query"])) == len(set(mined["positive"])) == 12_000


def test_generated_pairs_differ_and_grow_from_the_front():
    pairs = cases.generated_pairs(3_000)
    assert pairs["query"].is_unique and pairs["positive"].is_unique
    pd.testing.assert_frame_equal(pairs[:50], cases.generated_pairs(50))


# -- arithmetic ----------------------------------------------------------------------------------


def test_a_row_holds_medians_ratio_and_spread():
    found = row()
    assert list(found) == speeds.COLUMNS
    assert (found["ours"], found["peer"], found["ratio"]) == (3.0, 1.0, 3.0)
    assert [found[name] for name in ("ours_min", "ours_max", "peer_min", "peer_max", "runs")] == [2.0, 4.0, 1.0, 2.0, 3]
    assert "sentence-transformers " in found["versions"] and "torch " in found["versions"]
    assert np.isnan(row(peer=(0.0,), ours=(1.0,))["ratio"])


def test_sides_take_turns_and_limits_follow_from_rate_and_work(monkeypatch):
    turns = []

    def measured(side, order, texts, more=None):
        if order.kind == "rate":
            return {"rate": {"bf16": 1000.0, "fp32": 100.0}[order.precision]}
        turns.append(side)
        value = {"ours": 6.0, "peer": 2.0}[side] + len(turns) / 1000
        rows = {"": {"value": value, "unit": "rows/s", "flops": 10}, "-memory": {"value": value, "unit": "GB"},
                "-search": {"value": value, "unit": "rows/s", "flops": 10, "precision": "fp32"}}  # fmt: skip
        return {"rows": rows, "precision": "bf16"}

    monkeypatch.setattr(speeds, "measure", measured)
    speeds.matrix_rate.cache_clear()
    found = speeds.compare("case", Order("train"), {}, 3).set_index("case")
    speeds.matrix_rate.cache_clear()
    assert turns == ["ours", "peer"] * 3
    assert found["limit"].to_dict() == pytest.approx(
        {"case": 100, "case-memory": np.nan, "case-search": 10}, nan_ok=True
    )
    assert found.loc["case", "ours"] == 6.003 and found.loc["case", "peer"] == 2.004


def test_rows_per_second_count_tokenisation(small, monkeypatch):
    order = dataclasses.replace(small, kind="train", loss="infonce")
    answer = ours.run_training(order, cases.texts(order))
    rows = order.batchsize * order.steps
    assert answer["rows"][""]["value"] == pytest.approx(rows / (sum(answer["seconds"]) + answer["tokenising"]))
    assert answer["tokenising"] > 0
    body = sum(p.numel() for p in load_encoder(order.model).parameters())
    assert 0 < answer["rows"][""]["flops"] < 6 * body * 2 * order.maxlength


def test_the_step_clock_counts_steps_of_any_optimiser():
    weight = torch.nn.Parameter(torch.ones(1))
    with meters.step_clock(1, 2) as ticks:
        for optimiser in (torch.optim.AdamW([weight]), torch.optim.SGD([weight])):
            weight.sum().backward()
            optimiser.step()
    torch.optim.SGD([weight]).step()
    assert len(ticks) == 2 and ticks[0] < ticks[1]


def test_memory_counts_from_the_baseline():
    device = torch.device("cpu")
    start = meters.forget_peak(device)
    held = np.ones(30_000_000)
    assert 0.2 < meters.peak_above(start, device) < 0.5
    del held
    assert meters.peak_above(start, device) > 0.2  # a peak stays
    assert meters.peak_above(1e6, device) == 0


def test_the_matrix_rate_is_plausible(monkeypatch):
    monkeypatch.setitem(meters._SHAPES, "cpu", [(256, 256, 256)])
    rate = meters.matrix_rate("fp32", torch.device("cpu"), 0.01)
    assert 1e7 < rate < 1e14


def test_the_metric_table_tells_noise_from_difference():
    generator = np.random.default_rng(0)
    base = generator.random(200)
    ranks = {"base": base, "ours": base + 0.1, "peer": base + 0.1 + generator.normal(0, 0.01, 200)}
    found = proof.metric_table("triplet", ranks).set_index("system")
    assert list(found.index) == ["base", "ours", "peer", "difference"]
    assert found.loc["difference", "low"] < 0 < found.loc["difference", "high"]
    assert found.loc["ours", "value"] == pytest.approx(found.loc["base", "value"] + 0.1)


# -- the table -----------------------------------------------------------------------------------


def test_rows_replace_those_of_the_same_case_and_hardware(tmp_path):
    path = tmp_path / "deep" / "speed.csv"
    assert speeds.read_table(path).empty
    speeds.replace_rows(path, table(row("a"), row("b"), row("a", "sundial"), row("a-memory", limit=np.nan)))
    speeds.replace_rows(path, table(row("a", ours=(9.0,), peer=(1.0,))))
    found = speeds.read_table(path)
    assert found[["case", "hardware"]].values.tolist() == [
        ["b", "abacus"], ["a", "sundial"], ["a-memory", "abacus"], ["a", "abacus"]
    ]  # fmt: skip
    assert found["ours"].tolist() == [3.0, 3.0, 3.0, 9.0]
    assert found["limit"].isna().tolist() == [False, False, True, False]
    assert list(found.columns) == speeds.COLUMNS
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize(("text", "words"), [("a,b\n1,2\n", "other columns"), ("a\n1,2\n3,4,5\n", "not a readable")])
def test_a_strange_table_is_refused_and_left_alone(tmp_path, text, words):
    path = tmp_path / "speed.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        speeds.replace_rows(path, table(row()))
    with pytest.raises(InputError, match=words):
        speeds.run_benchmark("loss-kernels", out=str(path))
    assert path.read_text() == text


# -- processes and refusals ----------------------------------------------------------------------


def test_a_measurement_runs_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = processes.measure("ours", CASES["loss-kernels"].orders["-batch-hard"], {})
    assert answer["rows"][""]["value"] > 0 and answer["precision"] == "fp32"
    assert not list(tmp_path.iterdir())


def test_both_sides_run_under_the_same_variables(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plain, two = processes._environment(0), processes._environment(2)
    assert "OMP_NUM_THREADS" not in plain and plain["GOMP_SPINCOUNT"] == "7"
    assert two["OMP_NUM_THREADS"] == two["MKL_NUM_THREADS"] == two["RAYON_NUM_THREADS"] == "2"
    assert plain["HF_HUB_OFFLINE"] == "1" and plain["PYTHONPATH"].endswith("elsewhere")


def test_a_whole_case_ends_in_the_table(tmp_path, monkeypatch):
    small = cases.Case("a loss", {"-semi-hard": CASES["loss-kernels"].orders["-semi-hard"]})
    monkeypatch.setitem(cases.CASES, "loss-kernels", small)
    monkeypatch.setattr(speeds, "matrix_rate", lambda precision, threads: 1e9)
    monkeypatch.setattr(kernels, "durations", lambda work, *_: np.array([0.5 + 0 * work().item()]))
    monkeypatch.setattr(speeds, "measure", lambda side, order, texts: kernels.measure(side, order))
    path = tmp_path / "speed.csv"
    found = speeds.run_benchmark("loss-kernels", runs=2, out=str(path), model=str(tmp_path))
    assert found[["case", "ours", "peer", "ratio", "runs"]].values.tolist() == [["loss-kernels-semi-hard", 2, 2, 1, 2]]
    assert found["limit"][0] == pytest.approx(1e9 / (6 * 256 * 256 * 384))
    assert speeds.read_table(path)["case"].tolist() == found["case"].tolist()


def test_growth_is_measured_on_a_table_from_disk(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setenv("HR_SEARCH_HOME", str(tmp_path / "home"))
    homes = []

    def here(side, order, texts, more):
        homes.append(more["HR_SEARCH_HOME"])
        return ours.measure(order, texts)

    monkeypatch.setattr(proof, "measure", here)
    found = proof.scale_table((150, 200), 2, model=str(tiny_model))
    assert found["rows"].tolist() == [150, 200]
    assert list(found.columns) == ["rows", "start_first_s", "start_again_s", "step_ms", "memory_above_model_gb"]
    assert (found[["start_first_s", "start_again_s", "step_ms"]] > 0).all(axis=None)
    assert homes[0] == homes[1] != homes[2] == homes[3]  # two runs share a token cache, two sizes do not
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "home/metrics/scale.csv"), found, check_exact=False)


def test_the_proof_writes_its_tables(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(
        proof, "measure", lambda side, order, texts: {"ours": ours, "peer": peer}[side].measure(order, texts)
    )
    losses, metrics = proof.proof(3, 3, out=str(tmp_path / "proof.csv"), model=str(tiny_model))
    assert losses["loss"].tolist() == ["triplet"] * 3 + ["infonce"] * 3 and losses["step"].tolist() == [1, 2, 3] * 2
    assert losses["difference"].max() < proof.SAME_LOSS
    assert metrics["system"].tolist() == ["base", "ours", "peer", "difference"] * 2
    assert len(pd.read_csv(tmp_path / "proof.csv")) == 6 and len(pd.read_csv(tmp_path / "proof_metrics.csv")) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"case": "train-tripletbf16"}, 'no case "train-tripletbf16"; did you mean "train-triplet-bf16"'),
        ({"runs": 0}, "--runs is 0; it must be at least 1"),
        ({"steps": 0}, "--steps is 0"),
        ({"threads": -1}, "--threads is -1"),
        ({"scale": 0}, "--scale is 0; it must be above 0"),
        ({"scale": 1.5}, "--scale is 1.5"),
        ({"case": "evaluate", "model": "no/such"}, "the benchmark needs the model .*such as a folder"),
    ],
)
def test_wrong_arguments_are_refused(home, arguments, words):
    with pytest.raises(InputError, match=words):
        speeds.run_benchmark(**arguments)
    assert not home.exists()


def test_a_gpu_case_is_refused_alone_and_left_out_of_all(home, monkeypatch, caplog):
    monkeypatch.setattr(speeds, "has_gpu", lambda: False)
    with pytest.raises(InputError, match="train-infonce-mpnet needs an NVIDIA GPU"):
        speeds.run_benchmark("train-infonce-mpnet")
    monkeypatch.setattr(cases, "CASES", {"train-infonce-mpnet": CASES["train-infonce-mpnet"]})
    with caplog.at_level("INFO", "hr_search"):
        assert speeds.run_benchmark().empty
    assert "needs an NVIDIA GPU" in caplog.text


def test_the_missing_package_is_named(home, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "datasets" else found(name, *more)
    )
    for verb in (speeds.run_benchmark, proof.proof):
        with pytest.raises(InputError, match=r'needs the package datasets.*pip install "hr_search\[benchmark\]"'):
            verb()


def test_a_failed_process_says_why_in_one_sentence(monkeypatch):
    def fails(code, words):
        return lambda command, **more: subprocess.CompletedProcess(command, code, "", words)

    for code, words, said in [
        (2, "note\nhr_search: the table is empty.\n", "^the table is empty.$"),
        (
            1,
            "Traceback\nValueError: no such thing\n\n",
            r"the train run of side peer failed \(ValueError: no such thing\)",
        ),
        (-9, "", r"failed \(exit code -9\)"),
        (0, "nothing written", r"failed \(nothing written\)"),
    ]:
        monkeypatch.setattr(processes.subprocess, "run", fails(code, words))
        with pytest.raises(InputError, match=said):
            processes.measure("peer", Order("train"), {})


def test_an_order_travels_as_a_file(tmp_path, small, monkeypatch):
    monkeypatch.setattr(ours, "measure", lambda order, texts: {"order": dataclasses.asdict(order), "texts": texts})
    order = dataclasses.replace(small, threads=torch.get_num_threads())
    processes.files.write_json(
        tmp_path / "order.json", {"side": "ours", "order": dataclasses.asdict(order), "texts": {"query": ["ё"]}}
    )
    processes.answer_order(str(tmp_path / "order.json"), str(tmp_path / "answer.json"))
    assert read_json(tmp_path / "answer.json") == {"order": dataclasses.asdict(order), "texts": {"query": ["ё"]}}


def test_the_embedded_model_must_be_a_folder(home, monkeypatch):
    monkeypatch.setattr(embedded, "ensure_embedded", lambda: embedded.HUB_NAME)
    with pytest.raises(InputError, match=r"multilingual-e5-small as a folder.*hr_search\[bundled\]"):
        processes.model_folder()


def test_our_side_goes_through_the_real_loop(small, monkeypatch):
    def refuse(*_):
        raise InputError("the real loop")

    monkeypatch.setattr(train, "fit", refuse)
    with pytest.raises(InputError, match="the real loop"):
        ours.run_training(small, cases.texts(small))


# -- figures -------------------------------------------------------------------------------------


def test_figures_draw_the_speeds_of_one_machine():
    drawn = table(
        row("slow", ours=(1.0,), peer=(1.0,)), row("other", "sundial"), row("fast"),
        row("evaluate-memory", unit="GB"), row("evaluate-mrr", unit="MRR@10"), row("free", limit=np.nan),
    )  # fmt: skip
    ax = drawings.ratios(drawn, 2.0)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["slow", "fast", "free"]
    assert ax.get_title(loc="left") == "2 of 3 cases reach 2 times the peer's speed"
    assert [bar.get_width() for bar in ax.patches] == [1.0, 3.0, 3.0]
    shares = drawings.limit_shares(drawn)
    assert [label.get_text() for label in shares.get_yticklabels()] == ["slow", "fast"]
    assert [round(bar.get_width(), 3) for bar in shares.patches] == [0.033, 0.1, 0.033, 0.033]
    assert len(drawings.speeds(drawn, "sundial")) == 1
    plt.close("all")


def test_figures_without_rows_are_refused():
    for draw in (drawings.ratios, drawings.limit_shares):
        with pytest.raises(InputError, match="no speeds to draw"):
            draw(table(row(unit="GB")))
    with pytest.raises(InputError, match="no speeds of sundial"):
        drawings.ratios(table(row()), hardware="sundial")
    with pytest.raises(InputError, match="no row with a compute limit"):
        drawings.limit_shares(table(row(limit=np.nan)))


# -- what the method costs -----------------------------------------------------------------------


def test_costs_of_mixing_and_mining_are_shares_of_a_step(tmp_path, tiny_model, monkeypatch):
    asked = []

    def here(side, order, texts):
        asked.append((side, order.kind, len(texts["query"])))
        return costs.run_costs(order, texts)

    monkeypatch.setattr(costs, "measure", here)
    monkeypatch.setattr(costs, "_ROUNDS", 3)
    table = costs.cost_table(2, out=str(tmp_path / "costs.csv"), model=str(tiny_model))
    assert asked == [("ours", "costs", 32 * 5)]
    named = {f"mixing {name}" for name in choices.MIXINGS if name != "none"}
    assert set(table["what"]) == named | {f"{name}, bank of {costs.BANK}" for name in named} | {"mining once an epoch"}
    assert (table["share"] * table["step_ms"]).to_numpy() == pytest.approx(table["ms"].to_numpy())
    assert table.set_index("what").loc["mining once an epoch", "ms"] > 0
    assert len(pd.read_csv(tmp_path / "costs.csv")) == len(table)
