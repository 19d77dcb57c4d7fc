"""Hostile texts, files and names are treated as text: nothing runs, leaves its folder or calls home."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import JOBS, make_model
from helpers import loads_nothing, printed, write_notebook
from hostile import HOSTILE, hostile_table

from hr_search.base import errors, files, paths
from hr_search.base.errors import InputError
from hr_search.base.text import STORED
from hr_search.checkpoint import load_checkpoint
from hr_search.commands import parser
from hr_search.data import loading, unpacking
from hr_search.data.cleaning import clean
from hr_search.data.formats import read_table
from hr_search.data.tables import read_pairs
from hr_search.data.unpacking import content
from hr_search.encoder import load_encoder
from hr_search.reports.notebooks import run_notebook
from hr_search.runs import folders
from hr_search.settings import Settings

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# -- from the table to the pages -----------------------------------------------------------------


def test_a_report_on_hostile_texts_is_whole_and_runs_nothing(hostile_report):
    home = hostile_report.folder
    (place,) = [folder for folder in (home / "home" / "reports").iterdir() if folder.is_dir()]
    assert re.fullmatch(r"script-window-hacked-1-document-title-hacked-scri-\d{8}-\d{6}", place.name)
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (home / "home" / "reports").rglob("*.html")}
    assert len(pages) == 6 and "window.hacked" in pages["02_train"] and "window.hacked" in pages["index"]
    for name, text in pages.items():
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text)
        scripts = int(name != "parameters")
        assert name == "03_embedding_drift" or loads_nothing(text) == scripts  # the map's library has addresses in it
    assert {path.name for path in home.iterdir()} == {"home", "model", "{hostile} <b>'$x'.jsonl"}


def test_texts_reach_the_tables_unharmed(hostile_report):
    table, run = hostile_report.table, hostile_report.run
    originals = {clean(text)[:STORED] for text in [*table["query"], *table["positive"]]}
    queries, documents = run.table("queries"), run.table("documents")
    seen = {*queries["query"], *documents["text"]}
    assert len(seen) > 10 and seen <= originals
    assert set(queries["group"]) <= {clean(text)[:STORED] for text in table["group"]}
    probes = pd.read_csv(run.folder / "probes" / "texts.csv", dtype=str, keep_default_na=False)
    assert set(probes["text"]) <= originals
    assert run.config["projectname"].startswith("../../<script>")


def test_every_hostile_text_is_read_whole(tmp_path):
    table = hostile_table(tmp_path / "t.jsonl")
    read, counts = read_pairs(tmp_path / "t.jsonl", groupcolumn="group")
    assert read["query"].tolist() == [clean(text) for text in table["query"]] and counts.empty == 0
    assert max(map(len, read["positive"])) > 10_000_000
    for text in HOSTILE[:-1]:
        kept = clean(text)
        assert CONTROL.sub("", kept).replace("\ufffd", "").split() == CONTROL.sub("", text.replace("\0", " ")).split()
    files.write_csv(tmp_path / "again.csv", read[["query", "positive"]])
    again = pd.read_csv(tmp_path / "again.csv", dtype=str, keep_default_na=False)
    assert again["query"].tolist() == read["query"].tolist()  # formulas too: tables hold the data as they are
    assert any("=cmd|' /C calc'!A0" in text for text in again["query"])


def test_training_takes_ten_megabytes_in_one_cell_and_formulas_in_csv(home, tmp_path, tiny_model, capsys):
    rows = [(f"{title} {HOSTILE[12]}", f"{HOSTILE[13]} {words}") for title, words in JOBS.items()]
    rows[0] = (rows[0][0], "x" * 10_000_000)
    files.write_csv(tmp_path / "t.csv", pd.DataFrame(rows, columns=["query", "positive"]))
    words = ["train", "--datapath", str(tmp_path / "t.csv"), "--modelname", str(tiny_model), "--maxsteps", "2"]
    assert parser.main([*words, "--testshare", "0.3", "--runid", "r"]) == 0
    out, err = capsys.readouterr()
    assert not CONTROL.search(out + err)
    assert any(text.endswith("=cmd|' /C calc'!A0") for text in folders.open_run("r").table("queries")["query"])


# -- what a terminal gets ------------------------------------------------------------------------


def test_a_terminal_obeys_no_text(home, tmp_path, tiny_model, capsys):
    corpus = tmp_path / "\x1b]0;corpus\x07.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in HOSTILE[:-1]))
    words = ["search", HOSTILE[9], "--model", str(tiny_model), "--corpus", str(corpus), "--top", "100", "--keephtml"]
    assert parser.main(words) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == len(HOSTILE) - 1 and not CONTROL.search(out + err)
    assert "👩\u200d⚕️" in out and "=cmd|' /C calc'!A0" in out
    assert parser.main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and not CONTROL.search(out + err)
    assert {item["text"] for item in json.loads(out)} == {clean(text) for text in HOSTILE[:-1]}
    assert parser.main([*words, "--column", "\x1b[2J\x9b1m"]) == 2
    assert parser.main(["evaluate", "--datapath", str(tmp_path / "\x1b[2J\u202e.csv")]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 2 and not CONTROL.search(out + err)


@pytest.mark.parametrize("text", HOSTILE[:-1], ids=lambda text: ascii(text)[1:30])
def test_sentences_are_plain_and_short(text):
    assert not CONTROL.search(errors.plain(text)) and errors.plain("a\tb\nc ё 👩\u200d⚕️") == "a\tb\nc ё 👩\u200d⚕️"
    for line in (errors.one_line(ValueError(text * 50)), errors.shown(text * 50), errors.quoted(text * 50)):
        assert not CONTROL.search(line) and "\n" not in line and len(line) <= 300
    assert json.loads(errors.escaped(json.dumps(text, ensure_ascii=False))) == text


def test_a_value_is_quoted_whatever_its_size():
    deep: list = []
    for _ in range(100):
        deep = [deep] * 9
    for value in (deep, 16**10_000, "x" * 10**7, {"a": deep}, b"x" * 10**6, [1] * 10**6):
        assert len(errors.quoted(value)) < 500
    assert errors.quoted("many") == "'many'" and errors.quoted(1.5) == "1.5" and errors.quoted([1, "a"]) == "[1, 'a']"


# -- names and places ----------------------------------------------------------------------------

NAMES = [
    "../../x", "/etc/x", "..", ".", "", "C:\\x", "a/b", "a\\b", "CON", "nul.txt", "a\0b", "\x1b[2J", "x" * 5000,
    "{runid}", "%2e%2e", "~root", "$HOME", "пример", "\u202egnp", ".hidden", "a\nb", "-rf", *HOSTILE[:-1],
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda text: ascii(text)[1:30])
def test_no_project_name_climbs_out(home, name):
    runid = folders.new_run_id(name)
    assert folders.checked_run_id(runid) == runid and len(runid.encode()) < 250
    folder = folders.create_run("", name).folder
    assert folder.parent == paths.runs() and folder.resolve().is_relative_to(paths.runs().resolve())
    try:
        checked = folders.checked_run_id(name)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert (paths.runs() / checked).resolve().parent == paths.runs().resolve()


def test_values_reach_a_notebook_as_they_are(home, tmp_path):
    """Neither quotes nor braces end a parameter, and a path with braces is a path."""
    mark = tmp_path / "mark"
    texts = [
        *HOSTILE[:9],
        *HOSTILE[10:-1],
        f'"; open({str(mark)!r}, "w") #',
        f"'''\nopen({str(mark)!r}, 'w')\n'''",
        "\\",
    ]
    path = write_notebook(
        tmp_path / "{in} {0}" / "n.ipynb",
        'text = ""\nmany = []\nmore = {}',
        "import json; print(json.dumps([text, many, more]))",
    )
    parameters = {"text": texts[0], "many": texts, "more": {text: text for text in texts}}
    output = run_notebook(path, tmp_path / "{text} {many[0]}", parameters)
    assert output == tmp_path / "{text} {many[0]}" / "n.ipynb" and not mark.exists()
    assert json.loads(printed(output)) == list(parameters.values())


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".json", ".pkl", ".parquet"])
def test_a_bomb_of_ten_gigabytes_is_refused_within_the_limit(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(unpacking, "LIMIT", 2**26)
    path = tmp_path / f"bomb{kind}.gz"
    path.write_bytes(gzip.compress(bytes(10_000_000)) * 1000)
    assert path.stat().st_size < 2**24
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="unpacks to more than 67,108,864 bytes"):
            read_table(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * unpacking.LIMIT
    finally:
        tracemalloc.stop()


def test_a_table_that_packs_well_is_read(tmp_path):
    text = b"query,positive\n" + b"welder,joins metal parts\n" * 400_000
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text))
    assert content(tmp_path / "t.csv.gz") == text
    table = pd.DataFrame({"query": ["welder"] * 60_000, "positive": ["joins metal parts of pumps. " * 150] * 60_000})
    table.to_parquet(tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 2**20
    assert len(read_table(tmp_path / "t.parquet")) == 60_000


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_weights_and_checkpoints_run_nothing(tmp_path):
    mark = tmp_path / "mark"
    torch.save({"version": 2, "settings": Touch(mark), "fingerprint": ""}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Touch(mark)))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(InputError, match="not a whole checkpoint"):
            load_checkpoint(tmp_path / name, {}, "")
    model = make_model(tmp_path / "model")
    (model / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Touch(mark)}, model / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_encoder(str(model))
    assert not mark.exists()
    torch.load(tmp_path / "zip.pt", weights_only=False)  # the attack is real
    assert mark.exists()


# -- the network ---------------------------------------------------------------------------------

WATCH = """
import sys
asked = []
def watch(event, args):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"):
        # Older urllib3 finds out on import whether there is IPv6, by an address of its own that it never listens on.
        own = args[1] == ("::1", 0) and sys._getframe(1).f_code.co_name == "_has_ipv6"
        if args[0].family.name != "AF_UNIX" and not own:
            asked.append((event, args[1]))
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request"):
        asked.append((event, args))
sys.addaudithook(watch)
from hr_search.commands.parser import main
codes = [main(words.split("|")) for words in sys.argv[1:]]
import socket
before = list(asked)
socket.socket().connect_ex(("127.0.0.1", 9))  # the watch sees what is asked for
print(codes, before, len(asked))
"""


def test_nothing_is_asked_for_with_bundled_model_and_data(tmp_path, stocked_home):
    (tmp_path / "corpus.txt").write_text("сварщик варит металл\nповар варит суп\n", encoding="utf-8")
    train = "train|--datapath|sample_ru|--maxsteps|1|--batchsize|4|--maxlength|8|--probes|0|--runid|r"
    search = f"search|суп|--corpus|{tmp_path / 'corpus.txt'}|--top|1"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    }
    environment["PYTHONPATH"] = str(paths.checkout())
    done = subprocess.run(
        [sys.executable, "-c", WATCH, train, search], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "повар варит суп" in done.stdout and done.stdout.splitlines()[-1] == "[0, 0] [] 1"


def test_telemetry_is_off_before_any_library_is_loaded():
    code = "import hr_search, os; from huggingface_hub import constants as c; print(c.HF_HUB_DISABLE_TELEMETRY, os.environ['DO_NOT_TRACK'])"
    environment = {
        name: value for name, value in os.environ.items() if "TELEMETRY" not in name and name != "DO_NOT_TRACK"
    }
    environment["PYTHONPATH"] = str(paths.checkout())
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.stdout == "True 1\n", done.stderr
    assert Settings().tracker == "none"


def test_data_on_hostile_texts_are_the_same_every_time(tmp_path):
    hostile_table(tmp_path / "t.jsonl", 100_000)
    settings = Settings(datapath=str(tmp_path / "t.jsonl"), groupcolumn="group", testshare=0.3)
    assert loading.load_data(settings).fingerprint == loading.load_data(settings).fingerprint
