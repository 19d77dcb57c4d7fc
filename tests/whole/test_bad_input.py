"""Bad input, verb by verb: exit code 2, one sentence that says what is wrong, where, and what to do; no file changed."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import JOBS, make_model
from helpers import write_run
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from hr_search.base import paths
from hr_search.commands import parser
from hr_search.data import unpacking

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def place(home, tmp_path, monkeypatch, jobs):
    """A working directory with good tables, so that one thing at a time is wrong."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    jobs[["query", "positive"]].to_csv("jobs.csv", index=False)
    (folder / "corpus.txt").write_text("\n".join(JOBS.values()), encoding="utf-8")
    (folder / "good.yaml").write_text("epochs: 1\n")
    return folder


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a command line that must end with code 2, one plain sentence and every file as it was; the sentence."""

    def run(*words: object) -> str:
        before = contents(tmp_path)
        assert parser.main([str(word) for word in words]) == 2, "it was not refused"
        printed, said = capsys.readouterr()
        assert "Traceback" not in printed + said
        lines = [line for line in said.split("\n") if line]
        assert [line for line in lines if line.startswith("hr_search: ")] == lines[-1:], said
        sentence = lines[-1].removeprefix("hr_search: ")
        assert not CONTROL.search(sentence) and 20 < len(sentence) < 1000
        assert contents(tmp_path) == before
        return sentence

    return run


def contents(folder: Path) -> dict[str, int]:
    """Every file below a folder, with a hash of what is in it."""
    return {ascii(path): hash(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


# -- tables --------------------------------------------------------------------------------------


def lines(*records: object) -> bytes:
    return "\n".join(json.dumps(record) for record in records).encode()


def archive() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("table.csv", "query,positive\na,b\n")
    return packed.getvalue()


def parquet(**columns: list) -> bytes:
    packed = io.BytesIO()
    pd.DataFrame(columns).to_parquet(packed)
    return packed.getvalue()


class Runs:
    """Pickles as a call of a shell command."""

    def __reduce__(self):
        return os.system, ("touch ran",)


GOOD = lines({"query": "welder", "positive": "welds"}, {"query": "baker", "positive": "bakes"})
WHOLE = gzip.compress(b"query,positive\n" + b"a,b\n" * 500)
CYRILLIC = "query,positive\n" + "кассир,работа на кассе\n" * 5

# name of the file -> its bytes, and what the sentence holds: the place, then the remedy
TABLES: dict[str, tuple[bytes | Callable[[], bytes], str, str]] = {
    "empty.csv": (b"", "empty.csv is empty", "needs a query"),
    "blank.jsonl": (b" \n\t\n", "blank.jsonl is empty", "needs a query"),
    "mark.csv": (b"\xef\xbb\xbf", "mark.csv is empty", "needs a query"),
    "empty.pkl": (b"", "empty.pkl is empty", "needs a query"),
    "empty.parquet": (b"", "empty.parquet is empty", "needs a query"),
    "header.csv": (b"query,positive\n", "has column names and no rows", "needs a query"),
    "column.csv": (b"query\na\nb\n", 'only "query"', "--querycolumn and --positivecolumn"),
    "names.csv": (b"x,y\na,b\n", '"x", "y"', "--querycolumn and --positivecolumn"),
    "mixed.csv": (b"query,positive\na,b\nc;d\n", "mixed.csv, line 3", "use one throughout"),
    "mixed.tsv": (b"query\tpositive\na,b\nc\td\n", "mixed.tsv, line 2", "use one throughout"),
    "wide.csv": (b"query,positive\na,b\nc,d,e\n", "line 3 has 3 fields instead of 2", "put quotes around"),
    "wider.csv": (b"query,positive\na,b,c\n", "line 2 has 3 fields instead of 2", "put quotes around"),
    "quote.csv": (b'query,positive\na,"b\nc;d\n', "quote.csv, line 2: a quote opens", "put quotes around"),
    "utf16.csv": (CYRILLIC.encode("utf-16") + b"x", "utf16.csv, line 7 is not text in utf-16", "--encoding"),
    "torn.csv": (CYRILLIC.encode() + b"\xd0,x\n", "torn.csv, line 7 breaks", "name it with --encoding"),
    "picture.csv": (b"\x89PNG\r\n\x1a\n" + bytes(range(32)) * 20, "picture.csv, line 1 is in an enc", "with --encoding"),
    "page.csv": (b"<!DOCTYPE html><html><title>404</title></html>", "page.csv is a web page", "download or save"),
    "pointer.csv": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer", "git lfs pull"),
    "names_twice.csv": (b"query,positive,query\na,b,c\n", 'two columns named "query"', "rename one"),
    "zip.csv": (archive, "zip.csv is an archive", "save the table as .csv"),
    "zip.pkl": (archive, "zip.pkl is an archive", "save the table as .csv"),
    "packed.csv": (WHOLE, "packed.csv is an archive", "ends in .gz"),
    "torn.csv.gz": (WHOLE[:-9], "torn.csv.gz is not a complete gzip file", "write or copy it again"),
    "plain.jsonl.gz": (GOOD, "plain.jsonl.gz is not a complete gzip file", "write or copy it again"),
    "bomb.csv.gz": (lambda: gzip.compress(bytes(2**25), 1), "bomb.csv.gz unpacks to more", "--trustfile"),
    "torn.parquet": (lambda: parquet(query=["a"], positive=["b"])[:-30], "torn.parquet is not a readable", "write it"),
    "text.parquet": (GOOD, "text.parquet is not a readable Parquet file", "write it again"),
    "bomb.parquet": (
        lambda: parquet(query=[None] * 1_200_000, positive=[None] * 1_200_000), "bomb.parquet unpacks to more", "--trustfile",
    ),
    "object.json": (b'{\n "query": "a",\n "positive": \n}', "object.json, line 4 is not valid JSON", "one object"),
    "text.json": (b'"just a text"', "text.json, item 1 is not a JSON object", "one object of names and texts"),
    "numbers.json": (b"[1, 2]", "numbers.json, item 1 is not a JSON object", "one object of names and texts"),
    "torn.json": (b'[{"query": "a"', "torn.json, line 1 is not valid JSON", "one object"),
    "torn.jsonl": (GOOD + b'\n{"query": ', "torn.jsonl, line 3 is not valid JSON", "one object"),
    "deep.json": (b"[" * 100_000, "deep.json, line 1 is not valid JSON", "one object"),
    "digits.jsonl": (b'{"query": ' + b"1" * 5000 + b"}", "digits.jsonl, line 1 is not valid JSON", "one object"),
    "code.pkl": (pickle.dumps([{"query": "a", "positive": Runs()}]), "code.pkl is not read and nothing was run", "save"),
    "number.pkl": (pickle.dumps(7), "number.pkl holds a pickled int", "pickle a DataFrame"),
    "torn.pkl": (pickle.dumps([{"query": "a"}])[:-4], "torn.pkl is not a readable pickle", "save the table again"),
    "levels.pkl": (
        pickle.dumps(pd.DataFrame([["a"]], columns=pd.MultiIndex.from_tuples([("x", "y")]))),
        "levels.pkl has column names on several levels", "one name",
    ),
    "twice.pkl": (
        pickle.dumps(pd.DataFrame([["a", "b"]], columns=["query", "query"])), 'two columns named "query"', "rename one",
    ),
    "nan.jsonl": (b'{"query": NaN, "positive": NaN}\n' * 3, "empty in each of its 3 rows", "needs a query"),
    "nan.parquet": (lambda: parquet(query=[np.nan], positive=[np.nan]), "empty in each of its 1 rows", "needs a query"),
    "number.jsonl": (lines({"query": 7, "positive": "b"}), 'row 1, column "query" holds the number 7', "choose another"),
    "number.csv": (b"query,positive\n007,a\n12,b\n", 'column "query" holds the number 007', "choose another column"),
    "list.jsonl": (lines({"query": ["a"], "positive": "b"}), 'row 1, column "query" holds a list', "choose another"),
    "nested.jsonl": (
        lines({"query": "a", "positive": "b", "negatives": [["c"]]}), 'row 1, column "negatives" holds a list', "choose",
    ),
    "mapping.jsonl": (
        lines({"query": {"a": 1}, "positive": "b"}), 'row 1, column "query" holds a mapping that is no CV', "another column"
    ),
    "array.csv": (
        b"query,positive,negative\na,b,\"['x' 'y']\"\n", "a list that is neither JSON nor Python", "fix the row",
    ),
    "one.csv": (b"query,positive\na,b\n", "one.csv has only one group", "at least two groups"),
    "two.csv": (b"query,positive\na,b\nc,d\n", "two.csv has 2 groups", "give more rows"),
    "same.csv": (b"query,positive\n" + b"a,b\n" * 9, "same.csv has only one group", "at least two groups"),
    "signs.csv": (b"query,positive\n!!!,???\n***,---\n", "signs.csv has no rows with words", "at least two groups"),
    "table.xlsx": (archive, "table.xlsx is not a readable Excel file", "as CSV UTF-8"),
    "table.xls": (GOOD, "table.xls is of a kind that is not read", "as CSV UTF-8"),
    "table": (GOOD, "is of a kind that is not read", "use one of .pkl, .csv"),
    "\x1b[2Jname.csv": (b"", "name.csv is empty", "needs a query"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES, ids=ascii)
def test_a_bad_table(place, refused, tiny_model, monkeypatch, name):
    data, where, remedy = TABLES[name]
    monkeypatch.setattr(unpacking, "LIMIT", 2**24)  # for bombs
    (place / name).write_bytes(data() if callable(data) else data)
    sentence = refused("train", "--datapath", name, "--modelname", tiny_model, "--maxsteps", 1)
    assert where in sentence and remedy in sentence
    assert not (place / "ran").exists()


# flags beside a good table -> place and remedy
COLUMNS = {
    "--datapath none.csv": ("none.csv does not exist", "check the path"),
    "--datapath folder.csv": ("folder.csv is a folder", "needs a table of pairs"),
    "--datapath jobs.csv/inside.csv": ("inside.csv cannot be read", "Not a directory"),
    f"--datapath {'a' * 300}.csv": ("cannot be a path", "give one that can"),
    "--datapath ~nobody-of-that-name/x.csv": ("cannot be a path", "give one that can"),
    "--datapath hf:nobody": ("hf:nobody is not the name of a data set", "write hf:OWNER/NAME"),
    "--datapath hf:../..": ("hf:../.. is not the name of a data set", "write hf:OWNER/NAME"),
    "--querycolumn qeury": ('no column "qeury"', 'did you mean "query"'),
    "--positivecolumn text": ('no column "text" (--positivecolumn)', 'valid names: query, positive'),
    "--negativecolumn wrong": ('no column "wrong" (--negativecolumn)', "valid names"),
    "--groupcolumn group": ('no column "group" (--groupcolumn)', "valid names"),
    "--querycolumn query --positivecolumn query": ("need different columns", '"query" twice'),
    "--template {titel}": ('no column "titel" (--template)', "valid names"),
    "--template words": ("names no column", "write columns in braces"),
    "--documenttemplate {query.__class__}": ('no column "query.__class__"', "valid names"),
    "--validationpath swapped.csv": ("swapped.csv looks as if its columns were swapped", "set querycolumn"),
    "--testpath jobs.csv": ("have a document that also occurs in train", "--allowleaks"),
    "--testpath none.csv": ("none.csv does not exist", "check the path"),
    "--datapath esco --template {a}": ("esco has its queries", "tables of your own"),
}  # fmt: skip


@pytest.mark.parametrize("flags", COLUMNS, ids=lambda flags: flags[:60])
def test_a_bad_place_or_column(place, refused, tiny_model, flags):
    (place / "folder.csv").mkdir()
    pd.DataFrame({"query": list(JOBS.values()), "positive": list(JOBS)}).to_csv(place / "swapped.csv", index=False)
    where, remedy = COLUMNS[flags]
    table = [] if "--datapath" in flags else ["--datapath", "jobs.csv"]  # given twice, it names two tables
    sentence = refused("train", *table, "--modelname", tiny_model, *flags.split())
    assert where in sentence and remedy in sentence


# -- settings ------------------------------------------------------------------------------------

WHOLE_NUMBER, NUMBER = "must be a whole number", "must be a number"
SETTINGS = {
    ("batchsize", "0"): "must be between 1 and", ("batchsize", "-1"): "must be between 1 and",
    ("batchsize", "nan"): WHOLE_NUMBER, ("batchsize", "inf"): WHOLE_NUMBER, ("batchsize", "1e9"): "between 1 and",
    ("batchsize", "many"): WHOLE_NUMBER, ("batchsize", "1.5"): WHOLE_NUMBER, ("batchsize", ""): WHOLE_NUMBER,
    ("epochs", "0"): "must be between 1 and", ("epochs", "[1]"): WHOLE_NUMBER,
    ("learningrate", "0"): "must be between 1e-09 and 1", ("learningrate", "-1e-5"): "must be between",
    ("learningrate", "nan"): NUMBER, ("learningrate", "-inf"): NUMBER, ("learningrate", "2"): "must be between",
    ("learningrate", "fast"): NUMBER, ("margin", "3"): "must be between 0 and 2", ("margin", "-0.1"): "between 0 and 2",
    ("temperature", "0"): "must be between 0.001 and 10", ("maxlength", "7"): "must be between 8 and 8192",
    ("maxlength", "10000"): "must be between 8 and 8192", ("dropout", "1"): "must be between -1 and 0.9",
    ("warmup", "1"): "must be between 0 and 0.9", ("weightdecay", "1e300"): "must be between 0 and 1",
    ("clip", "-1"): "must be at least 0", ("precision", "fp16"): 'did you mean "bf16"',
    ("loss", "tripel"): 'did you mean "triplet"', ("negatives", "minded"): 'did you mean "mined"',
    ("hardness", "semihard"): 'did you mean "semi-hard"', ("mixing", "maen"): 'did you mean "mean"',
    ("goal", "accuracy"): "valid names: mrr", ("direction", "d2d"): "did you mean", ("tracker", "wandbb"): "wandb",
    ("patience", "-1"): "must be between 0 and", ("seed", "-1"): "must be between 0 and",
    ("seed", "2147483648"): "must be between 0 and", ("seed", "1" * 5000): WHOLE_NUMBER,
    ("validationshare", "0.9"): "must be between 0 and 0.8", ("testshare", "nan"): NUMBER,
    ("minepool", "0"): "must be between 1 and 1000", ("mixk", "65"): "must be between 1 and 64",
    ("bank", "1e9"): "must be between 0 and", ("maxrows", "-1"): "must be between 0 and",
    ("maxrows", "1e30"): "must be between 0 and", ("maxsteps", "1e400"): WHOLE_NUMBER,
    ("checkpointsteps", "0"): "must be between 1 and", ("probes", "5001"): "must be between 0 and 5000",
    ("symmetric", "maybe"): "must be true or false", ("resume", "2"): "must be true or false",
    ("projectname", "a\0b"): "take it out", ("outputpath", "a\udcffb"): "rename the file",
    ("template", "x" * 1_000_000 + "\0"): "take it out",
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SETTINGS, ids=lambda text: ascii(text)[1:25])
def test_a_bad_setting(place, refused, tiny_model, name, value):
    sentence = refused("train", "--datapath", "jobs.csv", "--modelname", tiny_model, f"--{name}={value}")
    assert sentence.startswith(f"the command line: {name} is ") and SETTINGS[name, value] in sentence


# flags that are fine one by one -> place and remedy
COMBINATIONS = {
    "--negatives given": ("--negatives given needs wrong documents", "--negatives batch"),
    "--batchsize 1": ("no in-batch negatives", "a --batchsize of 2 or more"),
    "--negatives mined --minepool 500": ("takes 500 documents a query", "lower --minepool"),
    "--negatives mined --minepool 3 --minecount 5": ("minecount 5 is more than minepool 3", "lower it"),
    "--mixing mean --bank 3": ("a bank of 3 documents is smaller than a batch", "raise --bank"),
    "--validationshare 0.6 --testshare 0.6": ("add up to 1.2", "must stay below 1"),
    "--maxrows 1": ("all rows belong to one group", "--groupcolumn"),
    "--resume": ("--resume needs --checkpointpath", "the file to go on from"),
    "--checkpointpath same.pt --outputpath same.pt": ("are both", "give two places"),
    "--checkpointpath .": ("is a folder", "give the path of a file"),
    "--checkpointpath jobs.csv/x.pt": ("cannot be written", "permission"),
    "--outputpath jobs.csv": ("jobs.csv is a file", "give a folder"),
    "--outputpath full": ("the folder full holds files that are no model", "give another outputpath"),
    "--outputpath folder.pt": ("folder.pt is a folder", "give a folder without .pt"),
    "--outputpath jobs.csv/model": ("cannot be written", "permission"),
    f"--outputpath {'a' * 300}": ("File name too long", "choose a place"),
    f"--checkpointpath {'a' * 300}": ("File name too long", "check the path"),
    "--tracker wandb": ("the tracker wandb is not installed", "--tracker none"),
    "--recipe none.yaml": ("none.yaml does not exist", "data/recipes"),
    "--runid ..": ("cannot name a folder", "use letters"),
    "--runid /etc/x": ("cannot name a folder", "use letters"),
    "--runid a/b": ("cannot name a folder", "use letters"),
    f"--runid {'a' * 200}": ("has 200 characters", "give 1 to 120"),
    "--learningrat 1": ("there is no flag --learningrat", 'did you mean "--learningrate"'),
    "--batchsize": ("expected one argument", "--help"),
    "xyzzy": ("there is no flag xyzzy", "valid names"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["other.pt", "code.pt", "jobs.csv"])
def test_a_file_that_is_no_checkpoint(place, tiny_model, capsys, name):
    """It is read when training begins: the folder of the unfinished run stays, and the index says so."""
    torch.save({"layer.weight": torch.zeros(2, 2)}, place / "other.pt")
    (place / "code.pt").write_bytes(pickle.dumps({"version": 2, "settings": Runs(), "fingerprint": ""}))
    before = contents(place)
    words = ["train", "--datapath", "jobs.csv", "--modelname", str(tiny_model), "--maxsteps", "1", "--resume"]
    assert parser.main([*words, "--checkpointpath", name]) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"hr_search: {name} is not a whole checkpoint") and "--checkpointpath" in sentence
    assert contents(place) == before and not list(paths.runs().rglob("summary.json"))


@pytest.mark.parametrize("flags", COMBINATIONS, ids=lambda flags: flags[:60])
def test_a_bad_combination(place, refused, tiny_model, flags):
    (place / "full").mkdir()
    (place / "full" / "thesis.txt").write_text("years of it")
    (place / "folder.pt").mkdir()
    where, remedy = COMBINATIONS[flags]
    sentence = refused("train", "--datapath", "jobs.csv", "--modelname", tiny_model, *flags.split())
    assert where in sentence and remedy in sentence


NINES = "\n".join(
    f"{at}: &{at} [{', '.join(['*' + before] * 9)}]" for before, at in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "\n".join(f"{at}: &{at} {{<<: [{', '.join(['*' + before] * 9)}]}}" for before, at in zip("abcdefghi", "bcdefghij", strict=True))  # fmt: skip
RECIPES = {
    "empty": (b"", "must hold lines of"),
    "list": (b"- margin\n", "must hold lines of"),
    "open bracket": (b"margin: [0.3", "cannot be read as YAML"),
    "not UTF-8": (b"margin: \xff\xfe", "cannot be read as YAML"),
    "code": (b"margin: !!python/object/apply:os.system ['touch ran']\n", "cannot be read as YAML"),
    "unknown name": (b"epoch: 3\n", 'did you mean "epochs"'),
    "given twice": (b"margin: 0.1\nmargin: 0.2\n", "gives margin twice"),
    "two spellings": (b"max_steps: 1\nmaxsteps: 2\n", "gives maxsteps twice"),
    "of another kind": (b"epochs: [1, 2]\n", WHOLE_NUMBER),
    "number of 10,000 digits": (b"seed: 0x" + b"f" * 10_000, "seed is a huge int; it must be a whole number"),
    "a billion values": (f"a: &a [x]\n{NINES}\nseed: *j\n".encode(), "with its aliases written out"),
    "a billion merges": (f"a: &a {{seed: 1}}\n{MERGES}\n<<: *j\n".encode(), "with its aliases written out"),
    "itself": (b"seed: &a [*a]\n", "with its aliases written out"),
    "a table": (b"x: " + b"y" * 1_000_001, "give a file of settings"),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("verb", ["train", "grid"])
def test_a_bad_recipe_or_grid(place, refused, verb, name):
    data, part = RECIPES[name]
    (place / "bad.yaml").write_bytes(data)
    sentence = refused("train", "--recipe", "bad.yaml") if verb == "train" else refused("grid", "bad.yaml")
    assert "bad.yaml" in sentence and (verb == "grid" or part in sentence)
    assert not (place / "ran").exists()


# -- models --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """Folders of models, each wrong in one thing."""
    root = tmp_path_factory.mktemp("bad")
    good = make_model(root / "good")
    for name in ("torn", "garbage", "weightless", "nan", "vocabulary", "tokenless", "configless", "own-code", "modules",
                 "custom", "pickled"):  # fmt: skip
        shutil.copytree(good, root / name)
    weights = (good / "model.safetensors").read_bytes()
    (root / "torn" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (root / "garbage" / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + weights[8:])
    (root / "weightless" / "model.safetensors").unlink()
    state = load_file(good / "model.safetensors")
    save_file(
        {name: torch.full_like(value, torch.nan) for name, value in state.items()},
        root / "nan" / "model.safetensors",
        {"format": "pt"},
    )
    tokenizer = json.loads((good / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {word: at + (at > 4) * 5000 for word, at in tokenizer["model"]["vocab"].items()}
    (root / "vocabulary" / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (root / "tokenless" / name).unlink(missing_ok=True)
    (root / "configless" / "config.json").write_text("{")
    config = json.loads((good / "config.json").read_text())
    own = {"model_type": "unheard-of", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (root / "own-code" / "config.json").write_text(json.dumps(config | own))
    (root / "own-code" / "evil.py").write_text("open('ran', 'w').close()\n")
    (root / "modules" / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Model"}])
    )
    (root / "modules" / "evil.py").write_text("open('ran', 'w').close()\n")
    (root / "custom" / "modules.json").write_text('{"type": 1}')
    (root / "pickled" / "model.safetensors").unlink()
    (root / "pickled" / "pytorch_model.bin").write_bytes(pickle.dumps({"embeddings": Runs()}))
    (root / "foreign").mkdir()
    make_model(root / "distil", "distilbert")
    shutil.copytree(good, root / "foreign", dirs_exist_ok=True)
    shutil.copy(root / "distil" / "model.safetensors", root / "foreign" / "model.safetensors")
    shutil.copytree(good, root / "decoder")
    GPT2LMHeadModel(GPT2Config(vocab_size=200, n_embd=32, n_layer=1, n_head=2, n_positions=64)).save_pretrained(
        root / "decoder"
    )
    (root / "empty").mkdir()
    return root


MODELS = {
    "empty": ("neither modules.json nor config.json", "give the folder of a model"),
    "good/config.json": ("is not a model folder", "give the folder of a model"),
    "none": ("does not exist", "give a folder, a Hub name, or embedded"),
    "torn": ("torn cannot be loaded", "check the folder"),
    "garbage": ("garbage cannot be loaded", "check the folder"),
    "weightless": ("weightless cannot be loaded", "check the folder"),
    "tokenless": ("has no tokenizer, or one that knows no words", "copy its tokenizer files"),
    "configless": ("configless/config.json is not a readable JSON file", "copy it again"),
    "nan": ("nan are damaged: they turn a text into NaN", "copy it again"),
    "vocabulary": ("the tokenizer of", "put the tokenizer that belongs to the model"),
    "foreign": ("belong to another architecture", "copy the model again"),
    "decoder": ("is a decoder (GPT2LMHeadModel)", "take an encoder"),
    "own-code": ("own-code cannot be loaded", "check the folder"),
    "modules": ("asks for the class evil.Model", "without code of its own"),
    "custom": ("is not the list of a model's modules", "copy the model again"),
    "pickled": ("pickled cannot be loaded", "check the folder"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("verb", ["train", "search"])
def test_a_bad_model(place, refused, models, verb, name):
    model = models / name
    words = {
        "train": ["train", "--datapath", "jobs.csv", "--maxsteps", 1, "--modelname", model],
        "search": ["search", "welder", "--corpus", "corpus.txt", "--model", model],
    }
    sentence = refused(*words[verb])
    where, remedy = MODELS[name]
    assert where in sentence and remedy in sentence
    assert not (place / "ran").exists() and not (model / "ran").exists()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("", "does not exist"), ("  ", "does not exist"), ("two words", "nor a valid name on the Hub"),
        ("a/b/c", "does not exist"), ("~nobody-of-that-name/x", "cannot be the folder of a model"),
        ("a" * 300, "cannot be the folder of a model"), ("a--b", "nor a valid name on the Hub"), ("a..b", "nor a valid name on the Hub"),
        ("модель", "nor a valid name on the Hub"), ("\x1b[2J", "nor a valid name on the Hub"),
    ],
    ids=lambda text: ascii(text)[1:30],
)  # fmt: skip
def test_a_name_that_no_model_has(place, refused, name, part):
    sentence = refused("train", "--datapath", "jobs.csv", f"--modelname={name}")
    assert part in sentence and "embedded" in sentence


# -- the other verbs -----------------------------------------------------------------------------

VERBS: dict[str, tuple[list[str], str, str]] = {
    "no verb": ([], "required: VERB", "--help"),
    "unknown verb": (["trian"], "invalid choice: 'trian'", "--help"),
    "empty word": (["train", ""], "there is no flag without a name", "valid names"),
    "evaluate nothing": (["evaluate", "--datapath", "none.csv"], "none.csv does not exist", "check the path"),
    "evaluate no rows": (
        ["evaluate", "--datapath", "jobs.csv", "--split", "validation", "--validationshare", "0"],
        "jobs.csv has no validation rows", "use --split all",
    ),
    "evaluate an unknown split": (["evaluate", "--split", "tset"], "invalid choice: 'tset'", "--help"),
    "evaluate an unknown flag": (["evaluate", "--epochs", "3"], "there is no flag --epochs", "valid names"),
    "evaluate no model": (
        ["evaluate", "--datapath", "jobs.csv", "--model", "./none"], 'folder "./none" does not exist', "embedded",
    ),
    "search without a corpus": (["search", "welder"], "required: --corpus", "--help"),
    "search without a query": (["search", "--corpus", "corpus.txt"], "required: query", "--help"),
    "search for nothing": (["search", " ", "--corpus", "corpus.txt"], "the query is empty", "give a job title"),
    "search for NUL": (["search", "\0", "--corpus", "corpus.txt"], "the query is empty", "give a job title"),
    "search for no results": (["search", "x", "--corpus", "corpus.txt", "--top", "0"], "--top is 0", "at least 1"),
    "search for half a result": (["search", "x", "--corpus", "corpus.txt", "--top", "0.5"], "invalid int", "--help"),
    "search nowhere": (["search", "x", "--corpus", "none.txt"], "none.txt does not exist", "check the path"),
    "search a folder": (["search", "x", "--corpus", "."], "is a folder", "give the path of a file"),
    "search an empty file": (["search", "x", "--corpus", "empty.txt"], "empty.txt is empty", "needs a query"),
    "search blank lines": (["search", "x", "--corpus", "blank.jsonl"], "has no texts", "needs one document"),
    "search an unknown column": (
        ["search", "x", "--corpus", "jobs.csv", "--column", "positve"], 'no column "positve"', 'did you mean "positive"',
    ),
    "search strange columns": (["search", "x", "--corpus", "strange.csv"], '"a", "b"', "give --column"),
    "search a data set": (["search", "x", "--corpus", "hf:a b"], "hf:a b is not the name", "write hf:OWNER/NAME"),
    "compare nothing": (["compare"], "required: RUN", "--help"),
    "compare one": (["compare", "one"], "a comparison needs two runs", "or more"),
    "compare an unknown run": (["compare", "one", "tow"], "no finished run tow", "did you mean"),
    "compare a path": (["compare", "one", "../../x"], "no finished run ../../x", "valid names"),
    "compare untested runs": (["compare", "one", "two"], "no test results", "train with a test file"),
    "compare other data": (["compare", "one", "other"], "one was tested on esco and other on mine", "same data"),
    "compare a damaged summary": (["compare", "one", "bare"], "a file of one or bare is damaged", "repeat that run"),
    "compare a torn summary": (["compare", "one", "torn"], "summary.json is not a readable JSON file", "write or copy it again"),
    "compare a torn table": (["compare", "one", "wrong"], "", "damaged"),
    "compare an unknown metric": (["compare", "one", "two", "--metric", "f1"], "invalid choice: 'f1'", "--help"),
    "grid from nowhere": (["grid", "none.yaml"], "none.yaml does not exist", "data/recipes"),
    "grid from a folder": (["grid", "."], "cannot be read as YAML", "directory"),
    "grid of no cells": (["grid", "good.yaml"], 'has no key "epochs"', "valid names"),
    "grid without workers": (["grid", "grid.yaml", "--workers", "0"], "workers is 0", "must be at least 1"),
    "grid of half workers": (["grid", "grid.yaml", "--workers", "nan"], "invalid int value", "--help"),
    "grid that climbs": (["grid", "climb.yaml"], "'../../x' cannot name a folder", "use letters"),
    "grid with a NUL": (["grid", "nul.yaml"], "cannot name a folder", "use letters"),
    "grid of its own places": (["grid", "own.yaml"], "sets outputpath, which a grid decides", "leave it out"),
    "grid of too many cells": (["grid", "many.yaml"], "combinations", "keep it to 10,000"),
    "grid of unknown settings": (["grid", "unknown.yaml"], 'has no setting "los"', 'did you mean "loss"'),
    "grid of values out of bounds": (["grid", "bounds.yaml"], "batchsize is 0", "must be between"),
    "grid of no list": (["grid", "scalar.yaml"], "batchsize is 3", "give a list of values"),
    "grid without data": (["grid", "grid.yaml"], "datapath none.csv of the cell", "check the path"),
    "benchmark an unknown case": (["benchmark", "--case", "trian-defaults"], 'no case "trian-defaults"', "did you mean"),
    "benchmark no runs": (["benchmark", "--runs", "0"], "--runs is 0", "at least 1"),
    "benchmark no steps": (["benchmark", "--steps", "-1"], "--steps is -1", "at least 1"),
    "benchmark on no threads": (["benchmark", "--threads", "-1"], "--threads is -1", "at least 0"),
    "benchmark a share of NaN": (["benchmark", "--scale", "nan"], "--scale is nan", "above 0 and at most 1"),
    "benchmark a share of 2": (["benchmark", "--scale", "2"], "--scale is 2", "above 0 and at most 1"),
    "benchmark into another table": (["benchmark", "--out", "jobs.csv"], "jobs.csv has other columns", "give another --out"),
    "prove in one step": (["benchmark", "--proof", "--steps", "1"], "--steps is 1", "at least 3"),
    "report of nothing": (["report", "-p", "datapath=none.csv"], "datapath none.csv does not exist", "check the path"),
    "report of no test": (["report", "-p", "testpath=none"], "testpath none does not exist", "check the path"),
    "report given twice": (["report", "-p", "points=20", "-p", "points=30"], "-p gives points twice", "keep one"),
    "report of no model": (["report", "-p", "modelname=./none"], 'folder "./none" does not exist', "embedded"),
    "report without a value": (["report", "-p", "learningrate"], "must have the form name=value", "such as"),
    "report without a name": (["report", "-p", "=3"], "must have the form name=value", "such as"),
    "report of an unknown name": (["report", "-p", "learningrat=1"], 'no notebook has a parameter "learningrat"', "did you"),
    "report of a wrong kind": (["report", "-p", "epochs=x"], "epochs is 'x'", WHOLE_NUMBER),
    "report of two spellings": (["report", "-p", "max_steps=1", "-p", "maxsteps=2"], "gives maxsteps twice", "keep one"),
    "report of too many points": (["report", "-p", "points=1e9"], "points is 1000000000", "must be between"),
    "report of NaN points": (["report", "-p", "points=nan"], "points is 'nan'", WHOLE_NUMBER),
    "report with a reserved name": (["report", "-p", "more={}"], '"more" is not an extra parameter', "as a setting"),
    "report on no run": (["report", "-p", "otherid=../x"], "no finished run ../x", "valid names"),
    "report that climbs": (["report", "--runid", "../../x"], "cannot name a folder", "use letters"),
    "report under a root": (["report", "--runid", "/x"], "cannot name a folder", "use letters"),
    "report under NUL": (["report", "--runid", "a\0"], "cannot name a folder", "use letters"),
    "report from no recipe": (["report", "--recipe", "none.yaml"], "none.yaml does not exist", "data/recipes"),
    "report to resume from nothing": (["report", "-p", "resume=true"], "--resume needs --checkpointpath", "go on from"),
    "report of an older run": (["report", "--runid", "one"], "the run one exists already", "choose another run id"),
}  # fmt: skip
FILES = {
    "empty.txt": "", "blank.jsonl": '{"text": ""}', "strange.csv": "a,b\nc,d\n",
    "grid.yaml": "base: {datapath: none.csv}\nlist: [{loss: infonce}]\n",
    "climb.yaml": "name: ../../x\nlist: [{loss: infonce}]\n", "nul.yaml": 'name: "a\\0b"\nlist: [{loss: infonce}]\n',
    "own.yaml": "base: {outputpath: /x}\nlist: [{loss: infonce}]\n", "unknown.yaml": "product: {los: [infonce]}\n",
    "many.yaml": f"product: {{seed: {list(range(200))}, maxrows: {list(range(200))}}}\n",
    "bounds.yaml": "product: {batchsize: [0, 1]}\n", "scalar.yaml": "product: {batchsize: 3}\n",
}  # fmt: skip


@pytest.mark.parametrize("name", VERBS)
def test_a_bad_command(place, refused, name):
    for file, text in FILES.items():
        (place / file).write_text(text)
    for run in ("one", "two", "bare", "torn", "wrong"):
        write_run(run)
    write_run("other", data={"name": "mine", "fingerprint": "f"})
    (paths.runs() / "bare" / "summary.json").write_text("{}")
    (paths.runs() / "torn" / "summary.json").write_text("{")
    for run in ("one", "wrong") if name == "compare a torn table" else ():
        (paths.runs() / run / "queries.csv").write_text('query,"system\n')
    words, where, remedy = VERBS[name]
    sentence = refused(*words)
    assert where in sentence and remedy in sentence


# -- in a process of its own ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["-m", "hr_search", "trian"], "invalid choice"),
        ([str(paths.checkout() / "train.py"), "--epochs", "0"], "epochs is 0"),
        (["-m", "hr_search", "search", "x", "--corpus", "\udcff\x1b[31m.txt"], ".txt does not exist"),
    ],
)
def test_a_real_process_says_one_line_and_ends_with_2(place, words, part):
    # A terminal that knows neither Cyrillic nor half characters must not end in a traceback either.
    environment = {**os.environ, "PYTHONPATH": str(paths.checkout()), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, timeout=600, check=False)
    said = done.stderr.decode()
    assert done.returncode == 2 and done.stdout == b""
    assert said.startswith("hr_search: ") and said.count("\n") == 1 and part in said and "\x1b" not in said
