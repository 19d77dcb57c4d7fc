"""The speed benchmark: turns, limits, its table, its refusals, the proof, and what growth and the method cost."""

from __future__ import annotations

import functools
import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch
from speed_rows import row, table_of

from hr_search.base import choices
from hr_search.base.errors import InputError
from hr_search.bench import cases, costs, proof, speeds, table, texts
from hr_search.bench.__main__ import answer_of
from hr_search.bench.cases import CASES, Order


def in_this_process(contender, order, given):
    """What `processes.measure` does, without a process of its own."""
    return answer_of(contender, order, given)


# -- one row -------------------------------------------------------------------------------------


def test_a_row_holds_medians_ratio_and_spread():
    found = row()
    assert list(found) == table.COLUMNS
    assert (found["ours"], found["peer"], found["ratio"]) == (3.0, 1.0, 3.0)
    assert [found[name] for name in ("ours_min", "ours_max", "peer_min", "peer_max", "runs")] == [2.0, 4.0, 1.0, 2.0, 3]
    assert "sentence-transformers " in found["versions"] and "torch " in found["versions"]
    assert np.isnan(row(peer=(0.0,), ours=(1.0,))["ratio"])


def test_contenders_take_turns_and_limits_follow_from_rate_and_work(monkeypatch):
    turns = []

    def measured(side, order, texts, more=None):
        if order.kind == "rate":
            return {"rate": {"bf16": 1000.0, "fp32": 100.0}[order.precision]}
        turns.append(side)
        value = {"ours": 6.0, "peer": 2.0}[side] + len(turns) / 1000
        rows = {
            "": {"value": value, "unit": "rows/s", "flops": 10},
            "-memory": {"value": value, "unit": "GB"},
            "-search": {"value": value, "unit": "rows/s", "flops": 10, "precision": "fp32"},
        }
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


def test_disagreement_is_refused_in_fp32_and_said_in_bf16():
    def answer(mrr, precision="fp32", negatives="abcd"):
        return {"rows": {"-mrr": {"value": mrr}}, "precision": precision, "negatives": {"q": list(negatives)}}

    speeds.refuse_disagreement("evaluate", answer(0.5), answer(0.5019))
    speeds.refuse_disagreement("evaluate", answer(0.5, "bf16", "wxyz"), answer(0.6))
    with pytest.raises(InputError, match=r"^evaluate: .* different things \(MRR@10 0.5000 and 0.5030\)"):
        speeds.refuse_disagreement("evaluate", answer(0.5), answer(0.503))
    with pytest.raises(InputError, match="only 75.0% of the negatives are the same"):
        speeds.refuse_disagreement("mine", answer(0.5, negatives="abcx"), answer(0.5))


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
    assert table.read_table(path).empty
    table.replace_rows(path, table_of(row("a"), row("b"), row("a", "sundial"), row("a-memory", limit=np.nan)))
    table.replace_rows(path, table_of(row("a", ours=(9.0,), peer=(1.0,))))
    found = table.read_table(path)
    assert found[["case", "hardware"]].values.tolist() == [
        ["b", "abacus"],
        ["a", "sundial"],
        ["a-memory", "abacus"],
        ["a", "abacus"],
    ]
    assert found["ours"].tolist() == [3.0, 3.0, 3.0, 9.0]
    assert found["limit"].isna().tolist() == [False, False, True, False]
    assert list(found.columns) == table.COLUMNS
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize(("text", "words"), [("a,b\n1,2\n", "other columns"), ("a\n1,2\n3,4,5\n", "not a readable")])
def test_a_strange_table_is_refused_and_left_alone(tmp_path, text, words):
    path = tmp_path / "speed.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        table.replace_rows(path, table_of(row()))
    with pytest.raises(InputError, match=words):
        speeds.run_benchmark("train-defaults", out=str(path))
    assert path.read_text() == text


# -- whole measurements --------------------------------------------------------------------------


def test_a_whole_case_ends_in_the_table(tmp_path, monkeypatch):
    def measured(contender, order, given):
        assert (order.model, order.steps, order.threads) == (str(tmp_path), 3, 2)
        rate = 10 if order.precision == "auto" else 5
        return {"rows": {"": {"value": rate, "unit": "queries/s", "flops": 4}}, "precision": "fp32"}

    monkeypatch.setattr(speeds, "measure", measured)
    monkeypatch.setattr(speeds, "matrix_rate", lambda precision, threads: 1e9)
    path = tmp_path / "speed.csv"
    found = speeds.run_benchmark("mine", 2, 3, threads=2, out=str(path), model=str(tmp_path), scale=0.01)
    assert found[["case", "ours", "peer", "ratio", "runs", "limit"]].values.tolist() == [
        ["mine", 10, 10, 1, 2, 2.5e8],
        ["mine-same-precision", 5, 5, 1, 2, 2.5e8],
    ]
    assert table.read_table(path)["case"].tolist() == found["case"].tolist()


def test_a_small_model_is_measured_for_a_look(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(speeds, "small_model", lambda: str(tiny_model))
    monkeypatch.setattr(speeds, "matrix_rate", lambda precision, threads: 1e9)
    monkeypatch.setattr(speeds, "measure", in_this_process)
    path = tmp_path / "speed_smoke.csv"
    found = speeds.smoke_case(path, runs=1, steps=2, batchsize=4, maxlength=16)
    assert found["case"].tolist() == table.read_table(path)["case"].tolist() == ["train-triplet-small"]
    assert found["runs"].tolist() == [1] and found["limit"].notna().all()
    with pytest.raises(InputError, match="--batchsize is 0"):
        speeds.smoke_case(path, batchsize=0)


def test_growth_is_measured_on_a_table_from_disk(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setenv("HR_SEARCH_HOME", str(tmp_path / "home"))
    homes = []

    def here(contender, order, given, more):
        homes.append(more["HR_SEARCH_HOME"])
        return in_this_process(contender, order, given)

    monkeypatch.setattr(proof, "measure", here)
    found = proof.scale_table((150, 200), 2, model=str(tiny_model))
    assert found["rows"].tolist() == [150, 200]
    times = ["start_first_s", "start_again_s", "start_cpu_s", "step_ms"]
    assert list(found.columns) == ["rows", *times, "start_memory_gb", "memory_above_model_gb"]
    assert (found[times] > 0).all(axis=None)
    assert (found["memory_above_model_gb"] >= found["start_memory_gb"]).all()
    assert homes[0] == homes[1] != homes[2] == homes[3]  # two runs share a token cache, two sizes do not
    path = tmp_path / "home/metrics/scale.csv"
    pd.testing.assert_frame_equal(pd.read_csv(path), found, check_exact=False)
    again = proof.scale_table(steps=2, model=str(tiny_model), rows=150)  # the row of the other size stays
    pd.testing.assert_frame_equal(pd.read_csv(path), pd.concat([again, found[1:]], ignore_index=True))
    path.write_text("rows,seconds\n150,1\n")
    with pytest.raises(InputError, match=r"scale\.csv is not a table of what rows cost"):
        proof.scale_table((150,), 2, model=str(tiny_model))
    streamed = proof.scale_table(steps=2, model=str(tiny_model), rows=200, stream=True)
    assert streamed["rows"].tolist() == [200] and (streamed[times] > 0).all(axis=None)
    assert (tmp_path / "home/metrics/scale_stream.csv").is_file()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_generated_pairs_are_written_in_parts(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(texts, "_WRITTEN", 40)
    texts.write_generated(tmp_path / f"a.{kind}", 100)
    read = pd.read_parquet if kind == "parquet" else functools.partial(pd.read_json, lines=True)
    pd.testing.assert_frame_equal(read(tmp_path / f"a.{kind}"), texts.generated_pairs(100))


def test_the_proof_writes_its_tables(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(proof, "measure", in_this_process)
    losses, metrics = proof.proof(3, 3, out=str(tmp_path / "proof.csv"), model=str(tiny_model))
    assert losses["loss"].tolist() == ["triplet"] * 3 + ["infonce"] * 3 and losses["step"].tolist() == [1, 2, 3] * 2
    assert losses["difference"].max() < proof.SAME_LOSS
    assert metrics["system"].tolist() == ["base", "ours", "peer", "difference"] * 2
    assert len(pd.read_csv(tmp_path / "proof.csv")) == 6 and len(pd.read_csv(tmp_path / "proof_metrics.csv")) == 8


def test_costs_of_mixing_and_mining_are_shares_of_a_step(tmp_path, tiny_model, monkeypatch):
    asked = []

    def here(contender, order, given):
        asked.append((contender, order.kind, len(given["query"])))
        return in_this_process(contender, order, given)

    monkeypatch.setattr(costs, "measure", here)
    monkeypatch.setattr(costs, "_ROUNDS", 3)
    found = costs.cost_table(2, out=str(tmp_path / "costs.csv"), model=str(tiny_model))
    assert asked == [("ours", "costs", 32 * 5)]
    named = {f"mixing {name}" for name in choices.MIXINGS if name != "none"}
    assert set(found["what"]) == named | {f"{name}, bank of {costs.BANK}" for name in named} | {"mining once an epoch"}
    assert (found["share"] * found["step_ms"]).to_numpy() == pytest.approx(found["ms"].to_numpy())
    assert found.set_index("what").loc["mining once an epoch", "ms"] > 0
    assert len(pd.read_csv(tmp_path / "costs.csv")) == len(found)


# -- refusals ------------------------------------------------------------------------------------


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


def test_a_case_of_int8_needs_integer_products_and_has_no_limit(home, monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(InputError, match="evaluate-int8 needs a processor with integer products"):
        speeds.run_benchmark("evaluate-int8")
    monkeypatch.setattr(cases, "CASES", {"evaluate-int8": CASES["evaluate-int8"]})
    with caplog.at_level("INFO", "hr_search"):
        assert speeds.run_benchmark().empty
    assert "evaluate-int8 is left out: the case evaluate-int8 needs a processor" in caplog.text
    answers = {"ours": [{"rows": {"": {"value": 2.0, "unit": "texts/s", "flops": 9}}, "precision": "int8"}]}
    answers["peer"] = [{"rows": {"": {"value": 1.0}}}]
    assert np.isnan(speeds.row_of("evaluate-int8", "", Order("evaluate"), answers)["limit"])


def test_the_missing_package_is_named(home, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "datasets" else found(name, *more)
    )
    for verb in (speeds.run_benchmark, proof.proof):
        with pytest.raises(InputError, match=r'needs the package datasets.*pip install "hr_search\[benchmark\]"'):
            verb()
