"""Tables of pairs: every format, encoding, separator and shape that is read, and every sentence that refuses one."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hr_search.base import hub
from hr_search.base.errors import InputError
from hr_search.data import tables
from hr_search.data.counts import Counts
from hr_search.data.formats import read_table
from hr_search.data.tables import read_pairs, read_texts

QUERIES = ["Кассир", 'Повар "су-шеф"', "Врач, терапевт; дежурный"]
POSITIVES = ["Работа на кассе, смены 2/2", "Готовить | подавать\tна стол", "Приём\nпациентов; выписка"]


def pairs_frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"position": QUERIES, "description": POSITIVES, **columns})


def stored(tmp_path, data, name: str = "table.csv") -> pathlib.Path:
    path = tmp_path / name
    raw = data if isinstance(data, bytes) else data.encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def lines(tmp_path, *records, name: str = "table.jsonl") -> pathlib.Path:
    return stored(tmp_path, "\n".join(json.dumps(record) for record in records), name)


def parquet(tmp_path, **columns) -> pathlib.Path:
    path = tmp_path / "table.parquet"
    pd.DataFrame(columns).to_parquet(path)
    return path


def refused(path, *arguments, read=read_pairs, **named) -> str:
    """The one sentence with which a table is refused."""
    with pytest.raises(InputError) as caught:
        read(path, *arguments, **named)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 900
    return sentence


def save(table: pd.DataFrame, path: pathlib.Path) -> pathlib.Path:
    """`table` in the format that the name of the file says."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".pkl"):
        table.to_pickle(path)
    elif name.endswith((".csv", ".tsv")):
        table.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    elif name.endswith(".jsonl"):
        table.to_json(path, orient="records", lines=True, force_ascii=False)
    elif name.endswith(".json"):
        table.to_json(path, orient="records")
    else:
        table.to_parquet(path)
    return path


FORMATS = [".pkl", ".csv", ".tsv", ".jsonl", ".json", ".parquet"]


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", FORMATS)
def test_round_trip_of_every_format(tmp_path, kind, packed):
    if kind == ".parquet" and packed:
        pytest.importorskip("pyarrow")
        path = stored(tmp_path, save(pairs_frame(), tmp_path / "table.parquet").read_bytes(), "table.parquet.gz")
    else:
        path = save(pairs_frame(), tmp_path / f"table{kind}{packed}")
    table, counts = read_pairs(path)
    assert table["query"].tolist() == QUERIES and table["positive"].tolist() == POSITIVES
    assert table["negatives"].tolist() == [[], [], []] and list(table.columns) == ["query", "positive", "negatives"]
    assert counts == Counts(rows=3, empty=0)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["TABLE", "имя с пробелом", "a.b"])
def test_names_of_files(tmp_path, kind, name):
    path = save(pairs_frame(), tmp_path / f"x{kind}").rename(
        tmp_path / (name + (kind.upper() if name == "TABLE" else kind))
    )
    assert len(read_pairs(str(path))[0]) == 3


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickle_protocols(tmp_path, protocol):
    path = tmp_path / "table.pkl"
    pairs_frame(negatives=[["a", "b"], [], ["c"]]).to_pickle(path, protocol=protocol)
    table, _ = read_pairs(path)
    assert table["query"].tolist() == QUERIES and table["negatives"].tolist() == [["a", "b"], [], ["c"]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1251"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("kind", [".csv", ".tsv", ".csv.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_separators(tmp_path, encoding, separator, kind, newline):
    text = pairs_frame().to_csv(index=False, sep=separator, lineterminator=newline)
    table, _ = read_pairs(stored(tmp_path, text.encode(encoding), "table" + kind))
    assert table["query"].tolist() == QUERIES and table["positive"].tolist() == POSITIVES


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_both_orders_of_utf16(tmp_path, mark):
    order = "utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"
    path = stored(tmp_path, mark + "query,positive\nя,ё\n".encode(order))
    assert read_pairs(path)[0]["positive"].tolist() == ["ё"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1251"])
def test_encodings_of_json_lines(tmp_path, encoding):
    text = '{"query": "Кассир", "positive": "Касса\u00a0и смены"}\r\n\n{"query": "Повар", "positive": "Кухня"}\n'
    table, counts = read_pairs(stored(tmp_path, text.encode(encoding), "table.jsonl"))
    assert table["positive"].tolist() == ["Касса\u00a0и смены", "Кухня"] and counts.rows == 2


def test_the_separator_is_found_by_the_header_and_the_rows(tmp_path):
    cases = {
        "position;description\nКассир;касса, смены, 2/2\nПовар;кухня, цех\n": "касса, смены, 2/2",
        "position\tdescription\nКассир\tкасса; смены, 2/2\n": "касса; смены, 2/2",
        "position|description\nКассир|касса; смены, 2/2\n": "касса; смены, 2/2",
        "position,description\nКассир,касса; смены | 2/2\nПовар,a;b;c\n": "касса; смены | 2/2",
        'position,description\n"Кассир; старший","касса\n\nсмены; ""2/2"""\n': 'касса\n\nсмены; "2/2"',
        "position;description, full\nКассир;касса, смены, ночь\nПовар;кухня\n": "касса, смены, ночь",
    }
    for text, expected in cases.items():
        column = "description, full" if "full" in text else "description"
        assert read_pairs(stored(tmp_path, text), "position", column)[0]["positive"][0] == expected


def test_a_sample_cut_within_quotes_still_finds_the_separator(tmp_path):
    rows = "".join(f'{number};"текст, с запятыми {"длинный " * 100}\nи строками"\n' for number in range(200))
    table, counts = read_pairs(stored(tmp_path, "position;description\n" + rows.replace("\n1;", "\nодин;")))
    assert counts.rows == 200 and table["positive"][0].startswith("текст, с запятыми")


def test_texts_in_csv_stay_texts(tmp_path):
    table, counts = read_pairs(
        stored(tmp_path, "query,positive\n007,+7 999\n1С,true\n2024-01-01,1e5\nNA,None\n-,NaN\n")
    )
    assert table["query"].tolist() == ["007", "1С", "2024-01-01", "NA"] and table["positive"].tolist() == [
        "+7 999",
        "true",
        "1e5",
        "None",
    ]
    assert counts == Counts(rows=5, empty=1)


NAMES = [
    ("position", "description"), ("Title", "Text"), ("job_title", "Job Description"), ("NAME", "description"),
    ("query", "positive"), ("Query", "document"), ("query", "passage"), ("anchor", "positive"), ("question", "answer"),
    ("question", "correct_answer"), ("Должность", "Описание"), ("Название", "Описание вакансии"), ("название", "текст"),
    ("вакансия", "ОПИСАНИЕ"), ("Вопрос", "Ответ"), ("запрос", "документ"), ("профессия", "описание"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "positive"), NAMES)
def test_known_names(tmp_path, query, positive):
    path = lines(tmp_path, {"id": 1, positive: "b", "extra": None, query: "a"})
    table, _ = read_pairs(path)
    assert table[["query", "positive"]].values.tolist() == [["a", "b"]]


def test_explicit_roles_come_before_titles(tmp_path):
    row = {"title": "t", "text": "x", "query": "a", "positive": "b", "description": "y"}
    assert read_pairs(lines(tmp_path, row))[0].values.tolist() == [["a", "b", []]]
    row = {"query": "a", "title": "t", "text": "x"}
    assert read_pairs(lines(tmp_path, row))[0].values.tolist() == [["t", "x", []]]
    row = {"name": "n", "title": "t", "text": "x", "description": "d"}
    assert read_pairs(lines(tmp_path, row))[0].values.tolist() == [["t", "d", []]]


@pytest.mark.parametrize(
    "name",
    ["negative", "neg", "Negatives", "hard_negative", "wrong_answers", "wrong answer", "distractor", "distractors",
     "incorrect_answers", "negative_1", "Неверный ответ", "неправильные_ответы"],
)  # fmt: skip
def test_known_names_of_negatives(tmp_path, name):
    assert read_pairs(lines(tmp_path, {"query": "a", "positive": "b", name: "c"}))[0]["negatives"][0] == ["c"]


def test_many_negative_columns_in_order(tmp_path):
    row = {"negative_10": "j", "negative_2": "b", "query": "q", "positive": "p", "negative_1": "a", "negativity": "x"}
    assert read_pairs(lines(tmp_path, row))[0]["negatives"][0] == ["a", "b", "j"]
    assert read_pairs(lines(tmp_path, row), negativecolumn="negative_10, negativity")[0]["negatives"][0] == ["j", "x"]
    assert read_pairs(lines(tmp_path, {"query": "q", "positive": "p", "a, b": "x"}), negativecolumn="a, b")[0][
        "negatives"
    ][0] == ["x"]


NEGATIVE_CELLS = [
    ("c", ["c"]), (" c ", ["c"]), ("", []), (None, []), (["c", "d"], ["c", "d"]), (["c", None, " ", "d "], ["c", "d"]), ([], []),
    ('["c", "d"]', ["c", "d"]), ("['c', 'd']", ["c", "d"]), ("""['c "x"', "d's"]""", ['c "x"', "d's"]), ("[]", []),
    ('["c", null]', ["c"]), ("[Москва] касса", ["[Москва] касса"]), ("[Москва]", ["[Москва]"]), ("[a] и [b]", ["[a] и [b]"]),
    ("['c', None]", ["c"]), ('["кассир\\u043a"]', ["кассирк"]),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "expected"), NEGATIVE_CELLS)
def test_cells_of_negatives(tmp_path, cell, expected):
    assert read_pairs(lines(tmp_path, {"query": "a", "positive": "b", "negative": cell}))[0]["negatives"][0] == expected


def test_lists_written_to_csv_by_pandas_come_back(tmp_path):
    path = save(pairs_frame(negatives=[["a", "b's"], [], ['c "d"']]), tmp_path / "table.csv")
    assert read_pairs(path)[0]["negatives"].tolist() == [["a", "b's"], [], ['c "d"']]


@pytest.mark.parametrize("cell", ["['a' 'b']", "['a'\n 'b']", "['a', 'b]", "[\"a\" 'b']"])
def test_a_printed_array_is_not_taken_for_a_list(tmp_path, cell):
    sentence = refused(lines(tmp_path, {"query": "a", "positive": "b", "negatives": cell}))
    assert "row 1" in sentence and '"negatives"' in sentence and "neither JSON nor Python" in sentence


@pytest.mark.parametrize("kind", [".pkl", ".parquet", ".jsonl"])
def test_list_cells_in_every_format_that_has_them(tmp_path, kind):
    path = save(pairs_frame(negatives=[["a", "b"], ["c", "d"], ["e", "f"]]), tmp_path / f"table{kind}")
    assert read_pairs(path)[0]["negatives"].tolist() == [["a", "b"], ["c", "d"], ["e", "f"]]


def test_columns_may_be_named(tmp_path):
    path = lines(tmp_path, {"a": "1a", "b": "1b", "c": "1c", "title": "t", "text": "x"})
    assert read_pairs(path, "a", "b", "c")[0].values.tolist() == [["1a", "1b", ["1c"]]]
    assert read_pairs(path, querycolumn="a")[0]["positive"].tolist() == ["x"]
    assert read_pairs(path, positivecolumn="b")[0]["query"].tolist() == ["t"]
    assert read_pairs(path, "text", "title")[0].values.tolist() == [["x", "t", []]]
    both = lines(tmp_path, {"question": "q", "answer": "a", "description": "d", "name": "n"})
    assert read_pairs(both, querycolumn="name")[0]["positive"].tolist() == ["d"]
    assert read_pairs(both, positivecolumn="answer")[0]["query"].tolist() == ["q"]
    assert read_pairs(both, positivecolumn="description")[0]["query"].tolist() == ["n"]


def test_groups(tmp_path):
    rows = [{"position": "a", "description": "b", "esco": value} for value in ("x", " y ", 7, 7.0, 2.5, None, True, "")]
    table, _ = read_pairs(lines(tmp_path, *rows), groupcolumn="esco")
    assert table["group"].tolist() == ["x", "y", "7", "7", "2.5", "", "1", ""]
    assert read_pairs(lines(tmp_path, *rows), groupcolumn="position")[0]["group"].tolist() == ["a"] * 8
    assert "group" not in read_pairs(lines(tmp_path, {**rows[0], "group": "g"}))[0]
    numbers = parquet(tmp_path, query=["a", "b"], positive=["c", "d"], negative=[1.0, np.nan])
    assert read_pairs(numbers, groupcolumn="negative")[0].values.tolist() == [["a", "c", [], "1"], ["b", "d", [], ""]]
    assert "a list" in refused(lines(tmp_path, {"query": "a", "positive": "b", "g": []}), groupcolumn="g")


def test_rows_with_an_empty_side_are_dropped_and_counted(tmp_path):
    rows = [
        ("a", "b"),
        (None, "b"),
        ("a", None),
        ("", "b"),
        ("a", " \n\t\u00a0"),
        ("\0", "b"),
        (float("nan"), "b"),
        ("c", "d"),
    ]
    path = lines(tmp_path, *({"query": query, "positive": positive} for query, positive in rows), {"query": "a"})
    table, counts = read_pairs(path)
    assert table["query"].tolist() == ["a", "c"] and counts == Counts(rows=9, empty=7)
    assert table.index.tolist() == [0, 1]
    for kind in (".pkl", ".parquet", ".csv"):
        frame = pd.DataFrame({"query": ["a", None, "c"], "positive": ["b", "b", None]})
        assert read_pairs(save(frame, tmp_path / f"x{kind}"))[1] == Counts(rows=3, empty=2)


def test_texts_are_cleaned(tmp_path):
    rows = [{"query": " a\0b ", "positive": "\ud83d\ude00 x\ud83d", "negative": ["\udc00", "\0"]}]
    table, _ = read_pairs(lines(tmp_path, *rows))
    assert table.values.tolist() == [["a b", "😀 x\ufffd", ["\ufffd"]]]
    records = tmp_path / "t.pkl"
    pd.to_pickle([{"query": "\ud83d" + "\ude00", "positive": "a\0"}], records)
    assert read_pairs(records)[0].values.tolist() == [["😀", "a", []]]
    path = stored(tmp_path, "query,positive\na\0b,c\n" + "d,e\n" * 200)
    assert read_pairs(path)[0]["query"][0] == "a b"
    path = lines(tmp_path, {"\ud83dquery\0": "a", "positive": "b"})
    assert read_pairs(path)[0]["query"].tolist() == ["a"]


def test_texts_are_plain_strings(tmp_path):
    path = tmp_path / "t.pkl"
    pd.DataFrame({"query": np.array([np.str_("a")], dtype=object), "positive": ["b"]}).to_pickle(path)
    assert type(read_pairs(path)[0]["query"].tolist()[0]) is str


def test_wrong_cells_are_named_by_file_row_and_column(tmp_path):
    wrong = {
        "the number 5": 5, "the number 2.5": 2.5, "the number True": True, "a list": ["b"], "a mapping": {"x": "y"},
    }  # fmt: skip
    for what, cell in wrong.items():
        path = lines(tmp_path, {"query": "a", "document": "b"}, {"query": "a", "document": cell})
        sentence = refused(path)
        assert what in sentence and "row 2" in sentence and 'column "document"' in sentence and str(path) in sentence
    for what, cell in (
        ("the number 5", [5]),
        ("a list", [["c"]]),
        ("a mapping", {}),
        ("a mapping", [{}]),
        ("a list", '[["c"]]'),
    ):
        sentence = refused(lines(tmp_path, {"query": "a", "positive": "b", "negative": cell}))
        assert what in sentence and "row 1" in sentence and 'column "negative"' in sentence
    path = tmp_path / "x.parquet"
    pd.DataFrame({"query": ["a", "c"], "positive": [b"b", b"d"]}).to_parquet(path)
    assert "bytes" in refused(path) and "row 1" in refused(path)
    pd.DataFrame({"query": ["a"], "positive": pd.to_datetime(["2024-01-01"])}).to_parquet(path)
    assert 'row 1, column "positive" holds a date' in refused(path)
    pd.DataFrame({"query": ["a"], "positive": pd.to_datetime(["2024-01-01"])}).to_pickle(tmp_path / "x.pkl")
    assert "date" in refused(tmp_path / "x.pkl")


def test_numbers_where_texts_belong_in_csv(tmp_path):
    path = stored(tmp_path, "id,position,description\n,a,b\n17,a,b\n18,c,d\n")
    sentence = refused(path, querycolumn="id")
    assert "row 2" in sentence and "the number 17" in sentence and 'column "id"' in sentence


def test_absent_columns_name_the_nearest(tmp_path):
    path = lines(tmp_path, {"position": "a", "description": "b", "negative": "c"})
    assert refused(path, querycolumn="positon").endswith('(--querycolumn); did you mean "position"?')
    assert "--positivecolumn" in refused(path, positivecolumn="Descripton") and '"description"' in refused(
        path, positivecolumn="Descripton"
    )
    assert '"negative"' in refused(path, negativecolumn="negative,negativ")
    assert "valid names: position, description, negative" in refused(path, groupcolumn="zzz")


def test_unknown_columns_are_listed_with_the_flags(tmp_path):
    sentence = refused(lines(tmp_path, {"alpha": "a", "beta\nx": "b"}))
    assert '"alpha", "beta x"' in sentence and "--querycolumn" in sentence and "--positivecolumn" in sentence
    assert 'only "position"' in refused(stored(tmp_path, "position\na\nb\n"))
    assert '"c11", …' in refused(lines(tmp_path, {f"c{number}": "a" for number in range(100)}))
    assert "found: none" in refused(stored(tmp_path, "[]", "t.json"))
    assert len(refused(lines(tmp_path, {"x" * 10_000: "a", "y" * 10_000: "b"}))) < 500


def test_a_column_cannot_serve_twice(tmp_path):
    path = lines(tmp_path, {"query": "a", "positive": "b", "negative": "c"})
    assert '"query" twice' in refused(path, "query", "query")
    assert '"positive" twice' in refused(path, "query", "positive", "negative,positive")
    pd.DataFrame([["a", "b", "c"]], columns=["query", "positive", "query"]).to_pickle(tmp_path / "t.pkl")
    assert 'two columns named "query"' in refused(tmp_path / "t.pkl")


def test_files_that_are_none(tmp_path):
    assert "does not exist" in refused(tmp_path / "none.csv")
    assert "is a folder" in refused(tmp_path) and "is a folder" in refused(str(tmp_path))
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refused(tmp_path / "folder.csv")
    for path in [*(tmp_path / name for name in ("table.xls", "table", "table.gz", "table.csv.zip", ".csv")), ""]:
        assert "of a kind that is not read" in refused(path)
    assert "cannot be read" in refused(tmp_path / ("a" * 300 + ".csv"))
    assert "cannot be read" in refused(str(tmp_path / "a\0b.csv"))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf", b"\xff\xfe", b"\xef\xbb\xbf\n"])
def test_empty_files(tmp_path, kind, data):
    binary = {".pkl": "not a readable pickle", ".parquet": "not a readable Parquet file"}
    marked = not data.isspace() and data != b""
    assert (binary.get(kind, "is empty") if marked else "is empty") in refused(stored(tmp_path, data, f"table{kind}"))


def test_tables_without_usable_rows(tmp_path):
    assert "no rows" in refused(stored(tmp_path, "query,positive\n"))
    assert "no rows" in refused(save(pairs_frame().iloc[:0], tmp_path / "t.parquet"))
    assert "each of its 2 rows" in refused(stored(tmp_path, "query,positive\na,\n,b\n"))
    assert "each of its 1 rows" in refused(lines(tmp_path, {"query": "", "positive": ""}))


def test_broken_csv(tmp_path):
    assert "line 3 has 3 fields instead of 2" in refused(stored(tmp_path, "query,positive\na,b\na,b,c\nd,e\n"))
    assert "line 2 has 3 fields instead of 2" in refused(stored(tmp_path, "query,positive\na,b,c\nd,e,f\n"))
    assert "line 2: a quote opens" in refused(stored(tmp_path, 'query,positive\na,"b\nc;d\n'))
    assert read_pairs(stored(tmp_path, "query,positive\na,b\nc\nd,e\n"))[1] == Counts(rows=3, empty=1)
    assert read_pairs(stored(tmp_path, "query,positive,\na,b,\n"))[1].rows == 1


def test_broken_json(tmp_path):
    good = '{"query": "a", "positive": "b"}'
    assert "line 3 is not valid JSON" in refused(stored(tmp_path, f"{good}\n\n{good[:-4]}\n", "t.jsonl"))
    assert "line 2 is not a JSON object" in refused(stored(tmp_path, f"{good}\n5\n", "t.jsonl"))
    assert "item 2 is not a JSON object" in refused(stored(tmp_path, f"[{good}, []]", "t.json"))
    assert "not valid JSON" in refused(stored(tmp_path, f"[{good}", "t.json"))
    assert "line 2 is not valid JSON" in refused(stored(tmp_path, '{"query":\n "a}', "t.json"))
    assert "line 2 is not valid JSON" in refused(stored(tmp_path, f"{good}\n{good},\n{good}", "t.jsonl"))
    assert 'the name "query" twice' in refused(
        stored(tmp_path, '{"query": "a", "positive": "b", "query": "c"}', "t.jsonl")
    )
    assert "not valid JSON" in refused(stored(tmp_path, '{"a": ' * 100_000, "t.jsonl"))
    assert "not valid JSON" in refused(stored(tmp_path, '{"a": ' + "9" * 5000 + "}", "t.jsonl"))


def test_broken_parquet_and_gzip(tmp_path):
    whole = save(pairs_frame(), tmp_path / "t.parquet").read_bytes()
    for data in (
        whole[:-20],
        b"PAR1" + b"x" * 50 + b"PAR1",
        b"query,positive\na,b\n",
        whole[:40] + b"\0" * 40 + whole[80:],
    ):
        assert "not a readable Parquet file" in refused(stored(tmp_path, data, "t.parquet"))
    broken = tmp_path / "t.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"query": "a", "positive": "b"}')[:-6])
    assert "gzip" in refused(broken)
    broken.with_name("t.csv").write_bytes(gzip.compress(b"query,positive\na,b\n"))
    assert "archive" in refused(tmp_path / "t.csv")


def test_what_mixed_rows_are_left(tmp_path):
    rows = ['"Кассир";"касса; смены"', ";", "Повар;", '"Врач ""скорой""";приём', "слово"]
    table, counts = read_pairs(stored(tmp_path, "Название;Описание\r\n" + "\r\n".join(rows)))
    assert table["query"].tolist() == ["Кассир", 'Врач "скорой"'] and counts == Counts(rows=5, empty=3)


def test_read_table_keeps_every_column(tmp_path):
    path = save(pairs_frame(salary=[1, 2, 3]), tmp_path / "t.pkl")
    assert list(read_table(path).columns) == ["position", "description", "salary"]


def test_read_texts(tmp_path):
    assert read_texts(stored(tmp_path, "Кассир\r\n\n Повар \n".encode("cp1251"), "corpus.txt")) == [
        "Кассир",
        "",
        "Повар",
    ]
    rows = [{"title": "t", "text": "x"}, {"title": "u", "text": None}]
    assert read_texts(lines(tmp_path, *rows)) == ["x", ""]
    assert read_texts(lines(tmp_path, *rows), "title") == ["t", "u"]
    assert read_texts(stored(tmp_path, "whatever\na\nb\n")) == ["a", "b"]
    assert "--column" in refused(lines(tmp_path, {"a": "x", "b": "y"}), read=read_texts)
    assert 'did you mean "title"' in refused(lines(tmp_path, *rows), "titel", read=read_texts)
    assert "no texts" in refused(lines(tmp_path, {"text": ""}), read=read_texts)
    assert "does not exist" in refused(tmp_path / "none.txt", read=read_texts)
    assert "is empty" in refused(stored(tmp_path, "\n", "c.txt"), read=read_texts)


REPOSITORY = {
    "README.md": b"text",
    "dataset_infos.json": b"{}",
    "data/train-00000-of-00002.jsonl": b'{"query": "a", "positive": "b"}\n',
    "data/train-00001-of-00002.jsonl": b'{"anchor": "c", "positive": "d"}\n{"anchor": "", "positive": "d"}\n',
    "data/test.jsonl": b'{"query": "e", "positive": "f"}\n',
    "data/train.csv": b"query,positive\ng,h\n",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the Hub's interface that listing and downloading a data set needs."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        commit, code, headers, data = "a" * 40, 404, {}, b"{}"
        if self.path.startswith(("/api/datasets/owner/name", "/api/datasets/owner/nothing")):
            files = REPOSITORY if "name" in self.path else {"README.md": b""}
            body = {"id": "owner/name", "sha": commit, "siblings": [{"rfilename": name} for name in files]}
            code, data = 200, json.dumps(body).encode()
        elif f"/resolve/{commit}/" in self.path:
            data = REPOSITORY[self.path.split(f"/resolve/{commit}/")[1]]
            code, headers = 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def test_data_sets_on_a_hub(tmp_path):
    """In a process of its own: the client takes the Hub's address from the environment when it is imported."""
    script = (
        "import sys\nfrom hr_search.base.errors import InputError\nfrom hr_search.data import tables\n"
        "for name in sys.argv[1:]:\n    try:\n        table, counts = tables.read_pairs(name)\n"
        "        print(table['query'].tolist(), counts)\n    except InputError as error:\n        print(error)\n"
    )
    names = ("hf:owner/name", "hf:owner/nothing", "hf:owner/missing", "hf:owner", "hf:owner/name/other")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    environment = {**os.environ, **place, "PYTHONPATH": str(pathlib.Path(tables.__file__).parents[2])}
    environment.pop("HF_HUB_OFFLINE", None)
    try:
        command = [sys.executable, "-c", script, *names]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    finally:
        server.shutdown()
        server.server_close()
    assert run.returncode == 0, run.stderr
    said = run.stdout.splitlines()
    assert said[0] == "['a', 'c'] rows 3, empty 1"
    assert "has no .parquet, .jsonl" in said[1]
    assert "hf:owner/missing cannot be fetched" in said[2] and "404" in said[2]
    assert "write hf:OWNER/NAME" in said[3] and "the data set has no other; it has" in said[4]


@pytest.mark.parametrize("listens", [True, False])
def test_a_hub_out_of_reach(monkeypatch, listens):
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        said = refused("hf:owner/name")
    assert "hf:owner/name cannot be fetched" in said and "give the path of one" in said


def test_waiting_ends():
    with pytest.raises(TimeoutError):
        hub.within(0.05, threading.Event().wait)
    assert hub.within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        hub.within(5, lambda: 1 / 0)


def seeds(folder: pathlib.Path) -> dict[str, bytes]:
    """A small good file of each format."""
    frame = pairs_frame(negatives=[["a", "b"], [], ["c"]], salary=[1.5, None, 2.0])
    return {
        kind: save(frame, folder / f"seed{kind}").read_bytes() for kind in [*FORMATS, ".csv.gz", ".jsonl.gz", ".pkl.gz"]
    }


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(data=st.data())
def test_any_bytes_give_a_table_or_an_input_error(tmp_path, data):
    good = (
        seeds(tmp_path)
        if not (tmp_path / "seed.csv").exists()
        else {path.name[4:]: path.read_bytes() for path in tmp_path.glob("seed*")}
    )
    kind = data.draw(st.sampled_from(sorted(good)))
    if data.draw(st.booleans()):
        raw = data.draw(st.binary(max_size=400))
    else:
        raw = bytearray(good[kind])
        for _ in range(data.draw(st.integers(1, 5))):
            place = data.draw(st.integers(0, len(raw) - 1))
            raw[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path = tmp_path / f"fuzz{kind}"
    path.write_bytes(raw)
    try:
        table, counts = read_pairs(path)
        assert counts.rows - counts.empty == len(table) > 0
        assert all(type(text) is str and text == text.strip() != "" for text in table["query"].tolist())
    except InputError as error:
        assert "\n" not in str(error)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    rows=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=6),
    kind=st.sampled_from(FORMATS),
    sep=st.sampled_from(",;\t|"),
)
def test_any_texts_survive_any_format(tmp_path, rows, kind, sep):
    """Texts without control characters come back stripped, whatever the format and separator."""
    rows = [
        tuple("".join(c for c in text if (c.isprintable() and c.isascii()) or c in "яё😀\n") for text in row)
        for row in rows
    ]
    rows = [("x" + query, "y" + positive) for query, positive in rows]
    frame = pd.DataFrame(rows, columns=["query", "positive"])
    path = tmp_path / f"table{kind}"
    if kind in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep=sep)
    else:
        save(frame, path)
    table, _ = read_pairs(path)
    assert table[["query", "positive"]].values.tolist() == [
        [query.strip(), positive.strip()] for query, positive in rows
    ]


def test_templates_join_fields_into_queries_and_documents(tmp_path):
    path = lines(
        tmp_path,
        {"title": "Welder", "skills": ["arc", "{title}"], "grade": 3, "text": "Joins metal.", "extra": None},
        {"title": "", "skills": [], "grade": None, "text": "Nobody.", "extra": "x"},
    )
    table, counts = read_pairs(path, template="{title} ({grade}): {skills}", documenttemplate="{text} {extra}")
    assert table["query"].tolist() == ["Welder (3): arc, {title}"]
    assert table["positive"].tolist() == ["Joins metal."]
    assert counts == Counts(rows=2, empty=1)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [("{titel}", r'no column "titel" \(--template\).*title'), ("title", "names no column"), ("{}", "names no column")],
)
def test_a_template_without_its_columns_is_refused(tmp_path, template, sentence):
    path = lines(tmp_path, {"title": "a", "text": "b"})
    with pytest.raises(InputError, match=sentence):
        read_pairs(path, template=template)
