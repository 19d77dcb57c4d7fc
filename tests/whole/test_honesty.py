"""Numbers that would mislead: shuffled labels score at chance, leaks and NaN stop the run, a collapse is reported."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import JOBS

from hr_search import experiment, nearest, row_checks, train
from hr_search.base import files
from hr_search.base.errors import InputError
from hr_search.batches import describe_rows, epoch_batches, index_rows
from hr_search.data import exploration, loading
from hr_search.data.tasks import Task, tasks_of
from hr_search.encoder import load_encoder
from hr_search.evaluation import scoring
from hr_search.evaluation.metrics import embedding_scores, rank_all
from hr_search.runs import provenance
from hr_search.runs.folders import Run
from hr_search.settings import Settings

TITLES = list(JOBS)
WORDS = [text.split()[0] for text in JOBS.values()]  # one word of each description, no two alike


def chance(documents: int) -> tuple[float, float]:
    """Mean (H_N / N) and standard deviation of the reciprocal rank of one relevant document in a random ranking."""
    ranks = 1 / np.arange(1, documents + 1)
    return ranks.mean(), ranks.std()


# -- shuffled labels -----------------------------------------------------------------------------


def learnable() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Queries of two titles, documents of the two words that belong to them; the held-out pairs of titles are new."""
    rows = [
        {
            "query": f"{TITLES[a]} {TITLES[b]}",
            "positive": f"{WORDS[b]} {WORDS[a]}",
            "negatives": [],
            "group": f"{a} {b}",
        }
        for a, b in itertools.combinations(range(len(TITLES)), 2)
    ]
    table = pd.DataFrame(rows).sample(frac=1, random_state=0)
    return table[:44].reset_index(drop=True), table[44:].reset_index(drop=True)


def held_out_mrr(model: Path, pairs: pd.DataFrame, held: pd.DataFrame) -> float:
    """MRR on the held-out rows of a tiny model trained on the pairs."""
    settings = Settings(
        modelname=str(model), batchsize=16, epochs=25, learningrate=3e-3, loss="infonce", precision="fp32", patience=0,
        seed=1,
    )  # fmt: skip
    encoder = load_encoder(settings.modelname, settings.maxlength, settings.precision, settings.dropout)
    rows = index_rows(pairs)
    tables = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
    train.fit(encoder, rows, tables, settings, lambda step: {"mrr": float(step)}, "toy")
    return float(scoring.evaluate(encoder, tasks_of(held))["q2d"]["mrr"].mean())


def test_training_on_shuffled_labels_ends_at_chance(tiny_model):
    pairs, held = learnable()
    expected, deviation = chance(len(held))
    assert held_out_mrr(tiny_model, pairs, held) > expected + 0.4  # the labels can be learnt
    shuffled = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(pairs))
        shuffled.append(held_out_mrr(tiny_model, pairs.assign(positive=pairs["positive"].to_numpy()[order]), held))
    # Queries that share a title are no independent draws, so the noise is that of half as many.
    assert abs(np.mean(shuffled) - expected) < 3 * deviation / math.sqrt(3 * len(held) / 2)


@pytest.mark.parametrize("documents", [5, 50, 400])
def test_shuffled_relevance_gives_the_analytic_chance_level(documents):
    generator, count = np.random.default_rng(documents), 3000
    right = [np.array([index]) for index in generator.integers(0, documents, count)]
    task = Task("q2d", ["q"] * count, ["d"] * documents, right, ["g"] * count)
    queries, texts = generator.standard_normal((count, 16)), generator.standard_normal((documents, 16))
    result = rank_all(task, embedding_scores(queries, texts))
    expected, deviation = chance(documents)
    assert expected == pytest.approx(sum(1 / rank for rank in range(1, documents + 1)) / documents)
    assert abs(result["mrr"].mean() - expected) < 4 * deviation / math.sqrt(count)
    for metric, share in (("pass@1", 1), ("pass@5", 5), ("recall@10", 10)):
        share = min(1, share / documents)
        assert abs(result[metric].mean() - share) <= 4 * math.sqrt(share * (1 - share) / count)


def test_a_model_that_gives_all_texts_one_embedding_is_worse_than_chance():
    task = Task("q2d", ["q"] * 9, ["d"] * 50, [np.array([i]) for i in range(9)], ["g"] * 9)
    assert (rank_all(task, embedding_scores(np.ones((9, 8)), np.ones((50, 8))))["mrr"] == 1 / 50).all()


# -- NaN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["query", "document"])
def test_everything_that_ranks_refuses_nan_with_one_sentence(value, side):
    good, bad = np.ones((4, 3), np.float32), np.ones((4, 3), np.float32)
    bad[1:3, 2] = value
    pair = (bad, good) if side == "query" else (good, bad)
    sentences = set()
    for search in (embedding_scores, lambda queries, documents: nearest.nearest(queries, documents, 1),
                   nearest.pair_scores):  # fmt: skip
        with pytest.raises(InputError) as caught:
            search(*pair)
        sentences.add(str(caught.value))
    assert len(sentences) == 1
    assert sentences.pop().startswith(f"{side} embeddings: row 2 holds NaN or infinity (2 such rows); the model")


def test_rows_of_a_batch_are_named_by_their_texts(jobs):
    rows = index_rows(jobs.assign(positive=jobs["positive"] + " " + "x" * 80))
    sentence = describe_rows(rows, np.array([5, 0, 2]), count=2)
    assert sentence.startswith('"welder" with "joins metal parts with') and '…", "baker" with "kneads' in sentence
    assert sentence.endswith('…" and 1 more')
    assert describe_rows(rows, np.array([3])).count('"') == 4 and "more" not in describe_rows(rows, np.array([3]))


# -- leaks ---------------------------------------------------------------------------------------


def write(path: Path, rows: list[tuple[str, str]], group: str = "") -> str:
    lines = [{"query": query, "positive": text} | ({"group": f"{group}{at}"} if group else {})
             for at, (query, text) in enumerate(rows)]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return str(path)


@pytest.fixture
def table(tmp_path: Path) -> str:
    return write(tmp_path / "train.jsonl", [(f"title {n}", f"text {n}") for n in range(40)])


def test_a_test_document_in_validation_stops_the_run(tmp_path, table):
    rows = [(f"other {n}", f"words {n}") for n in range(6)]
    one = write(tmp_path / "one.jsonl", rows)
    two = write(tmp_path / "two.jsonl", [("new", "more"), ("again", "WORDS 3!"), ("last", "another")])
    settings = Settings(datapath=table, validationpath=one, testpath=two)
    with pytest.raises(InputError, match=r'two.jsonl: 1 of 3 test rows .* occurs in validation \(such as "again"'):
        loading.load_data(settings)
    with pytest.raises(InputError, match="one.jsonl: 6 of 6 test rows"):
        loading.load_data(settings.replace(testpath=one))
    loaded = loading.load_data(settings.replace(allowleaks=True))
    assert loaded.counts.test_leaks == 1
    assert exploration.leak_table(loaded)["count"]["test rows whose document also stands in validation"] == 1


def test_a_file_of_one_part_is_held_against_the_split_part_too(tmp_path, table):
    held = loading.load_data(Settings(datapath=table)).validation.iloc[0]
    own = write(tmp_path / "own.jsonl", [("new", "more"), ("again", held["positive"])])
    for settings in (Settings(datapath=table, testpath=own), Settings(datapath=table, validationpath=own)):
        with pytest.raises(
            InputError, match=r"own.jsonl: 1 of .* have a document that also occurs in (train|validation)"
        ):
            loading.load_data(settings)


def test_groups_on_both_sides_are_counted(tmp_path):
    path = write(tmp_path / "train.jsonl", [(f"title {n}", f"text {n}") for n in range(20)], group="g")
    own = write(tmp_path / "own.jsonl", [("x 1", "y 1"), ("x 2", "y 2")], group="g")
    loaded = loading.load_data(Settings(datapath=path, testpath=own, groupcolumn="group", validationshare=0))
    assert (loaded.counts.seen_groups, loaded.counts.seen_queries) == (2, 0)
    other = write(tmp_path / "other.jsonl", [("x 1", "y 1"), ("x 2", "y 2")], group="h")
    assert loading.load_data(Settings(datapath=path, testpath=other, groupcolumn="group")).counts.seen_groups == 0


def test_a_split_leaks_neither_documents_nor_groups(table):
    counts = loading.load_data(Settings(datapath=table)).counts
    assert [getattr(counts, name) for name in ("exact_leaks", "near_leaks", "test_leaks", "seen_groups")] == [0] * 4


def test_the_test_rows_do_not_depend_on_the_seed_of_the_run(table):
    one, two = (loading.load_data(Settings(datapath=table, seed=seed, maxrows=10)) for seed in (1, 2))
    assert one.fingerprint == two.fingerprint
    other = loading.load_data(Settings(datapath=table, splitseed=7, maxrows=10))
    assert set(other.test["query"]) != set(one.test["query"])


# -- groups that leave nothing to learn ----------------------------------------------------------


def test_a_group_that_fills_whole_batches_is_refused():
    groups = pd.Series(["courier"] * 90 + [f"job {number}" for number in range(10)])
    bare = np.ones(100, dtype=bool)
    said = r'"courier" has 90 of 100 rows; raise --batchsize or look at --groupcolumn'
    with pytest.raises(InputError, match=said):
        row_checks.refuse_lonely_batches(epoch_batches(100, 2, 0, 0), groups, bare)
    row_checks.refuse_lonely_batches(epoch_batches(100, 50, 0, 0), groups, bare)
    row_checks.refuse_lonely_batches(epoch_batches(100, 2, 0, 0), groups, ~bare)  # every row brings a wrong document
    bare[0] = False
    with pytest.raises(InputError, match=said):  # one that is given does not help the others
        row_checks.refuse_lonely_batches(epoch_batches(100, 2, 0, 0), groups, bare)


def test_batches_of_one_row_need_given_or_mined_negatives_in_most_rows(tiny_model, jobs_file, home):
    given = Settings(
        datapath=str(jobs_file), modelname=str(tiny_model), batchsize=1, validationshare=0.2, testshare=0.2
    )
    loaded = loading.load_data(given)
    rows = index_rows(loaded.train)
    with pytest.raises(
        InputError, match=rf"{len(rows)} of {len(rows)} rows have none given either; take --negatives batch and"
    ):
        row_checks.check_rows(given, loaded.train, rows)
    row_checks.check_rows(given, loaded.train, rows, processes=4)
    row_checks.check_rows(given.replace(negatives="mined", minepool=2), loaded.train, rows)
    rows.negatives[0] = [1]
    with pytest.raises(InputError, match=rf"{len(rows) - 1} of {len(rows)} rows have none given either"):
        row_checks.check_rows(given, loaded.train, rows)
    rows.negatives[1:] = [[0]] * (len(rows) - 1)
    row_checks.check_rows(given, loaded.train, rows)


def test_a_bank_holds_the_batches_of_all_processes(tiny_model, jobs_file, home):
    given = Settings(
        datapath=str(jobs_file), modelname=str(tiny_model), batchsize=4, mixing="mean", bank=6, validationshare=0.2,
        testshare=0.2,
    )  # fmt: skip
    loaded = loading.load_data(given)
    rows = index_rows(loaded.train)
    row_checks.check_rows(given, loaded.train, rows)
    with pytest.raises(InputError, match="a bank of 6 documents is smaller than a batch, which has up to 9"):
        row_checks.check_rows(given, loaded.train, rows, processes=2)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"minebandlow": 0.5, "minebandhigh": 0.1}, "the band is 0.5 to 0.1"),
        ({"minestart": 5, "minestop": 2}, "the rank window from 5 to 2 does not fit"),
        ({"minestop": 1000}, "the rank window from 0 to 1000 does not fit"),
        ({"minebandlow": 0.03, "minebandhigh": 0.04}, "fewer than count 2"),
    ],
)
def test_a_window_of_mining_that_cannot_be_is_refused_before_anything_is_encoded(
    tiny_model, jobs_file, home, policy, said
):
    given = Settings(
        datapath=str(jobs_file), modelname=str(tiny_model), negatives="mined", minepool=2, validationshare=0.2,
        testshare=0.2, **policy,
    )  # fmt: skip
    loaded = loading.load_data(given)
    with pytest.raises(InputError, match=f"--negatives mined: .*{said}.*--minebandlow"):
        row_checks.check_rows(given, loaded.train, index_rows(loaded.train))


def test_a_run_that_is_refused_on_the_way_leaves_no_folder(tiny_model, jobs_file, home, monkeypatch):
    def stopped(*given):
        raise InputError("the loss is nan at step 3.")

    monkeypatch.setattr(train, "run_step", stopped)
    settings = Settings(
        modelname=str(tiny_model), datapath=str(jobs_file), batchsize=4, validationshare=0.25, testshare=0.25
    )
    with pytest.raises(InputError, match="step 3"):
        experiment.run_experiment(settings, "refused")
    assert not (home / "metrics" / "runs" / "refused").exists()


# -- beside the numbers --------------------------------------------------------------------------


def history(*spreads: float) -> pd.DataFrame:
    return pd.DataFrame({"step": [10 * at for at in range(len(spreads))], "spread": spreads})


def test_a_collapse_is_said_beside_the_history():
    assert provenance.collapse_sentence(history(math.nan, 0.3, 0.02)) == ""
    between = provenance.collapse_sentence(history(math.nan, 0.001, 0.3))
    assert between.startswith("WARNING: the embeddings had collapsed at step 10 (spread below 0.02): all texts")
    assert "at step 10, 20" in (end := provenance.collapse_sentence(history(math.nan, 0.001, 0.0)))
    assert "had not recovered at the end" in end and "--learningrate" in end


def test_what_the_numbers_rest_on(tmp_path):
    run = Run(tmp_path / "run")
    known = {"name": "my.csv", "fingerprint": "0123456789abcdef", "train": 80, "validation": 10, "test": 12}
    environment = {
        "versions": {"python": "3.11", "torch": "2.5", "numpy": "2.0"}, "commit": "abc+", "hardware": "a CPU",
        "device": "cpu", "processes": 2, "threads": 4, "precision": "fp32", "model": "embedded", "dimension": 384,
        "data": known,
    }  # fmt: skip
    files.write_json(run.folder / "environment.json", environment)
    files.write_json(run.folder / "config.json", Settings(seed=3).to_dict())
    table = provenance.origin(run)["value"]
    assert table["data"] == "my.csv: 80 train, 10 validation, 12 test rows"
    assert table["data fingerprint"] == "0123456789abcdef"
    assert table["contacts replaced"] == "none looked for (--redact)"
    assert table["seed"] == "3, of the split 42"
    assert table["machine"] == "a CPU, fp32, 4 threads in each of 2 processes"
    assert (table["versions"], table["commit"]) == ("python 3.11, torch 2.5", "abc+")
    files.write_json(run.folder / "environment.json", environment | {"data": known | {"emails": 2, "phones": 0}})
    assert provenance.origin(run)["value"]["contacts replaced"] == "2 emails, 0 phones"


def test_the_page_of_a_run_shows_both(hostile_report):
    (page,) = (hostile_report.home / "reports").rglob("02_train.html")
    text, run = page.read_text(encoding="utf-8"), hostile_report.run
    assert run.environment["data"]["fingerprint"] in text
    warning = "WARNING: the embeddings had collapsed"
    assert (warning in text) == bool(provenance.collapse_sentence(run.table("history")))
