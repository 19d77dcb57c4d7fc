"""Runs of stage search: they train nothing, equal `evaluate` with the same knobs, and refuse what does not fit."""

from __future__ import annotations

import json
import logging

import pandas as pd
import pytest
from conftest import job_pairs, make_model
from sentence_transformers import CrossEncoder

from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.checks import check_settings
from hr_search.commands import parser
from hr_search.data.loading import load_data
from hr_search.evaluation import calibration, scoring
from hr_search.evaluation.comparison import with_intervals
from hr_search.experiment import run_experiment
from hr_search.policies import search_policy
from hr_search.reports.index import read_run
from hr_search.reports.report import _nothing_to_read
from hr_search.row_checks import check_rows
from hr_search.search import run_stages
from hr_search.search.policy import TYPES, SearchPolicy
from hr_search.settings import Settings

KNOBS = {"centre": True, "searchmixing": "both", "searchk": 3, "searchtemperature": 0.2, "searchweight": 0.4}
KNOBS |= {"fusion": 0.3, "scaling": "minmax"}
FLAGS = {"searchk": "k", "searchtemperature": "temperature", "searchweight": "weight"}  # of `evaluate`


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Settings of a search over a tiny model, under a root of its own."""
    folder = tmp_path_factory.mktemp("trial")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.HOME_VARIABLE, str(folder / "home"))
        job_pairs()[["query", "positive"]].to_csv(folder / "jobs.csv", index=False)
        common = {"modelname": str(make_model(folder / "model")), "datapath": str(folder / "jobs.csv")}
        shares = {"validationshare": 0.2, "testshare": 0.3, "splitseed": 7, "maxlength": 32, "precision": "fp32"}
        yield folder, Settings(stage="search", **common, **shares)


@pytest.fixture(scope="module")
def finished(scene):
    """A run whose stages move embeddings and add words."""
    return run_experiment(scene[1].replace(**KNOBS), "staged")


def test_run_equals_evaluate_with_the_same_knobs(scene, finished, capsys):
    folder, settings = scene
    load_data(settings).train[["query", "positive"]].to_csv(folder / "train.csv", index=False)
    knobs = [f"--{FLAGS.get(name, name)}={value}" for name, value in KNOBS.items()]
    rows = [f"--{name}={getattr(settings, name)}" for name in ("datapath", "validationshare", "testshare", "splitseed")]
    model = ["--model", settings.modelname, "--maxlength=32", "--precision=fp32", "--memory", str(folder / "train.csv")]
    line = ["evaluate", "--split=test", "--json", "--plain", "--nofloors", *rows, *model, *knobs]
    capsys.readouterr()
    assert parser.main(line) == 0
    told = json.loads(capsys.readouterr().out)
    ours = {system: finished.summary["metrics"][system] for system in ("base", "trained")}
    for system, theirs in (("base", told[settings.modelname]), ("trained", told["+ words"])):
        for direction in ("q2d", "d2q"):
            for metric, (value, _, _) in ours[system][direction].items():
                assert value == pytest.approx(theirs[direction][metric][0], abs=1e-9), (system, direction, metric)
    assert ours["base"] != ours["trained"]


def test_cells_of_a_grid_share_the_embeddings_of_the_test_rows(scene, finished, monkeypatch):
    def refuse(*_, **__):
        pytest.fail("the test rows are embedded again")

    kept = list((paths.cache() / "embeddings").glob("*/*.npy"))
    assert len(kept) == 2
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "embed_sides", refuse)
        again = run_experiment(scene[1].replace(**KNOBS), "shared")
    assert again.table("metrics").equals(finished.table("metrics"))
    kept[0].write_bytes(b"torn")
    assert run_experiment(scene[1].replace(**KNOBS), "torn").table("metrics").equals(finished.table("metrics"))
    assert len(list((paths.cache() / "embeddings").glob("*/*.npy"))) == 2
    run_experiment(scene[1].replace(maxlength=16), "other length")
    assert len(list((paths.cache() / "embeddings").glob("*/*.npy"))) == 4


def test_nothing_is_trained_and_the_run_says_so(finished):
    summary = finished.summary
    assert (summary["steps"], summary["best_step"], summary["training_seconds"]) == (0, 0, 0)
    assert "staged search" in summary["verdict"] and "plain cosine" in summary["verdict"]
    assert "--stage=search" in summary["command"] and "--searchmixing=both" in summary["command"]
    assert finished.table("metrics")["system"].unique().tolist() == ["bm25", "tfidf", "base", "trained"]
    assert with_intervals(finished.table("metrics"), "q2d").index.tolist() == ["bm25", "tfidf", "base", "trained"]
    assert not any(finished.has(name) for name in ("history", "mining")) and not (finished.folder / "probes").exists()
    costs = finished.table("timing").query("unit == 'ms' and what.str.startswith('search, ')")
    stages = ["cosine", "+ centring", "+ mixing", "+ words"]
    assert costs["what"].tolist() == [f"search, {name}: {stage}" for name in ("q2d", "d2q") for stage in stages]
    assert set(finished.table("scores")["system"]) == {"base"}  # sums with word scores are no cosines


def test_reports_leave_out_what_needs_a_training(scene, finished):
    assert "no embedding moves" in _nothing_to_read("03_embedding_drift", scene[1], "staged")
    assert read_run(finished.folder).curve is None
    kept, groups = finished.table("scores"), finished.table("queries")["group"]
    with pytest.raises(InputError, match="no cosines of that system are kept: word scores"):
        calibration.first_found(kept[kept["system"] == "trained"], groups)
    _, data = run_stages.data_of(finished)
    with pytest.raises(InputError, match="the run staged is such a search; the tables above"):
        run_stages.examine(finished, None, data, "q2d")


def test_without_stages_it_is_the_plain_cosine(scene):
    run = run_experiment(scene[1], "plain")
    queries = run.table("queries").drop(columns="length")
    both = [queries[queries["system"] == name].drop(columns="system") for name in ("base", "trained")]
    pd.testing.assert_frame_equal(*(part.reset_index(drop=True) for part in both))
    assert run.summary["verdict"] == "the search has no stages, so it is the plain cosine itself."
    wide = run.table("scores").pivot(index=["direction", "query", "kind"], columns="system", values="score")
    assert wide["base"].tolist() == wide["trained"].tolist()


def test_settings_of_a_training_change_nothing(scene, finished):
    ignored = {"negatives": "mined", "mineside": "query", "loss": "triplet", "teacher": "gone", "trainlength": 8}
    run = run_experiment(scene[1].replace(**KNOBS, **ignored, batchsize=1), "again")
    pd.testing.assert_frame_equal(run.table("queries"), finished.table("queries"))


def test_cosines_are_those_of_moved_embeddings_and_a_second_stage_has_none(scene):
    folder, settings = scene
    moved = run_experiment(settings.replace(searchmixing="documents", searchk=3, searchweight=0.9), "moved")
    kept = moved.table("scores").groupby(["direction", "system"])["query"].nunique().unstack()
    assert kept["base"].tolist() == kept["trained"].tolist()
    queries = moved.table("queries").query("system == 'trained'").groupby("direction")
    for direction, rows in moved.table("scores").query("system == 'trained'").groupby("direction"):
        wide = rows.pivot(index="query", columns="kind", values="score")
        ranks = queries.get_group(direction)["rank"].to_numpy()
        # The first document found is right exactly where its cosine says so.
        assert (wide["best"] > wide["nearest"]).tolist() == (ranks[wide.index.astype(int)] == 1).tolist()
    CrossEncoder(str(make_model(folder / "plain")), num_labels=1, device="cpu").save_pretrained(str(folder / "second"))
    run = run_experiment(settings.replace(rerank=str(folder / "second"), reranktop=3, rerankweight=0.5), "reads")
    assert "search, q2d: + second stage" in set(run.table("timing")["what"])
    assert set(run.table("scores")["system"]) == {"base"}


def test_settings_become_a_policy():
    found = search_policy(Settings(stage="search", **KNOBS, words="bm25", rerank="r", reranktop=9, rerankweight=0.5))
    assert found == SearchPolicy(True, "both", "weighted", 3, 0.2, 0.4, 0.3, "bm25", "minmax", "r", 9, 0.5)
    assert search_policy(Settings()) == SearchPolicy(reranktop=20) and len(TYPES) == 12


# -- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"outputpath": "out"}, "--stage search trains nothing, so there is no model for an --outputpath"),
        ({"retriever": "x"}, "--retriever belongs to --stage rerank"),
        ({"stage": "encode", "centre": True}, "--centre belongs to --stage search"),
        ({"stage": "rerank", "fusion": 0.1}, "--fusion belongs to --stage search"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_settings(Settings(stage="search", **KNOBS))
    with pytest.raises(InputError, match=part):
        check_settings(Settings(stage="search").replace(**changes))


def test_more_neighbours_than_train_rows_are_refused(scene, jobs):
    settings = scene[1].replace(searchmixing="queries", searchk=12)
    check_rows(settings, jobs, None)
    with pytest.raises(InputError, match=r"searchk is 13, and train has only 12 distinct queries .*lower --searchk"):
        check_rows(settings.replace(searchk=13), jobs, None)
    check_rows(settings.replace(searchk=13, searchmixing="none", centre=True), jobs, None)
    with pytest.raises(InputError, match="need train rows"):
        check_rows(settings.replace(searchmixing="none", centre=True), jobs[:0], None)


def test_memory_with_test_documents_leaves_no_run(scene):
    settings = scene[1].replace(testpath=scene[1].datapath, validationshare=0.0, allowleaks=True)
    with pytest.raises(InputError, match=r"the memory \(train rows of jobs.*\) holds 24 of the 24 .*--allowleaks out"):
        run_experiment(settings.replace(searchmixing="both", searchk=3), "leaky")
    assert not (paths.runs() / "leaky").exists()


def test_second_stage_must_be_one(scene, caplog):
    caplog.set_level(logging.ERROR)
    with pytest.raises(InputError, match="gone/second"):
        run_experiment(scene[1].replace(rerank="./gone/second"), "none")
    assert not (paths.runs() / "none").exists()
