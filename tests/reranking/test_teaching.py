"""The teacher's scores: which pairs it sees, what is kept of them, and what is refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from lives import launch
from test_scorer import cross_encoder

from hr_search import experiment
from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.batches import index_rows
from hr_search.checks import check_settings
from hr_search.encoder import load_encoder
from hr_search.reranking import teaching
from hr_search.reranking.cross_encoder import Reranker
from hr_search.reranking.scorer import load_reranker
from hr_search.row_checks import check_rows
from hr_search.runs.folders import Run
from hr_search.search.policy import sides_of
from hr_search.settings import Settings
from hr_search.train import make_accelerator


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a random cross-encoder."""
    return cross_encoder(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def settings(tiny_model, teacher):
    return Settings(
        modelname=str(tiny_model), teacher=str(teacher), teachercandidates=4, maxlength=32, precision="fp32"
    )


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, str]]:
    """The pairs that any second stage is asked about."""
    seen, original = [], Reranker.score

    def score(self, queries, documents, progress=False):
        seen.extend(zip(queries, documents, strict=True))
        return original(self, queries, documents, progress)

    monkeypatch.setattr(Reranker, "score", score)
    return seen


def made(settings, pairs):
    rows = index_rows(pairs)
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision)
    tokens = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
    return rows, encoder, teaching.make_lessons(settings, rows, encoder, tokens, make_accelerator())


# -- which pairs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["q2d", "d2q"])
def test_each_row_is_scored_with_its_own_text_and_the_nearest_wrong_ones(
    settings, jobs, teacher, direction, home, asked
):
    settings = settings.replace(direction=direction)
    rows, encoder, lessons = made(settings, jobs)
    assert len(asked) == len(set(asked))  # each pair once
    side = sides_of(direction)[1]
    assert lessons.side == side and lessons.drawn == (2 if side == "document" else 0)
    embedded = {"query": encoder.encode(rows.queries, "query"), "document": encoder.encode(rows.documents, "document")}
    reranker = load_reranker(teacher, precision="fp32")
    texts = getattr(rows, {"query": "queries", "document": "documents"}[side])
    for row in range(len(rows)):
        title, vacancy = rows.query[row], rows.positive[row]
        given = rows.queries[title], rows.documents[vacancy]
        anchor = embedded["query"][title] if side == "document" else embedded["document"][vacancy]
        cosines = np.round(embedded[side] @ anchor, 6)
        right = {*jobs.loc[jobs["query"] == given[0], "positive" if side == "document" else "query"]}
        nearest = [at for at in np.argsort(-cosines, kind="stable") if texts[at] not in right][:4]
        place = lessons.anchor[row]
        assert lessons.candidates[place].tolist() == nearest
        names = [texts[at] for at in nearest]
        pairs = ([given[0]] * 4, names) if side == "document" else (names, [given[1]] * 4)
        np.testing.assert_allclose(lessons.scores[place], reranker.score(*pairs), atol=1e-5)
        np.testing.assert_allclose(lessons.own[row], reranker.score([given[0]], [given[1]])[0], atol=1e-5)


def test_teacherdrawn_decides_what_joins_a_batch(settings, jobs, home):
    assert made(settings.replace(teacherdrawn=3), jobs)[2].drawn == 3
    assert made(settings.replace(teacherdrawn=1, direction="d2q"), jobs)[2].drawn == 1


# -- the cache -----------------------------------------------------------------------------------


def same(one, other) -> bool:
    return one.fingerprint == other.fingerprint and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("anchor", "candidates", "scores", "own")
    )


def test_scores_are_computed_once_and_anew_when_anything_that_decides_them_changes(
    settings, jobs, tmp_path, home, asked
):
    _, _, first = made(settings, jobs)
    asked.clear()
    _, _, again = made(settings.replace(teacherweight=3.0, temperature=0.2, batchsize=4, loss="infonce"), jobs)
    assert same(first, again) and not asked
    other = cross_encoder(tmp_path, "roberta")
    reversed_rows = jobs.iloc[::-1].reset_index(drop=True)
    for changes, pairs in [
        ({"teachercandidates": 5}, jobs), ({"direction": "d2q"}, jobs), ({"teacher": str(other)}, jobs),
        ({"maxlength": 16}, jobs), ({}, reversed_rows), ({}, jobs.assign(group=np.arange(24) % 6)),
    ]:  # fmt: skip
        asked.clear()
        made(settings.replace(**changes), pairs)
        assert asked, changes


@pytest.mark.parametrize("trouble", ["torn", "text", "pickle", "NaN", "another shape", "a text that is not there"])
def test_a_damaged_cache_is_made_anew(settings, jobs, home, caplog, asked, trouble):
    _, _, first = made(settings, jobs)
    (place,) = (paths.cache() / "teaching").iterdir()
    raw, content = place.read_bytes(), dict(np.load(place))
    if trouble == "torn":
        place.write_bytes(raw[: len(raw) // 2])
    elif trouble == "text":
        place.write_text("scores")
    elif trouble == "pickle":
        np.savez(place, **(content | {"scores": np.array([print], object)}))
    elif trouble == "NaN":
        np.savez(place, **(content | {"own": content["own"] * np.float32(np.nan)}))
    elif trouble == "another shape":
        np.savez(place, **(content | {"own": content["own"][1:]}))
    else:
        np.savez(place, **(content | {"candidates": content["candidates"] + 1000}))
    asked.clear()
    assert same(first, made(settings, jobs)[2]) and asked and "are damaged" in caplog.text
    asked.clear()
    assert same(first, made(settings, jobs)[2]) and not asked


# -- whole runs ----------------------------------------------------------------------------------

WHOLE = {"batchsize": 4, "maxsteps": 6, "validationshare": 0.25, "testshare": 0.25, "probes": 0, "loss": "infonce"}


@pytest.mark.parametrize("direction", ["q2d", "d2q"])
def test_a_run_with_a_teacher(settings, jobs_file, home, direction, caplog):
    caplog.set_level(logging.INFO, logger="hr_search")
    given = settings.replace(datapath=str(jobs_file), direction=direction, **WHOLE)
    run = experiment.run_experiment(given, "taught")
    history = run.table("history")
    assert history.columns.tolist()[2:4] == ["loss", "teacher"] and (history["teacher"].iloc[1:] > 0).all()
    assert "the teacher scores" in caplog.text and "the teacher puts the own text of" in caplog.text
    again = experiment.run_experiment(given, "again").table("history")
    assert again["teacher"].iloc[1:].tolist() == history["teacher"].iloc[1:].tolist()
    assert "are in the cache" in caplog.text


def test_two_processes_are_taught_as_one(tiny_model, teacher, jobs_file, tmp_path):
    flags = "--loss infonce --precision fp32 --validationshare 0.25 --testshare 0.25 --epochs 2 --probes 0 --teachercandidates 4"
    words = ["--datapath", str(jobs_file), "--modelname", str(tiny_model), "--teacher", str(teacher), *flags.split()]
    pair = launch([*words, "--batchsize", "2", "--runid", "r"], tmp_path / "two")
    assert [life.end()[0] for life in pair] == [0, 0], [life.said for life in pair]
    one = Settings(
        datapath=str(jobs_file), modelname=str(tiny_model), teacher=str(teacher), loss="infonce", precision="fp32",
        validationshare=0.25, testshare=0.25, epochs=2, probes=0, teachercandidates=4, batchsize=4,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.HOME_VARIABLE, str(tmp_path / "one"))
        single = experiment.run_experiment(one, "r").table("history")
    both = Run(tmp_path / "two" / "rank0" / "metrics" / "runs" / "r").table("history")
    np.testing.assert_allclose(single[["loss", "teacher"]], both[["loss", "teacher"]], rtol=1e-4, atol=1e-5)


# -- refused -------------------------------------------------------------------------------------


def test_a_teacher_that_is_none_is_refused(settings, tiny_model, jobs_file, jobs, home, tmp_path):
    given = settings.replace(datapath=str(jobs_file), **WHOLE)
    for changes, sentence in [
        ({"teacher": str(tiny_model)}, "is no cross-encoder"),
        ({"teacher": str(tmp_path / "none")}, r"teacher .* is not a folder; give that of a second stage"),
        ({"teacherweight": 0.0}, r"--teacherweight 0 leaves a --teacher without effect; raise it"),
        ({"teacherdrawn": 5}, "teacherdrawn 5 is more than teachercandidates 4; lower it"),
        ({"teachercandidates": 30}, r"--teacher scores 30 wrong texts .* only \d+; lower --teachercandidates"),
    ]:
        with pytest.raises(InputError, match=sentence):
            experiment.run_experiment(given.replace(**changes))
    assert not list(paths.runs().glob("*"))
    check_settings(given.replace(teacher="", teacherweight=0.0, teacherdrawn=5))
    check_rows(given.replace(teacher="", teachercandidates=30, validationshare=0.0), jobs, index_rows(jobs))


def test_a_teacher_that_was_trained_on_nothing_is_refused(settings, jobs_file, home, tmp_path):
    folder = cross_encoder(tmp_path / "broken")
    broken = load_reranker(folder, precision="fp32")
    with torch.no_grad():
        broken.model.classifier.weight.fill_(torch.nan)
    broken.save(tmp_path / "nan")
    with pytest.raises(InputError, match=r"nan gives scores that are NaN or infinite; train it again"):
        experiment.run_experiment(settings.replace(datapath=str(jobs_file), teacher=str(tmp_path / "nan"), **WHOLE))
    assert not list(paths.runs().glob("*")) and not list((paths.cache() / "teaching").glob("*"))
