"""What workers of a cluster encode, search and mine is to the bit what one process does, also where one of them dies."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import dying
import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from conftest import JOBS, make_model
from scipy import sparse

from hr_search.base import cluster as clusters
from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.batches import index_rows
from hr_search.commands.parser import main
from hr_search.data.loading import load_data
from hr_search.encoder import load_encoder
from hr_search.index import folder as index_folder
from hr_search.index.folder import open_index
from hr_search.mining import Miner, MiningPolicy
from hr_search.nearest import nearest
from hr_search.settings import Settings
from hr_search.shards import encoding, search
from hr_search.shards.encoding import shared
from hr_search.shards.folder import IDS, MANIFEST, VECTORS
from hr_search.shards.search import SharedSearch
from hr_search.suite.runner import suite_folder


@pytest.fixture(scope="module")
def address():
    """The scheduler of three processes on this machine."""
    with clusters.opened("local:3") as client:
        yield client.scheduler.address


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Shards of a few texts, and one thread, as the workers have."""
    monkeypatch.setattr(encoding, "TOKENS", 150)
    monkeypatch.setattr(index_folder, "SLICE", 60)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def encoder(tiny_model, monkeypatch):
    """The tiny model, encoding a few texts at a time."""
    encoder = load_encoder(str(tiny_model), precision="fp32")
    monkeypatch.setattr(type(encoder), "budget", 70)
    return encoder


def corpus(count: int) -> list[str]:
    """Texts of three to forty words, some of them many times."""
    words = [word for text in JOBS.values() for word in text.split()]
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(words, generator.integers(3, 40))) for _ in range(count)]
    return [texts[at % 90] if at % 3 == 0 else text for at, text in enumerate(texts)]


@pytest.fixture
def jobs_table(tmp_path) -> Path:
    """Pairs of which some documents occur in several rows."""
    texts = corpus(120)
    rows = [{"query": title, "positive": text} for title, text in zip(list(JOBS) * 10, texts, strict=True)]
    place = tmp_path / "pairs.csv"
    pd.DataFrame(rows).to_csv(place, index=False)
    return place


def files_of(folder: Path, *left_out: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in left_out
    }


# -- encoding ------------------------------------------------------------------------------------


def test_embeddings_are_those_of_one_process_although_a_worker_dies(
    home, tmp_path, encoder, address, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    table = encoder.tokens(corpus(200), "document", cached=False)
    alone = encoder.embed(table)
    monkeypatch.setattr(encoding, "encode_shard", dying.dies_once)
    with shared(encoder, address, str(tmp_path / "shards")) as spread:
        np.testing.assert_array_equal(spread.embed(table), alone)
    assert (home / dying.FLAG).exists() and caplog.text.count("a shard is done again") == 1
    places = sorted(path.parent for path in (tmp_path / "shards").glob("*/*/" + MANIFEST))
    assert len(places) > 10 and f"{len(table)} of {len(table)} texts" in caplog.text
    ids = np.concatenate([np.load(place / IDS) for place in places])
    assert sorted(ids.tolist()) == list(range(200))
    vectors = np.concatenate([np.load(place / VECTORS) for place in places])
    np.testing.assert_array_equal(vectors, alone[ids])
    told = json.loads((places[0] / MANIFEST).read_text())
    assert told["count"] == len(np.load(places[0] / IDS)) and told["precision"] == "fp32"
    assert {"texts", "fingerprint", "versions", "dimension"} <= set(told)

    # A second command makes only what is missing.
    monkeypatch.setattr(encoding, "encode_shard", dying.must_not_run)
    with shared(encoder, address, str(tmp_path / "shards")) as spread:
        np.testing.assert_array_equal(spread.embed(table), alone)
        shutil.rmtree(places[3])
        with pytest.raises(InputError, match="this shard was there already; finished shards are kept"):
            spread.embed(table)


def test_a_shard_that_kills_every_worker_is_one_sentence(home, tmp_path, encoder, address, monkeypatch):
    lost = lambda client, jobs, *_: (clusters.Answer(job, error=clusters.LOST) for job in jobs)  # noqa: E731
    monkeypatch.setattr(clusters, "hand_out", lost)
    table = encoder.tokens(corpus(5), "document", cached=False)
    with (
        pytest.raises(
            InputError, match="of 5 texts failed: its worker was lost .*; finished shards are kept in .*shards, "
        ),
        shared(encoder, address, str(tmp_path / "shards")) as spread,
    ):
        spread.embed(table)


def test_shards_of_another_model_are_refused(home, tmp_path, encoder, address, capsys):
    place = tmp_path / "shards"
    table = encoder.tokens(corpus(5), "query", cached=False)
    with shared(encoder, address, str(place)) as spread:
        spread.embed(table)
    other = load_encoder(str(make_model(tmp_path / "other", "roberta")), precision="fp32")
    with pytest.raises(InputError, match="were made by another model"), shared(other, address, str(place)):
        pass
    (manifest,) = place.glob(MANIFEST)
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "versions": {**told["versions"], "torch": "1.0"}}))
    with (
        pytest.raises(InputError, match=r"were made with versions .*1\.0.*, and this command has"),
        shared(encoder, address, str(place)),
    ):
        pass
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").touch()
    with (
        pytest.raises(InputError, match="holds files that are no shards"),
        shared(encoder, address, str(tmp_path / "letters")),
    ):
        pass


# -- searching -----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 40])
def test_the_nearest_of_all_shards_are_the_nearest_with_many_ties(home, tmp_path, address, monkeypatch, k):
    generator = np.random.default_rng(k)
    kinds = generator.standard_normal((12, 8)).astype(np.float32)
    documents, queries = kinds[generator.integers(12, size=400)], generator.standard_normal((23, 8)).astype(np.float32)
    barred = sparse.random_array((23, 400), density=0.1, rng=generator, format="csr")
    monkeypatch.setattr(search, "DOCUMENTS", 90)
    with clusters.opened(address) as client:
        spread = SharedSearch(client, tmp_path / "search")
        for exclude in (None, barred):
            parts = list(spread(queries, documents, k, exclude, (10, 40), "cpu"))
            assert [start for start, _, _ in parts] == [0, 10, 20]
            alone = nearest(queries, documents, k, exclude, (10, 40), "cpu")
            found = [np.concatenate([part[at] for part in parts]) for at in (1, 2)]
            for one, other in zip(found, alone, strict=True):
                np.testing.assert_array_equal(one, other)
    assert not list((tmp_path / "search").iterdir())
    rows = np.diff(alone[1], axis=1)
    assert k == 1 or (rows == 0).mean() > 0.5  # most neighbours tie


# -- the verbs -----------------------------------------------------------------------------------


def test_mine_writes_what_training_mines_and_a_cluster_writes_the_same(
    home, tmp_path, tiny_model, jobs_table, address, capsys
):
    words = [
        "mine",
        "--model",
        str(tiny_model),
        "--datapath",
        str(jobs_table),
        "--minepool",
        "4",
        "--precision",
        "fp32",
    ]
    words += ["--minesampling", "random", "--seed", "3", "--mineshare", "0.99"]
    alone, spread, sheet = (tmp_path / name for name in ("alone.jsonl", "spread.jsonl", "sheet.csv"))
    assert main([*words, "--out", str(alone), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main([*words, "--out", str(spread), "--scheduler", address]) == 0
    assert spread.read_bytes() == alone.read_bytes()
    assert not list((paths.cache() / "shards").iterdir())  # unless --shards names a folder, nothing stays

    settings = Settings(datapath=str(jobs_table), validationshare=0.0, testshare=0.0)
    rows = index_rows(load_data(settings).train)
    encoder = load_encoder(str(tiny_model), precision="fp32")
    tables = {"query": encoder.tokens(rows.queries, "query"), "document": encoder.tokens(rows.documents, "document")}
    miner = Miner(rows, tables, MiningPolicy(count=4, sampling="random", share=0.99), 1, 3)
    miner.refresh(encoder, Accelerator(cpu=True), 0)
    written = pd.read_json(alone, lines=True)
    assert written["query"].tolist() == [rows.queries[at] for at in rows.query]
    assert told["rows"] == len(written) == len(rows) and told["negatives_mean"] == miner.history[0]["negatives_mean"]
    wanted = [[rows.documents[at] for at in found if at >= 0] for found in miner.negatives[miner._place]]
    assert written["negatives"].tolist() == wanted and any(wanted)

    # Both formats are tables of triplets.
    assert main([*words, "--out", str(sheet)]) == 0
    for place in (alone, sheet):
        read = load_data(settings.replace(datapath=str(place))).train
        assert read["negatives"].tolist() == wanted


def test_an_index_and_an_evaluation_are_those_of_one_process(home, tmp_path, tiny_model, jobs_table, address, capsys):
    model = ["--model", str(tiny_model), "--precision", "fp32"]
    there = ["--scheduler", address, "--shards", str(tmp_path / "shards")]
    words = ["index", *model, "--corpus", str(jobs_table), "--column", "positive", "--numbers", "fp32"]
    assert main([*words, "--out", str(tmp_path / "alone")]) == 0
    assert main([*words, "--out", str(tmp_path / "spread"), *there]) == 0
    assert files_of(tmp_path / "spread") == files_of(tmp_path / "alone")
    assert len(open_index(tmp_path / "spread")) == 120
    more = tmp_path / "more.txt"
    more.write_text("welder joins parts\nbaker bakes bread\n")
    for name, further in (("alone", []), ("spread", there)):
        words = ["index", "--append", "--corpus", str(more), "--out", str(tmp_path / name)]
        assert main([*words, *further]) == 0
    assert files_of(tmp_path / "spread") == files_of(tmp_path / "alone")

    capsys.readouterr()
    words = ["evaluate", *model, "--datapath", str(jobs_table), "--json"]
    assert main(words) == 0
    alone = capsys.readouterr().out
    assert main([*words, *there]) == 0
    assert capsys.readouterr().out == alone


def test_the_cells_of_a_suite_are_those_of_one_process(
    home, tmp_path, tiny_model, jobs_table, address, capsys, monkeypatch
):
    file = tmp_path / "small.yaml"
    tasks = [{"name": "good", "data": jobs_table.name, "direction": "both"}, {"name": "bad", "data": "empty.csv"}]
    file.write_text(json.dumps({"tasks": tasks}))
    (tmp_path / "empty.csv").write_text("query,positive\n")
    monkeypatch.chdir(tmp_path)  # workers are in another folder
    monkeypatch.setattr("hr_search.suite.runner.write_page", lambda name: "")
    words = ["suite", "small.yaml", "--model", str(tiny_model), "--precision", "fp32"]
    assert main([*words, "--runid", "alone"]) == 1
    assert main([*words, "--runid", "spread", "--scheduler", address]) == 1
    places = [sorted(suite_folder(name).glob("cells/*/*/queries.csv")) for name in ("alone", "spread")]
    assert len(places[0]) == len(places[1]) == 3
    assert [place.read_bytes() for place in places[0]] == [place.read_bytes() for place in places[1]]


# -- clusters ------------------------------------------------------------------------------------


def test_every_job_is_answered_once(home, address):
    with clusters.opened(address) as client:
        answers = list(clusters.hand_out(client, range(9), dying.echo))
    assert sorted(answer.value for answer in answers) == [(job, str(home), 1) for job in range(9)]
    assert {answer.error for answer in answers} == {""}


def test_a_scheduler_that_is_lost_is_one_sentence(home, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(clusters, "PATIENCE", 1.0)
    cluster = LocalCluster(n_workers=1, processes=False, dashboard_address=":0")
    with clusters.opened(cluster.scheduler_address) as client:
        answers = clusters.hand_out(client, range(5), dying.echo)
        assert next(answers).value[0] == 0
        cluster.close()
        with pytest.raises(InputError, match="no longer answers .* the same command goes on from there"):
            list(answers)


# -- bad input -----------------------------------------------------------------------------------


def test_each_mistake_is_one_sentence(home, tmp_path, tiny_model, jobs_table, address, capsys, monkeypatch):
    words = ["mine", "--model", str(tiny_model), "--datapath", str(jobs_table), "--out", str(tmp_path / "out.jsonl")]
    monkeypatch.setattr(clusters, "PATIENCE", 0.5)

    def refused(*more: str) -> str:
        assert main([*words, *more]) == 2
        assert not (tmp_path / "out.jsonl").exists()
        return capsys.readouterr().err

    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in refused("--scheduler", "tcp://127.0.0.1:9")
    assert "names no number of workers; give local:2" in refused("--scheduler", "local:many")
    assert "--shards keeps what a --scheduler encodes" in refused("--shards", str(tmp_path / "s"))
    assert "must end in .jsonl or .csv" in refused("--out", str(tmp_path / "out.parquet"))
    assert "mine one table after the other" in refused("--datapath", "esco")
    assert "fewer than count 1000" in refused("--minepool", "1000")
    monkeypatch.setattr(clusters, "__version__", "9.9")
    said = refused("--scheduler", address)
    assert "has hr_search 0." in said and "and this is 9.9; install the same there" in said
