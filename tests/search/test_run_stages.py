"""The stages of a run's search: knobs kept or fitted, what is refused, and how the result is shown."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import AWKWARD, drawn, job_pairs, legend, title
from matplotlib.colors import to_hex

from hr_search.base.errors import InputError
from hr_search.base.plots import BLUE, GREY, RED
from hr_search.encoder import load_encoder
from hr_search.evaluation.significance import bootstrap_interval
from hr_search.experiment import run_experiment
from hr_search.search import identity, run_stages
from hr_search.search.memory import FOLDER, build_memory, save_memory
from hr_search.search.policy import FILE, SearchPolicy, write_policies
from hr_search.search.stage_figures import complete, stage_intervals
from hr_search.search.stages import evaluate_stages
from hr_search.settings import Settings


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    """A run with its saved model, and settings, data and encoder as the notebook reads them."""
    folder = tmp_path_factory.mktemp("run")
    job_pairs()[["query", "positive"]].to_csv(folder / "jobs.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HR_SEARCH_HOME", str(folder / "home"))
        shares = {"validationshare": 0.25, "testshare": 0.25, "maxsteps": 2, "batchsize": 4, "evalsteps": 2}
        places = {"datapath": str(folder / "jobs.csv"), "outputpath": str(folder / "model.pt")}
        run = run_experiment(
            Settings(modelname=str(tiny_model), maxlength=16, precision="fp32", **places, **shares), "r"
        )
        _, data = run_stages.data_of(run)
    return run, data


@pytest.fixture
def scene(finished, tmp_path):
    """The run, its data, and a copy of its encoder that a test may change."""
    run, data = finished
    folder = shutil.copytree(run_stages.kept_model(run), tmp_path / "model")
    return run, data, load_encoder(str(folder), precision="fp32"), folder


# -- knobs ---------------------------------------------------------------------------------------


def test_knobs_are_fitted_on_validation_rows_and_measured_on_test_rows(scene, monkeypatch):
    run, data, encoder, _ = scene
    seen = []
    tune = run_stages.tuning.tune
    monkeypatch.setattr(run_stages.tuning, "tune", lambda task, *rest: seen.append(task) or tune(task, *rest))
    examined = run_stages.examine(run, encoder, data, "d2q", "recall@10")
    assert seen[0].name == "d2q" and set(seen[0].documents) == set(data.validation["query"])
    assert examined.fitted["stage"].tolist() == ["centring", "mixing", "words"]
    assert "validation queries" in examined.origin
    metrics = run.table("metrics").query("system == 'trained' and direction == 'd2q' and metric == 'recall@10'")
    assert examined.table["value"][0] == pytest.approx(metrics["value"].iloc[0], abs=1e-6)
    assert examined.table[["low", "high"]].iloc[0].tolist() == pytest.approx(
        metrics[["low", "high"]].iloc[0].tolist(), abs=1e-6
    )


def test_the_memory_holds_train_rows_only(scene):
    _, data, encoder, _ = scene
    memory, validation = run_stages._to_fit_on(encoder, data, data.tasks("test")["q2d"])
    known = build_memory(encoder, data.train)
    assert memory.fingerprint == known.fingerprint
    assert set(validation) == {"q2d", "d2q"}


def test_knobs_that_tune_kept_are_used_as_they_are(scene):
    run, data, encoder, folder = scene
    policy = SearchPolicy(centre=True, mixing="documents", k=2, weight=0.4, fusion=0.3)
    write_policies(folder, {"q2d": policy})
    memory = build_memory(encoder, data.train)
    save_memory(memory, folder / FOLDER, identity.fingerprint(encoder))
    examined = run_stages.examine(run, encoder, data, "q2d")
    assert examined.policy == policy and examined.fitted is None and FILE in examined.origin
    assert examined.table["stage"].tolist() == ["cosine", "+ centring", "+ mixing", "+ words"]
    sides = {"query": encoder.encode(data.tasks("test")["q2d"].queries, "query")}
    sides["document"] = encoder.encode(data.tasks("test")["q2d"].documents)
    last = evaluate_stages(data.tasks("test")["q2d"], sides, policy, memory)[-1].results["mrr"]
    assert examined.table["value"].iloc[-1] == pytest.approx(last.mean())
    assert examined.table["low"].iloc[-1] == pytest.approx(bootstrap_interval(last, run.config["seed"])[0])


def test_the_second_stage_is_opened_beside_the_model(scene):
    run, data, encoder, folder = scene
    write_policies(folder, {"q2d": SearchPolicy(rerank="../second", reranktop=3)})
    opened = []

    class Reader:
        def score(self, queries, documents):
            return np.array([len(text) for text in documents], np.float32)

    examined = run_stages.examine(run, encoder, data, "q2d", reader=lambda place: opened.append(place) or Reader())
    assert opened == [str(folder.parent / "second")]
    assert examined.table["stage"].tolist() == ["cosine", "+ second stage"]
    assert run_stages.examine(run, encoder, data, "q2d").table["stage"].tolist() == ["cosine"]


# -- what is refused -----------------------------------------------------------------------------


def test_a_memory_that_knows_the_test_is_refused(scene):
    run, data, encoder, folder = scene
    write_policies(folder, {"q2d": SearchPolicy(centre=True)})
    save_memory(build_memory(encoder, data.test), folder / FOLDER, identity.fingerprint(encoder))
    with pytest.raises(InputError, match="give answers away"):
        run_stages.examine(run, encoder, data, "q2d")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_train_rows_that_know_the_answers_are_refused(scene, part):
    run, data, encoder, _ = scene
    leaky = dataclasses.replace(data, train=pd.concat([data.train, getattr(data, part)]))
    with pytest.raises(InputError, match="give answers away"):
        run_stages.examine(run, encoder, leaky, "q2d")


def test_the_model_of_another_run_is_refused(scene, monkeypatch):
    run, data, encoder, _ = scene
    table = run.table("metrics")
    changed = table.assign(value=table["value"] + 0.1 * (table["system"] == "trained"))
    monkeypatch.setattr(type(run), "table", lambda self, name: changed)
    with pytest.raises(InputError, match=r"another run has saved its model there since"):
        run_stages.examine(run, encoder, data, "q2d")


def test_without_validation_rows_or_with_too_many_texts_tune_is_named(scene, monkeypatch):
    run, data, encoder, _ = scene
    with pytest.raises(InputError, match=r"no validation rows.*hr_search tune"):
        run_stages.examine(run, encoder, dataclasses.replace(data, validation=data.validation.iloc[:0]), "q2d")
    monkeypatch.setattr(run_stages, "TOKENS", 10)
    monkeypatch.setattr(type(encoder), "embed", lambda *_, **__: pytest.fail("something was encoded"))
    with pytest.raises(InputError, match=r"tokens are too many .*hr_search tune"):
        run_stages.examine(run, encoder, data, "q2d")


def test_data_that_have_changed_since_are_refused(finished, tmp_path, monkeypatch):
    run, _ = finished
    job_pairs()[["query", "positive"]].iloc[2:].to_csv(tmp_path / "jobs.csv", index=False)
    monkeypatch.setattr(type(run), "config", run.config | {"datapath": str(tmp_path / "jobs.csv")})
    with pytest.raises(InputError, match="no longer what the run r has read"):
        run_stages.data_of(run)


def test_a_run_of_the_second_stage_has_no_search_of_its_own(scene, monkeypatch):
    run, data, encoder, _ = scene
    monkeypatch.setattr(type(run), "config", run.config | {"stage": "rerank"})
    assert run_stages.kept_model(run) is None
    with pytest.raises(InputError, match="trained a second stage"):
        run_stages.examine(run, encoder, data, "q2d")


# -- figure and tables ---------------------------------------------------------------------------


def stages(gains=((0.05, 0.02, 0.08, 0.001), (-0.04, -0.06, -0.01, 0.002), (0.01, -0.01, 0.03, 0.4))) -> pd.DataFrame:
    rows = [{"stage": "cosine", "value": 0.5, "low": 0.45, "high": 0.55, "ms": 0.02}]
    for number, (gain, low, high, p) in enumerate(gains, 1):
        row = {"stage": f"+ {number} {AWKWARD}", "value": 0.5 + gain, "low": 0.44 + gain, "high": 0.56 + gain}
        rows.append(row | {"gain": gain, "gain_low": low, "gain_high": high, "p": p, "p_holm": p, "ms": 1.5 * number})
    return pd.DataFrame(rows)


@pytest.mark.usefixtures("closed")
def test_the_figure_colours_what_is_real():
    ax = drawn(stage_intervals(stages(), "mrr"))
    assert legend(ax) == ["better than the cosine", "worse than the cosine", "not shown to differ from the cosine"]
    dots = {float(line.get_xdata()[0]): to_hex(line.get_color()) for line in ax.lines if line.get_label()[0] != "_"}
    expected = {0.55: BLUE, 0.46: RED, 0.51: GREY}
    assert {round(x, 2): colour.upper() for x, colour in dots.items()} == {x: c.upper() for x, c in expected.items()}
    assert title(ax).startswith("MRR 0.500 with the cosine, 0.510 with all stages; most by")
    words = [text.get_text() for text in ax.texts]
    assert words[0] == "0.02 ms a query" and words[1] == "+0.050 [+0.020, +0.080]\n1.5 ms a query"


@pytest.mark.usefixtures("closed")
def test_the_figure_of_the_cosine_alone_says_that_no_stage_was_taken():
    alone = stages(()).drop(columns=[name for name in ("gain", "p") if name in stages(())])
    ax = drawn(stage_intervals(alone, "ndcg@10"))
    assert title(ax) == "nDCG@10 0.500 with the cosine; no stage was taken" and ax.get_legend() is None
    assert complete(alone)["p_holm"].isna().all()
    with pytest.raises(InputError, match="no column ms"):
        stage_intervals(alone.drop(columns="ms"))


def test_tables_read_at_a_glance():
    shown = run_stages.readable(stages())
    assert shown.columns[0] == "MRR" and run_stages.readable(stages(), "pass@1").columns[0] == "pass@1"
    assert shown.iloc[0].tolist() == ["0.500 [0.450, 0.550]", "", "", "0.02"]
    assert shown.iloc[1].tolist() == ["0.550 [0.490, 0.610]", "+0.050 [+0.020, +0.080]", "0.0010", "1.50"]
    knobs = [{"mixing": "both", "k": 5}, {}]
    fitted = pd.DataFrame(
        {"stage": ["mixing", "words"], "knobs": knobs, "gain": [0.123456, 0.0], "taken": [True, False]}
    )
    steps = run_stages.steps_shown(fitted)
    assert steps.loc["mixing"].tolist() == ["mixing both, k 5", 0.1235, "yes"] and steps.loc["words", "taken"] == "no"


@pytest.mark.parametrize(("count", "limit"), [(1, 1), (7, 3), (3, 7), (1000, 999), (10, 1)])
def test_a_spread_is_even_ascending_and_within_its_limit(count, limit):
    found = run_stages.spread(count, limit)
    assert len(found) == min(count, limit) and (np.diff(found) > 0).all() and 0 <= found[0] <= found[-1] < count
    if 1 < limit <= count:
        assert found[0] == 0 and found[-1] == count - 1 and np.diff(found).max() - np.diff(found).min() <= 1
