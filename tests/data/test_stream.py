"""Tables in blocks: the rows that a whole reading gives, parts by hash, no leaks, the same run as in memory."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sentences import sentence

from hr_search import batches
from hr_search.base.errors import InputError
from hr_search.base.mapped import ChangedTexts, GrowingArray, GrowingTexts, StoredTexts
from hr_search.batches import index_rows
from hr_search.checks import check_settings
from hr_search.data import blocks, duplicates, hashes, loading, reading, stream_files, tables
from hr_search.encoder import load_encoder
from hr_search.experiment import run_experiment
from hr_search.models.condenser import Condenser
from hr_search.settings import Settings

GROUPS = 40


def rows_of(groups: int = GROUPS, each: int = 3) -> list[dict]:
    """Rows whose documents share nothing, a title twice in each group and one negative in the first row."""
    found = []
    for group in range(groups):
        for row in range(each):
            text = sentence(each * group + row)
            title = f"title {group} {min(row, each - 2)}"
            found.append({"query": title, "positive": text, "negatives": [], "group": f"g{group}"})
    return found


def write(path: Path, rows: list[dict]) -> str:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path, row_group_size=50)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines, encoding="utf-8")
    return str(path)


def settings_of(datapath: str, **changes) -> Settings:
    return Settings(**({"datapath": datapath, "groupcolumn": "group", "stream": True} | changes))


def texts_of(rows: batches.Rows) -> list[tuple[str, str, tuple[str, ...]]]:
    """The rows as texts."""
    sides = zip(rows.query, rows.positive, rows.negatives, strict=True)
    return [(rows.queries[q], rows.documents[d], tuple(rows.documents[at] for at in wrong)) for q, d, wrong in sides]


@pytest.fixture(autouse=True)
def small_blocks(home, monkeypatch):
    """A home of its own, and blocks of a few rows."""
    monkeypatch.setattr(blocks, "BYTES", 2_000)
    monkeypatch.setattr(blocks, "_READ", 7)


# -- files ---------------------------------------------------------------------------------------


def test_texts_and_numbers_in_files_are_those_that_were_written(tmp_path):
    texts = GrowingTexts(tmp_path, "a")
    for part in (["x", "", "привет"], [], ["end"]):
        texts.append(part)
    texts.close()
    kept = StoredTexts(tmp_path, "a")
    assert list(kept) == ["x", "", "привет", "end"] and kept[1:3] == ["", "привет"] and kept[-1] == "end"
    assert list(StoredTexts(tmp_path, "a", np.array([1, 3]))) == ["", "end"]
    assert StoredTexts(tmp_path, "a", np.array([3, 0]))[:2] == ["end", "x"]
    with pytest.raises(IndexError):
        kept[4]
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a\.npy does not fit a\.bin"):
        StoredTexts(tmp_path, "a")
    numbers = GrowingArray(tmp_path / "n.npy", np.int32)
    for size in (3, 0, 100_000):
        numbers.append(np.arange(size))
    numbers.close()
    assert np.array_equal(np.load(tmp_path / "n.npy"), np.concatenate([np.arange(3), np.arange(100_000)]))


def test_texts_in_files_are_condensed_when_they_are_read_and_give_the_tokens_of_a_list(tmp_path, tiny_model):
    encoder = load_encoder(str(tiny_model))
    encoder.condenser = Condenser(20, {"bakes": 1.0})
    texts = [f"A firm with many words about itself. Number {at} bakes bread." for at in range(30)]
    stored = GrowingTexts(tmp_path, "a")
    stored.append(texts)
    stored.close()
    kept = StoredTexts(tmp_path, "a")
    changed = ChangedTexts(kept, encoder.condenser)
    assert list(changed) == [encoder.condenser(text) for text in texts] and changed[-2:] == list(changed)[-2:]
    expected, found = encoder.tokens(texts, "document"), encoder.tokens(kept, "document")
    assert np.array_equal(expected.ids, found.ids) and np.array_equal(expected.offsets, found.offsets)


def test_hashes_are_the_same_everywhere_and_numbers_follow_the_first_occurrence():
    assert hashes.text_hashes(["a", "б"]).tolist() == [13950350942979735504, 8403213799922799848]
    assert hashes.mixed(hashes.text_hashes(["a"]), 3).tolist() == [8742194751249900540]
    numbering = hashes.Numbering()
    asked = [[7, 3, 7, 9], [3, 1], [], [9, 1, 2]]
    found = [numbering.add(np.array(each, np.uint64)) for each in asked]
    assert [numbers.tolist() for numbers, _ in found] == [[0, 1, 0, 2], [1, 3], [], [2, 3, 4]]
    assert [new.tolist() for _, new in found] == [[0, 1, 3], [1], [], [2]]


# -- blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_blocks_hold_the_rows_of_the_file(tmp_path, name):
    path = write(tmp_path / name, rows_of())
    parts = [table for table, _ in tables.read_pair_blocks(path, groupcolumn="group")]
    assert len(parts) > 2
    whole, _ = tables.read_pairs(path, groupcolumn="group")
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)


@pytest.mark.parametrize(
    ("rows", "sentence_"),
    [
        (
            [{"query": "q", "positive": "p"}] * 99 + [{"query": "q", "positive": 3.5}],
            'row 100, column "positive" holds',
        ),
        (
            [{"query": "q", "positive": "p"}] * 99 + [{"query": "q", "positive": "p", "negative": "n"}],
            "there are columns that change which ones are read",
        ),
        ([{"query": "", "positive": "p"}] * 3, "query or positive is empty in each of its 3 rows"),
    ],
)
def test_a_wrong_cell_of_a_later_block_is_named_by_its_row(tmp_path, rows, sentence_):
    with pytest.raises(InputError, match=sentence_):
        list(tables.read_pair_blocks(write(tmp_path / "a.jsonl", rows)))


@pytest.mark.parametrize(
    ("name", "content", "sentence_"),
    [
        ("a.csv", b"query,positive\nq,p\n", "--stream reads .parquet, .jsonl and .jsonl.gz"),
        ("a.parquet.gz", b"x", "--stream reads .parquet, .jsonl and .jsonl.gz"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b'{"query": "q", "positive": "p"}\n' * 90 + b"{]\n", "line 91 is not valid JSON"),
        ("a.jsonl", b'{"query": "q", "positive": "p"}\n' * 90 + b"[1]\n", "line 91 is not a JSON object"),
        ("a.jsonl", b'{"query": "q", "positive": "p"}\n' * 90 + b"\xff\n", "line 91 is not text in utf-8"),
        ("a.jsonl", '{"query": "q"}\n'.encode("utf-16"), "UTF-16 or UTF-32"),
        ("a.jsonl.gz", gzip.compress(b'{"query": "q", "positive": "p"}\n' * 999)[:-9], "not a complete gzip file"),
        ("a.parquet", b"PAR1 and no more", "not a readable Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_in_blocks_gets_a_sentence(tmp_path, name, content, sentence_):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence_):
        list(blocks.read_blocks(tmp_path / name))
    with pytest.raises(InputError, match="does not exist"):
        list(blocks.read_blocks(tmp_path / "none.jsonl"))


# -- parts ---------------------------------------------------------------------------------------


def test_whole_groups_go_to_parts_and_every_row_is_somewhere(tmp_path, monkeypatch):
    rows = rows_of()
    path = write(tmp_path / "a.jsonl", rows)
    data = loading.load_data(settings_of(path, testshare=0.2, validationshare=0.2))
    groups = [set(getattr(data, name)["group"]) for name in ("train", "validation", "test")]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert min(map(len, groups)) > 1 and sum(map(len, groups)) == GROUPS and sum(data.sizes.values()) == len(rows)
    assert (
        data.counts.to_dict().items() >= {"rows": 120, "groups": 40, "train": len(data.train), "duplicates": 0}.items()
    )
    monkeypatch.setattr(blocks, "BYTES", 10**6)  # the blocks decide nothing
    other = loading.load_data(
        settings_of(write(tmp_path / "b.jsonl", [*rows, rows[0]]), testshare=0.2, validationshare=0.2)
    )
    for name in ("train", "validation", "test"):
        pd.testing.assert_frame_equal(getattr(other, name), getattr(data, name))
    assert other.counts.duplicates == 1
    assert loading.load_data(settings_of(path, splitseed=1)).fingerprint != data.fingerprint


def test_a_part_that_is_full_gives_whole_groups_back_to_train(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "a.jsonl", rows_of())
    whole = loading.load_data(settings_of(path, testshare=0.5))
    monkeypatch.setattr(stream_files, "HELD", 10)
    (tmp_path / "again").mkdir()
    monkeypatch.setenv("HR_SEARCH_HOME", str(tmp_path / "again"))
    caplog.set_level(logging.WARNING)
    capped = loading.load_data(settings_of(path, testshare=0.5))
    assert len(whole.test) > 30 and len(capped.test) == 9  # three groups of three
    assert set(capped.test["group"]) < set(whole.test["group"])
    assert sum(capped.sizes.values()) == 120 and "test has 9 of 120 rows, 7.5% for 50.0%" in caplog.text
    assert not set(capped.test["group"]) & set(capped.train["group"])


def test_a_part_without_two_groups_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of(3))
    with pytest.raises(InputError, match="change --splitseed or the shares"):
        loading.load_data(settings_of(path, testshare=0.01))


def test_shares_that_the_table_has_of_its_own_decide_its_parts(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_of())
    own = json.dumps([{"path": path, "validationshare": 0, "testshare": 0.5}])
    shares = {"validationshare": 0.0, "testshare": 0.5}
    assert loading.load_data(settings_of(own)).sizes == loading.load_data(settings_of(path, **shares)).sizes


def test_train_rows_and_negatives_with_held_out_documents_leave(tmp_path):
    rows = rows_of()
    path = write(tmp_path / "a.jsonl", rows)
    plain = loading.load_data(settings_of(path))
    held, kept = plain.test.iloc[0], plain.train.iloc[0]
    near = " ".join([*held["positive"].split()[:-1], "otherwise"])
    more = [
        {"query": "x", "positive": held["positive"], "negatives": [], "group": kept["group"]},
        {"query": "y", "positive": near, "negatives": [], "group": kept["group"]},
        {
            "query": "z",
            "positive": sentence(900),
            "negatives": [held["positive"], sentence(901)],
            "group": kept["group"],
        },
    ]
    data = loading.load_data(settings_of(write(tmp_path / "b.jsonl", rows + more)))
    found = texts_of(data.rows())
    assert data.counts.table_leaks == 2 and data.counts.negative_leaks == 1 and data.counts.near_exact == 1
    assert len(found) == data.sizes["train"] == plain.sizes["train"] + 1
    assert found[-1] == ("z", sentence(900), (sentence(901),)) and data.train["negatives"].iloc[-1] == [sentence(901)]
    pd.testing.assert_frame_equal(data.test, plain.test)


def test_near_copies_in_blocks_are_those_of_the_whole_search():
    texts = [sentence(number) for number in range(6)]
    corpus = [*(sentence(number) for number in range(3, 40)), " ".join(sentence(1).split()[:-2]), "short"]
    left, right, _ = duplicates.near_copies(texts, corpus)
    copied, copies, exact = duplicates.near_any(texts, [corpus[:5], corpus[5:]])
    assert np.flatnonzero(copied).tolist() == sorted(set(left.tolist())) == [1, 3, 4, 5] and exact
    assert np.flatnonzero(copies).tolist() == sorted(set(right.tolist())) == [0, 1, 2, 37]


# -- the same as in memory -----------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A train table with repeats and negatives, and validation and test tables of their own."""
    rows = rows_of(12)
    rows[4]["negatives"] = [sentence(800), rows[20]["positive"]]
    held = rows_of(20)[36:]
    parts = {"datapath": [*rows, rows[0]], "validationpath": held[:12], "testpath": held[12:]}
    return {name: write(tmp_path / f"{name}.jsonl", part) for name, part in parts.items()}


def test_rows_in_files_are_those_in_memory(files, monkeypatch):
    streamed, memory = (loading.load_data(settings_of(**files, stream=each)) for each in (True, False))
    rows, wanted = streamed.rows(), index_rows(memory.train)
    assert texts_of(rows) == texts_of(wanted) and len(rows) == 36
    groups = [
        (each.query_groups @ each.document_groups.T).toarray()[each.query][:, each.positive] for each in (rows, wanted)
    ]
    assert np.array_equal(*groups)
    pd.testing.assert_frame_equal(streamed.train, memory.train, check_dtype=False)
    assert {**streamed.counts.to_dict(), "table_leaks": None} == {**memory.counts.to_dict(), "table_leaks": None}
    monkeypatch.setattr(reading, "read_blocks", None)  # read once
    again = loading.load_data(settings_of(**files))
    assert again.fingerprint == streamed.fingerprint
    few = loading.load_data(settings_of(**files, maxrows=5))
    assert len(few.rows()) == few.counts.train == 5 and set(texts_of(few.rows())) < set(texts_of(rows))
    assert len(few.rows().queries) <= 5


def test_a_damaged_cache_is_made_anew(files, home, caplog):
    first = loading.load_data(settings_of(**files))
    next(home.glob("data/cache/streams/*/files/query.npy")).write_bytes(b"torn")
    assert loading.load_data(settings_of(**files)).fingerprint == first.fingerprint and "is made anew" in caplog.text


def test_a_leak_of_a_separate_file_is_refused(tmp_path, files):
    rows = rows_of(12)
    files["testpath"] = write(tmp_path / "t.jsonl", [*rows_of(20)[48:], rows[2], rows[5]])
    with pytest.raises(InputError, match="2 of 14 test rows have a document that also occurs in train"):
        loading.load_data(settings_of(**files))
    allowed = loading.load_data(settings_of(**files, allowleaks=True))
    assert allowed.counts.exact_leaks == 2 and allowed.counts.seen_queries == 2 and allowed.counts.seen_groups == 2
    assert allowed.titles["query"].tolist() == [rows[2]["query"], rows[5]["query"]]
    assert allowed.sizes["train"] == 36  # rows leave for documents of parts that are drawn from the table only


def test_a_streamed_run_has_the_numbers_of_one_in_memory_and_resumes(files, tiny_model, tmp_path):
    more = {"modelname": str(tiny_model), "loss": "infonce", "batchsize": 8, "epochs": 3, "learningrate": 1e-3}
    more |= {"precision": "fp32", "probes": 0}
    runs = [run_experiment(settings_of(**files, **more, stream=each), f"run{each}") for each in (True, False)]
    for name in ("metrics", "queries"):
        pd.testing.assert_frame_equal(runs[0].table(name), runs[1].table(name))
    assert runs[0].table("history")["loss"].equals(runs[1].table("history")["loss"])
    assert runs[0].summary["data"]["train"] == 36
    point = {"checkpointpath": str(tmp_path / "c.pt"), "checkpointsteps": 1}
    run_experiment(settings_of(**files, **more, **point, maxsteps=4), "half")
    whole = {"maxsteps": 8, **more, **point}
    resumed = run_experiment(settings_of(**files, **whole, resume=True), "resumed")
    assert resumed.table("history")["step"].tolist()[-1] == 8 and resumed.summary["data"] == runs[0].summary["data"]


# -- order and refusals --------------------------------------------------------------------------


def test_windows_of_blocks_are_shuffled():
    one = batches.shuffled(50, 64, np.random.default_rng(5))
    assert np.array_equal(one, np.random.default_rng(5).permutation(50))  # one window: as in memory
    order = batches.shuffled(1000, 320, np.random.default_rng(5))  # windows of 16 blocks of 20 rows
    assert sorted(order.tolist()) == list(range(1000))
    for window in np.split(order, [320, 640, 960]):
        assert len(set((window // 20).tolist())) <= 16 and not np.array_equal(window, np.sort(window))
    plan = batches.step_plan(1000, 8, 2, 0, 5, window=320)
    steps = [rows.tolist() for rows, _ in plan.batches()]
    assert steps[130:] == [rows.tolist() for rows, _ in plan.batches(130)] and steps[:125] != steps[125:]


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"datapath": '["a.jsonl", "b.jsonl"]'}, "one table as datapath, not several"),
        ({"datapath": "esco"}, "esco cannot be read in blocks"),
        ({"datapath": "a.csv"}, "a.csv cannot be read in blocks"),
        ({"gradecolumn": "g", "loss": "infonce"}, "--gradecolumn"),
        ({"datapath": '[{"path": "a.jsonl", "gradecolumn": "g"}]', "loss": "infonce"}, "--gradecolumn"),
        ({"condense": 500}, "--condense"),
        ({"negatives": "mined"}, "--negatives mined"),
        ({"stage": "search"}, "--stage search"),
        ({"stage": "rerank"}, "--stage rerank"),
    ],
)
def test_what_needs_all_texts_in_memory_is_refused(changes, flag):
    with pytest.raises(InputError, match=flag):
        check_settings(Settings(**({"datapath": "a.jsonl", "stream": True} | changes)))


def test_evaluate_takes_the_rows_that_a_streamed_run_held_out(tmp_path):
    given = settings_of(write(tmp_path / "a.jsonl", rows_of()))
    held = loading.load_data(given).tasks("test")["q2d"]
    assert loading.search_tasks(given, "test")["q2d"].documents == held.documents
    with pytest.raises(InputError, match="take --split test or validation"):
        loading.search_tasks(given, "all")


def test_a_table_that_holds_no_wrong_documents_names_its_group(tmp_path, tiny_model):
    rows = rows_of(3) + [
        {"query": "clerk", "positive": sentence(700 + at), "negatives": [], "group": "big"} for at in range(90)
    ]
    held = {"validationshare": 0.0, "testpath": write(tmp_path / "t.jsonl", rows_of(20)[50:])}
    given = settings_of(write(tmp_path / "a.jsonl", rows), modelname=str(tiny_model), batchsize=4, **held)
    with pytest.raises(InputError, match='the group "clerk" has 90 of 99 rows'):
        run_experiment(given, "lonely")
