"""Splits without leaks, leaks found where they are planted, and counts of what was read and dropped."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentences import sentence, toy

from hr_search.base.errors import InputError
from hr_search.data import exploration, loading, splits
from hr_search.data.counts import Counts
from hr_search.data.tasks import fingerprint
from hr_search.settings import Settings

PARTS = ("train", "validation", "test")


def write(path: Path, rows: list[tuple], names: str = "query positive group") -> str:
    lines = [json.dumps(dict(zip(names.split(), row, strict=True)), ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def load(path: str, grouped: bool = True, **changes) -> loading.Data:
    columns = {"querycolumn": "query", "positivecolumn": "positive"} | ({"groupcolumn": "group"} if grouped else {})
    return loading.load_data(Settings(datapath=path, **(columns | changes)))


@pytest.fixture
def table(tmp_path: Path) -> str:
    """40 groups of 3 rows with documents of their own."""
    rows = [(f"title {group} {row}", sentence(3 * group + row), f"g{group}") for group in range(40) for row in range(3)]
    return write(tmp_path / "rows.jsonl", rows)


def groups_of(parts: loading.Data) -> list[set[str]]:
    return [set(getattr(parts, name)["group"]) for name in PARTS]


def test_each_group_is_in_exactly_one_part(table: str) -> None:
    parts = load(table)
    train, validation, test = groups_of(parts)
    assert len(train | validation | test) == 40
    assert not (train & validation or train & test or validation & test)
    assert (len(validation), len(test)) == (4, 4)
    assert sum(len(getattr(parts, name)) for name in PARTS) == 120
    assert list(parts.train.columns) == ["query", "positive", "negatives", "group"]
    assert list(parts.validation.index) == list(range(12))
    assert parts.name == "rows.jsonl"
    some = {"rows": 120, "groups": 40, "train": 96, "validation": 12, "test": 12, "near_exact": 1}
    some |= {"train_groups": 32, "validation_groups": 4, "test_groups": 4}
    none = [
        "empty",
        "html",
        "placeholders",
        "duplicates",
        "exact_leaks",
        "near_leaks",
        "test_leaks",
        "seen_queries",
        "seen_groups",
    ]
    assert parts.counts.to_dict() == some | dict.fromkeys([*none, "negative_leaks"], 0)


def test_the_seed_of_the_split_decides_it_and_no_other(table: str) -> None:
    first, again, other = load(table), load(table, seed=7, maxrows=1000), load(table, splitseed=7)
    for name in PARTS:
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert groups_of(first) != groups_of(other)


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 30)), min_size=1, max_size=60), st.integers(0, 9))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_no_group_and_no_document_is_ever_torn_apart(pairs: list[tuple[int, int]], seed: int) -> None:
    frame = pd.DataFrame(
        {"group": [f"g{group}" for group, _ in pairs], "document_key": [sentence(document, 9) for _, document in pairs]}
    )
    try:
        parts, exact = splits.split(frame, {"validation": 0.2, "test": 0.2}, seed, "rows")
    except InputError:
        return
    assert exact
    for column in ("group", "document_key"):
        sides = [set(part[column]) for part in parts.values()]
        assert len(set.union(*sides)) == sum(len(side) for side in sides)
    assert sum(len(part) for part in parts.values()) == len(frame)
    assert min(part["group"].nunique() for part in parts.values()) >= 2


def parts_of(sizes: list[int], seed: int, shares: tuple[float, float] = (0.1, 0.1)) -> list[tuple[int, int]]:
    """Rows and groups of each part of a table whose groups have so many rows."""
    names = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    frame = pd.DataFrame({"group": names, "document_key": [f"d{row}" for row in range(len(names))]})
    parts, _ = splits.split(frame, dict(zip(PARTS[1:], shares, strict=True)), seed, "rows.csv")
    return [(len(part), part["group"].nunique()) for part in parts.values()]


@pytest.mark.parametrize("seed", range(5))
def test_a_large_group_does_not_take_the_place_of_a_part(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    for sizes in ([60] + [1] * 60, [400] + [5] * 80, [40, 40, 30] + [2] * 70, [3000] + [2, 1] * 1000):
        rows, groups = sum(sizes), len(sizes)
        for share, (held, known) in zip((0.8, 0.1, 0.1), parts_of(sizes, seed), strict=True):
            assert share * rows / 2 <= held <= 2 * share * rows
            assert share * groups / 2.5 <= known <= 2.5 * share * groups
    assert not caplog.records


@pytest.mark.parametrize("seed", range(5))
def test_a_split_that_whole_groups_do_not_allow_is_told(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    (train, _), *held = parts_of([150] + [1] * 20, seed)
    assert train > 150 and held[0] == held[1] and held[0][0] >= 5
    said = caplog.messages[0]
    assert f"validation {held[0][0]} rows of {held[0][1]} groups" in said and "for 10%" in said
    assert '"g0", has 150 of 170 rows' in said and said.startswith("rows.csv: ")


def test_a_fair_split_counts_groups_only(caplog: pytest.LogCaptureFixture) -> None:
    sizes = [1, 2, 3, 4, 6, 9] * 20
    for seed in range(5):
        part, order = [0] * len(sizes), np.random.default_rng(seed).permutation(len(sizes))
        for place, group in enumerate(order[:24]):  # the first tenth goes to validation, the second to the test
            part[group] = 1 + place // 12
        rows = [sum(size for size, own in zip(sizes, part, strict=True) if own == number) for number in range(3)]
        assert parts_of(sizes, seed) == list(zip(rows, (96, 12, 12), strict=True))
    assert not caplog.records


def test_groups_that_share_a_document_or_a_near_copy_stay_together(tmp_path: Path) -> None:
    rows = [(f"title {group}", sentence(group, 40), f"g{group}") for group in range(30)]
    shared = sentence(99, 40)
    rows += [("copy a", shared, "same a"), ("copy b", f" {shared.upper()}! ", "same b")]
    rows += [("near a", shared + " moscow", "near a"), ("near b", "urgent " + sentence(98, 40), "near b")]
    rows += [("near c", sentence(98, 30) + " " + sentence(97, 5), "near c")]
    path = write(tmp_path / "rows.jsonl", rows)
    for seed in range(6):
        parts = load(path, splitseed=seed, validationshare=0.3, testshare=0.3)
        for family in ({"same a", "same b", "near a"}, {"near b", "near c"}):
            assert [bool(groups & family) for groups in groups_of(parts)].count(True) == 1
        assert parts.counts.near_leaks == 0


def test_without_a_group_column_equal_titles_are_a_group(tmp_path: Path) -> None:
    rows = [
        (f"{title} {number}", sentence(10 * number + row))
        for number in range(12)
        for row, title in enumerate(["Cook", "cook,"])
    ]
    parts = load(write(tmp_path / "rows.jsonl", rows, "query positive"), grouped=False)
    assert parts.counts.groups == 12
    assert set(parts.train["group"]) <= {f"cook {number}" for number in range(12)}
    assert set(parts.train["query"].str[0]) == {"C", "c"}  # texts stay as they were written


def test_an_empty_group_falls_back_on_the_title(tmp_path: Path) -> None:
    rows = [(f"Cook {number}", sentence(number), "" if number < 6 else f"g{number}") for number in range(12)]
    parts = load(write(tmp_path / "rows.jsonl", rows))
    assert set.union(*groups_of(parts)) == {f"cook {n}" for n in range(6)} | {f"g{n}" for n in range(6, 12)}


def test_duplicates_and_texts_without_words_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [(f"title {number}", sentence(number), f"g{number}") for number in range(20)]
    rows += [("TITLE  1", sentence(1) + ".", "g1"), ("...", sentence(50), "g50"), ("title", "— —", "g51")]
    rows += [("title 1", sentence(1), "another group")]
    parts = load(write(tmp_path / "rows.jsonl", rows))
    kept = sum(getattr(parts.counts, name) for name in PARTS)
    assert (parts.counts.rows, parts.counts.empty, parts.counts.duplicates, kept) == (24, 2, 1, 21)


def test_texts_lose_their_html_unless_it_is_kept(tmp_path: Path) -> None:
    rows = [
        (f"title {number} <b>A&amp;B</b>", f"<p>{sentence(number)}</p>", f"g{number}", "<p>no</p>")
        for number in range(20)
    ]
    rows += [("plain", sentence(99) + " C < D and A > B <ФИО>", "g99", "x"), ("gone", "<br>", "g98", "x")]
    path = write(tmp_path / "rows.jsonl", rows, "query positive group negative")
    parts = load(path, negativecolumn="negative")
    assert (parts.counts.html, parts.counts.empty) == (61, 1)
    assert exploration.counts_table(parts).loc["texts whose HTML was taken out", "count"] == 61
    every = pd.concat([parts.train, parts.validation, parts.test])
    assert set(every["positive"]) == {sentence(n) for n in range(20)} | {rows[20][1]}
    assert "title 3 A&B" in set(every["query"])
    assert [text for texts in every["negatives"] for text in texts].count("no") == 20
    kept = load(path, negativecolumn="negative", keephtml=True)
    assert kept.counts.html is None and kept.train["positive"].str.startswith("<p>").sum() >= 14


@pytest.mark.parametrize("word", ["NULL", "\\N", "NaN", "n/a", "N/A", "<NA>", "нет", "None", "(null)", "Не указано"])
def test_words_for_an_empty_cell_are_counted_and_named(
    tmp_path: Path, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(f"title {number}", word if number % 3 == 0 else sentence(number), f"g{number}") for number in range(60)]
    path = write(tmp_path / "rows.jsonl", rows)
    assert load(path).counts.placeholders == 20
    assert f'one document is in 20 rows: "{word}"' in caplog.text
    caplog.clear()
    assert load(path, querycolumn="positive", positivecolumn="query").counts.placeholders == 20
    assert f'one query is in 20 rows: "{word}"' in caplog.text


def test_a_dash_for_an_empty_cell_drops_the_row_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(f"title {number}", "-" if number % 3 == 0 else sentence(number), f"g{number}") for number in range(60)]
    assert load(write(tmp_path / "rows.jsonl", rows)).counts.empty == 20
    assert 'rows.jsonl: 20 rows are left out, their query or document has no words: "-"' in caplog.text


@pytest.mark.parametrize("word", ["NaN", "", "nan"])
def test_empty_cells_are_told(tmp_path: Path, word: str, caplog: pytest.LogCaptureFixture) -> None:
    lines = [f"title {number},{word if number % 3 == 0 else sentence(number)},g{number}" for number in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["query,positive,group", *lines]), encoding="utf-8")
    assert load(str(tmp_path / "rows.csv")).counts.empty == 20
    assert "rows.csv: 20 of 60 rows are left out, their query or document is empty" in caplog.text


def test_any_document_of_many_groups_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared = "Details at the interview"
    rows = [(f"title {number}", shared if number < 30 else sentence(number), f"g{number}") for number in range(200)]
    assert load(write(tmp_path / "rows.jsonl", rows)).counts.placeholders == 30
    assert f'one document is in 30 rows: "{shared}"' in caplog.text
    caplog.clear()
    rows = [
        (f"title {number}", shared if number < 30 else sentence(number), f"g{number // 30}") for number in range(300)
    ]
    assert load(write(tmp_path / "rows.jsonl", rows)).counts.placeholders == 0  # names of one job
    assert "one document" not in caplog.text


def test_wrong_documents_that_stand_for_an_empty_cell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        (f"title {number}", sentence(number), "NULL" if number % 2 else sentence(900 + number)) for number in range(40)
    ]
    path = write(tmp_path / "rows.jsonl", rows, "query positive negative")
    assert load(path, grouped=False, negativecolumn="negative").counts.placeholders == 20
    assert 'one wrong document is in 20 rows: "NULL"' in caplog.text


def test_repeated_triplets_become_one_row_with_all_negatives(tmp_path: Path) -> None:
    rows = [(f"title {number}", sentence(number), f"g{number}", f"wrong {number}") for number in range(20)]
    rows += [("title 1", sentence(1), "g1", "wrong again"), ("title 1", sentence(1), "g1", "wrong 1")]
    path = write(tmp_path / "rows.jsonl", rows, "query positive group negative")
    parts = load(path, negativecolumn="negative", validationshare=0, testshare=0)
    assert parts.counts.duplicates == 2
    assert parts.train.set_index("query").loc["title 1", "negatives"] == ["wrong 1", "wrong again"]
    assert parts.train.set_index("query").loc["title 2", "negatives"] == ["wrong 2"]


def test_separate_files_take_the_place_of_their_share(tmp_path: Path, table: str) -> None:
    own = write(tmp_path / "own.jsonl", [(f"title {n} 0", sentence(1000 + n), f"v{n}") for n in range(5)])
    parts = load(table, validationpath=own)
    assert parts.counts.validation == 5
    assert (parts.counts.train, parts.counts.test, parts.counts.rows) == (108, 12, 125)
    seen = set(parts.train["query"]) & {f"title {n} 0" for n in range(5)}
    assert parts.counts.seen_queries == len(seen) > 0
    both = load(table, validationpath=own, testpath=write(tmp_path / "t.jsonl", [("a", "b", "x"), ("c", "d", "y")]))
    assert (both.counts.train, both.counts.test) == (120, 2)


def test_planted_exact_leaks_stop_the_run_unless_allowed(tmp_path: Path, table: str) -> None:
    rows = [("cook", sentence(1000), "a"), ("baker", sentence(7).upper() + "!", "b"), ("smith", sentence(1001), "c")]
    own = write(tmp_path / "own.jsonl", rows)
    with pytest.raises(InputError, match=r"own\.jsonl: 1 of 3 validation rows .*\"baker\".*--allowleaks"):
        load(table, validationpath=own, testshare=0)
    with pytest.raises(InputError, match=r"1 of 3 test rows"):
        load(table, testpath=own, validationshare=0)
    parts = load(table, validationpath=own, testshare=0, allowleaks=True)
    assert (parts.counts.exact_leaks, parts.counts.near_leaks) == (1, 0)


def test_planted_near_leaks_are_counted_and_shown(tmp_path: Path, table: str, caplog: pytest.LogCaptureFixture) -> None:
    copied = sentence(7)  # 20 words, 13 shingles
    rows = [
        ("cook", copied + " paid weekly in moscow", "a"),  # 13 of 17 shingles
        ("smith", copied[: len(copied) // 2] + " " + sentence(1000), "b"),  # a few of them
        ("baker", sentence(1001), "c"),
        ("clerk", "short", "d"),
    ]
    own = write(tmp_path / "own.jsonl", rows)
    with caplog.at_level(logging.WARNING):
        parts = load(table, validationpath=own, testshare=0)
    assert (parts.counts.exact_leaks, parts.counts.near_leaks) == (0, 1)
    assert copied[:40] in caplog.text


def test_maxrows_is_a_seeded_sample_of_train(table: str) -> None:
    everything, some = load(table), load(table, maxrows=30)
    assert len(some.train) == some.counts.train == 30
    assert some.fingerprint == load(table, maxrows=30).fingerprint != everything.fingerprint
    order = {query: place for place, query in enumerate(everything.train["query"])}
    places = [order[query] for query in some.train["query"]]
    assert places == sorted(places) != list(range(30))
    pd.testing.assert_frame_equal(some.validation, everything.validation)
    tested = [fingerprint(data.tasks("test")["q2d"]) for data in (everything, some, load(table, splitseed=7))]
    assert tested[0] == tested[1] != tested[2]
    assert len(load(table, maxrows=1000).train) == 96


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([("a", "b", "g")], {}, "only one group"),
        ([("a", "b", "g"), ("c", "d", "g")], {}, "only one group"),
        (
            [(f"t{n}", f"d{n}", f"g{n}") for n in range(5)],
            {},
            "5 groups in 5 independent units .* 3 parts of at least 2 groups",
        ),
        ([(f"t{n}", "same", f"g{n}") for n in range(9)], {}, "9 groups in 1 independent units"),
        (
            [(f"t{n}", f"d{n}", f"g{n}") for n in range(9)],
            {"validationshare": 0.6, "testshare": 0.4},
            "leave nothing for train",
        ),
    ],
)
def test_what_cannot_be_split(tmp_path: Path, rows: list, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(write(tmp_path / "rows.jsonl", rows), **changes)


def test_the_smallest_table_that_can_be_split(tmp_path: Path) -> None:
    rows = [(f"t{n}", f"d{n}", f"g{n}") for n in range(6)]
    parts = load(write(tmp_path / "rows.jsonl", rows))
    assert [len(groups) for groups in groups_of(parts)] == [2, 2, 2]
    rows = [(f"t{n}", f"d{n // 3}", f"g{n}") for n in range(9)]  # three units of three groups
    parts = load(write(tmp_path / "rows.jsonl", rows))
    assert [len(groups) for groups in groups_of(parts)] == [3, 3, 3]
    rows = [(f"t{n}", f"d{n // 3}", f"g{n}") for n in range(13)]  # four such units and a single group
    parts = load(write(tmp_path / "rows.jsonl", rows))
    assert sorted(len(groups) for groups in groups_of(parts)) in ([3, 4, 6], [3, 3, 7])
    assert all(len(groups) >= 3 for groups in groups_of(parts))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "b", "g"), ("c", "d", "g")], "own.jsonl has only one group"),
        ([("...", "b", "g")], "own.jsonl has no rows with words"),
        ([(sentence(1000), "cook", "a"), (sentence(1001), "baker", "b")], "columns were swapped"),
    ],
)
def test_separate_files_of_no_use(tmp_path: Path, table: str, rows: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(table, validationpath=write(tmp_path / "own.jsonl", rows))


def test_esco_keeps_keyword_queries_out_of_validation_and_test() -> None:
    parts = loading.load_data(Settings(datapath="esco"))
    assert parts.name == "esco"
    for part in (parts.validation, parts.test):
        assert len(part) == part["group"].nunique() > 250
        assert (part["query"] == part["group"]).all()
    assert len(parts.train) > 1.9 * parts.train["group"].nunique()
    assert (parts.counts.exact_leaks, parts.counts.near_leaks, parts.counts.near_exact) == (0, 0, 1)
    train, validation, test = groups_of(parts)
    assert not (train & validation or train & test or validation & test)
    assert list(parts.test.columns) == loading.COLUMNS


def test_bundled_data_are_split_as_ever() -> None:
    """The numbers in the documentation hold for these rows."""
    recipe = loading.load_data(Settings(datapath="esco", validationshare=0.07, testshare=0.37))
    assert (recipe.fingerprint, loading.load_data(Settings(datapath="sample_ru", testshare=0.2)).fingerprint) == (
        "07e9256b4be9ddcc",
        "c937159a6f1e1365",
    )


def test_the_russian_sample_is_grouped_by_profession() -> None:
    parts = loading.load_data(Settings(datapath="sample_ru"))
    assert (parts.name, parts.counts.rows) == ("sample_ru", 240)
    assert parts.counts.groups < 200
    found = exploration.language_table(parts)
    assert list(found) == ["part", "side", "cyrillic", "latin", "other"]
    assert found["side"].tolist() == ["query", "document"] * 3
    assert found.iloc[:, 2:].sum(axis=1).tolist() == [len(getattr(parts, part)) for part in PARTS for _ in range(2)]
    assert found["cyrillic"].sum() > 0.9 * found["latin"].sum()


def test_the_fingerprint_sees_every_part_of_a_row() -> None:
    pairs = toy().assign(negatives=[["x"], [], [], [], [], []])
    changes = [
        pairs.assign(query=pairs["query"].replace("smith", "Smith")),
        pairs.assign(positive=pairs["positive"].replace("bends iron", "bends irons")),
        pairs.assign(group=pairs["group"].replace("forge", "force")),
        pairs.assign(negatives=[["x", "y"], [], [], [], [], []]),
        pairs.iloc[::-1],
    ]
    prints = {loading.fingerprint([frame, frame[:0]]) for frame in [pairs, *changes]} | {
        loading.fingerprint([pairs[:0], pairs])
    }
    assert len(prints) == 7
    assert loading.fingerprint([pairs.copy(), pairs[:0]]) in prints


def test_counts_add_up_and_leave_out_what_does_not_apply() -> None:
    counts = Counts(rows=3, empty=1) + Counts(empty=2, emails=0)
    assert counts == Counts(rows=3, empty=3, emails=0)
    assert list(counts.to_dict().items()) == [("rows", 3), ("empty", 3), ("emails", 0)]
    assert str(counts) == "rows 3, empty 3, emails 0" and str(Counts()) == ""
