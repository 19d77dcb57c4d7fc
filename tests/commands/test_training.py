"""`train` as a user meets it: the documented command, what it keeps and what it refuses to overwrite."""

from __future__ import annotations

import shlex

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from hr_search.commands import parser
from hr_search.data.loading import load_data
from hr_search.data.tasks import fingerprint
from hr_search.encoder import load_encoder
from hr_search.experiment import command, save_model
from hr_search.runs import folders
from hr_search.settings import Settings

DOCUMENTED = (
    "--datapath data/train.pkl --modelname paraphrase-multilingual-mpnet-base-v2 --learningrate 1e-5 --batchsize 16 "
    "--margin 0.3 --epochs 10 --seed 42 --projectname paraphrase-training --checkpointpath paraphrasecheckpoint.pt "
    "--checkpointsteps 1000 --outputpath paraphrasemodel.pt"
)


def train_words(table, model, *flags):
    """A `train` command line on a table and a model."""
    return ["train", "--datapath", str(table), "--modelname", str(model), *flags]


@pytest.fixture
def job_pickle(tmp_path, jobs):
    path = tmp_path / "data" / "train.pkl"
    path.parent.mkdir()
    jobs.rename(columns={"query": "position", "positive": "description"})[["position", "description"]].to_pickle(path)
    return path


def test_the_documented_command_to_the_letter(home, tmp_path, monkeypatch, tiny_model, job_pickle, capsys):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(DOCUMENTED)
    words[words.index("paraphrase-multilingual-mpnet-base-v2")] = str(tiny_model)
    words[words.index("--epochs") + 1] = "2"
    words[words.index("1000")] = "1"
    assert parser.main(["train", *words]) == 0
    assert "trained" in capsys.readouterr().out
    state = torch.load("paraphrasemodel.pt", weights_only=True)
    model = SentenceTransformer("paraphrasemodel", device="cpu")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert (tmp_path / "paraphrasecheckpoint.pt").is_file()
    run = folders.open_run()
    assert run.id.startswith("paraphrase-training-")
    assert run.config["margin"] == 0.3 and run.config["seed"] == 42
    assert "--learningrate=1e-05" in run.summary["command"]
    tested = load_data(Settings.from_mapping(run.config)).tasks("test")["q2d"]
    assert run.summary["data"]["test_fingerprint"] == fingerprint(tested)
    card = (tmp_path / "paraphrasemodel" / "README.md").read_text()
    assert run.summary["verdict"] in card and run.summary["command"] in card


def test_the_saved_command_repeats_the_run(home, tmp_path, monkeypatch, tiny_model, jobs_file, capsys):
    monkeypatch.chdir(tmp_path)
    flags = f"--datapath {jobs_file} --modelname {tiny_model} --learning_rate=1e-3 --batch-size 6 --max_steps 4 --allow-leaks"
    assert parser.main(["train", *shlex.split(flags), "--runid", "one"]) == 0
    repeated = shlex.split(folders.open_run("one").summary["command"])[2:]
    assert parser.main(["train", *repeated, "--runid", "two"]) == 0
    first, second = (folders.open_run(name) for name in ("one", "two"))
    assert first.config == second.config
    assert first.table("queries").equals(second.table("queries"))
    ledger = pd.read_csv(home / "metrics" / "results.csv")
    assert ledger["run"].unique().tolist() == ["one", "two"] and ledger["command"].nunique() == 1
    assert len(ledger) == 2 * len(first.table("metrics"))
    capsys.readouterr()
    assert parser.main(["compare", "one", "two"]) == 0
    assert "no difference could be shown" in capsys.readouterr().out


def test_leaks_between_files_fail_unless_allowed(home, tmp_path, tiny_model, jobs, jobs_file, capsys):
    other = tmp_path / "dev.csv"
    jobs.iloc[:4][["query", "positive"]].to_csv(other, index=False)
    words = train_words(jobs_file, tiny_model, "--validationpath", str(other), "--maxsteps", "1")
    assert parser.main(words) == 2
    assert "--allowleaks" in capsys.readouterr().err
    assert parser.main([*words, "--allowleaks"]) == 0


def test_saved_folder_equals_the_run(home, tmp_path, tiny_model):
    encoder = load_encoder(str(tiny_model), precision="fp32")
    folder = save_model(encoder, str(tmp_path / "out.pt"), "card")
    assert folder == tmp_path / "out"
    same = SentenceTransformer(str(folder), device="cpu").encode(["welder"])
    assert np.abs(encoder.encode(["welder"]) - same).max() <= 1e-5
    assert command(Settings(allowleaks=True)) == "python3 train.py --allowleaks"


def test_a_folder_with_other_things_is_never_replaced_by_the_model(home, tmp_path, tiny_model, jobs_file, capsys):
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.txt").write_text("years of it")
    words = train_words(jobs_file, tiny_model, "--maxsteps", "1", "--outputpath")
    assert parser.main([*words, str(work)]) == 2 and parser.main([*words, str(tmp_path / "work.pt")]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert (work / "thesis.txt").read_text() == "years of it"
    assert parser.main([*words, str(tmp_path / "model")]) == 0 and parser.main([*words, str(tmp_path / "model")]) == 0


def test_without_validation_rows_the_training_is_kept(home, tmp_path, tiny_model, jobs_file):
    words = train_words(jobs_file, tiny_model, "--validationshare", "0", "--epochs")
    model = tmp_path / "model"
    assert parser.main([*words, "4", "--learningrate", "1e-3", "--batchsize", "8", "--outputpath", str(model)]) == 0
    run = folders.open_run()
    assert run.summary["best_step"] == run.summary["steps"] and run.table("history")["mrr"].isna().all()
    before, after = (
        SentenceTransformer(str(folder), device="cpu").encode(["welder"]) for folder in (tiny_model, model)
    )
    assert np.abs(before / np.linalg.norm(before) - after).max() > 1e-3


def test_without_test_rows_there_is_no_verdict(home, tiny_model, jobs_file, capsys):
    assert parser.main(train_words(jobs_file, tiny_model, "--testshare", "0", "--maxsteps", "2")) == 0
    assert "no test rows, so no verdict" in folders.open_run().summary["verdict"]
    words = ["evaluate", "--model", str(tiny_model), "--datapath", str(jobs_file)]
    assert parser.main([*words, "--split", "test", "--testshare", "0"]) == 2
    assert "use --split all" in capsys.readouterr().err
