"""Tables in JSON and Excel files: every shape that is read, and the sentences about others."""

from __future__ import annotations

import builtins
import json
import logging
from pathlib import Path

import pandas as pd
import pytest

from hr_search.base.errors import InputError
from hr_search.data import unpacking
from hr_search.data.blocks import read_blocks
from hr_search.data.cleaning import Unread
from hr_search.data.formats import read_table
from hr_search.data.tables import read_pairs

ROWS = [{"title": "Cook", "description": "makes soup"}, {"title": "Smith", "description": "bends iron"}]


def stored(tmp_path: Path, value: object, name: str = "t.json") -> Path:
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def refused(path: Path, **named: str) -> str:
    with pytest.raises(InputError) as caught:
        read_pairs(path, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SHAPES = {
    "list": ROWS,
    "pretty list": json.dumps(ROWS, indent=2),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "pretty objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "lists": {"title": ["Cook", "Smith"], "description": ["makes soup", "bends iron"]},
    "answer": {"items": ROWS, "found": 2, "pages": 1, "errors": []},
    "deep answer": {"status": "ok", "response": {"numFound": 2, "docs": ROWS}, "header": {"time": 1}},
    **{
        orient: pd.DataFrame(ROWS).to_json(orient=orient)
        for orient in ("columns", "index", "split", "records", "table")
    },
    "by id": {"v1": ROWS[0], "v2": ROWS[1]},
}


@pytest.mark.parametrize("kind", [".json", ".jsonl"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(tmp_path, shape, kind):
    table, counts = read_pairs(stored(tmp_path, SHAPES[shape], f"t{kind}"))
    assert table["query"].tolist() == ["Cook", "Smith"] and table["positive"].tolist() == ["makes soup", "bends iron"]
    assert counts.rows == 2


def test_one_object_is_one_row_whatever_it_holds(tmp_path):
    vacancy = {**ROWS[0], "key_skills": [{"name": "knife"}], "area": {"id": "1"}, "tags": ["a"], "salary": None}
    for text in (json.dumps(vacancy), json.dumps(vacancy, indent=1)):
        assert read_pairs(stored(tmp_path, text))[0]["query"].tolist() == ["Cook"]
    own = {"what": "Cook", "does": "soup", "parts": [{"title": "x", "description": "y"}]}
    assert read_pairs(stored(tmp_path, own), "what", "does")[0]["positive"].tolist() == ["soup"]


def test_shapes_that_are_no_table(tmp_path):
    two = {"vacancies": ROWS, "resumes": ROWS}
    assert '"vacancies" and "resumes"' in refused(stored(tmp_path, two))
    assert "different lengths" in refused(stored(tmp_path, {"title": ["a"], "description": []}))
    assert "item 1 is not a JSON object" in refused(stored(tmp_path, [["a", "b"]]))
    assert "found" in refused(stored(tmp_path, {"error": "not found", "code": 404}))
    twice = {"columns": ["title", "title"], "data": [["a", "b"]]}
    assert "do not fit" in refused(stored(tmp_path, twice))
    for columns in (2, None, "title"):
        sentence = refused(stored(tmp_path, {"columns": columns, "data": [["a", "b"]]}))
        assert '"columns" beside "data" is no list of names; write one object per line' in sentence


def test_rows_with_several_positives_make_a_pair_each(tmp_path):
    rows = [
        {"query": "cook", "pos": ["soup", "bread"], "neg": ["iron", "coats"]},
        {"query": "smith", "pos": ["iron"], "neg": []},
        {"query": "nobody", "pos": [], "neg": ["x"]},
    ]
    table, counts = read_pairs(stored(tmp_path, "\n".join(map(json.dumps, rows)), "t.jsonl"))
    assert table[["query", "positive"]].values.tolist() == [["cook", "soup"], ["cook", "bread"], ["smith", "iron"]]
    assert table["negatives"].tolist() == [["iron", "coats"], ["iron", "coats"], []]
    assert (counts.rows, counts.empty) == (4, 1)
    written = "query,positives\ncook,\"['soup', 'bread']\"\nsmith,\"['iron']\"\n"
    assert read_pairs(stored(tmp_path, written, "t.csv"))[0]["positive"].tolist() == ["soup", "bread", "iron"]
    plain = {"query": "a", "positive": "[b] c"}
    assert read_pairs(stored(tmp_path, plain))[0]["positive"].tolist() == ["[b] c"]


def test_too_many_columns_or_cells(tmp_path, monkeypatch):
    assert "has 10,001 columns" in refused(stored(tmp_path, {f"c{number}": "x" for number in range(10_001)}))
    monkeypatch.setattr(unpacking, "LIMIT", 100_000)
    sparse = "\n".join(json.dumps({"query": "a", "positive": "b", f"c{number}": 1}) for number in range(500))
    path = stored(tmp_path, sparse, "t.jsonl")
    assert "unpacks to more than 100,000 bytes" in refused(path)
    assert len(read_pairs(path, trustfile=True)[0]) == 500


def test_parquet_is_limited_in_bytes_of_memory(tmp_path, monkeypatch):
    texts = ["makes soup and bread. " * 200, "bends iron. " * 300]
    table = pd.DataFrame({"query": ["a", "b"] * 3000, "positive": texts * 3000})
    table.to_parquet(tmp_path / "t.parquet")
    assert len(read_table(tmp_path / "t.parquet")) == 6000
    monkeypatch.setattr(unpacking, "LIMIT", 5_000_000)
    assert "unpacks to more than 5,000,000 bytes" in refused(tmp_path / "t.parquet")
    assert len(read_pairs(tmp_path / "t.parquet", trustfile=True)[0]) == 6000


def test_dates_that_python_has_not_are_not_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    cells = {
        "sentinel": pa.array([2**61, None], pa.timestamp("us")),
        "day": pa.array([10**7, None], pa.date32()),
        "time": pa.array([2**62, None], pa.duration("s")),
        "zone": pa.array([1, None], pa.timestamp("us", "Mars/Base")),
    }
    texts = {"query": ["cook", "smith"], "positive": ["soup", "iron"]}
    pa.parquet.write_table(pa.table({**texts, **cells}), tmp_path / "t.parquet")
    (block,) = read_blocks(tmp_path / "t.parquet")
    for table in (read_table(tmp_path / "t.parquet"), block):
        assert all(table[name].tolist() == [Unread("date"), None] for name in cells)
    assert len(read_pairs(tmp_path / "t.parquet")[0]) == 2
    assert 'row 1, column "day" holds a date' in refused(tmp_path / "t.parquet", positivecolumn="day")


def book(path: Path, sheets: dict[str, list[list[object]]]) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    made = openpyxl.Workbook()
    made.remove(made.active)
    for title, rows in sheets.items():
        sheet = made.create_sheet(title)
        for row in rows:
            sheet.append(row)
    made.save(path)
    return path


HEADER, BODY = (
    ["title", "description", "since"],
    [["Cook", "makes soup", pd.Timestamp("2024-01-01")], ["Smith", "bends iron", 5]],
)


def test_excel(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    path = book(tmp_path / "t.xlsx", {"Notes": [["read me"]], "Data": [["Report"], [], HEADER, *BODY, [None, None]]})
    table, counts = read_pairs(path)
    assert table["query"].tolist() == ["Cook", "Smith"] and counts.rows == 2
    assert "1 rows above the header" in caplog.text
    assert 'row 1, column "since" holds a value of type' in refused(
        path, positivecolumn="since"
    ) or "datetime" in refused(path, positivecolumn="since")
    with pytest.raises(InputError, match="is an archive"):
        read_table(path.rename(tmp_path / "t.csv"))


def test_escapes_of_excel_become_the_characters_they_stand_for(tmp_path):
    rows = [
        ["ti_x000D_tle", "description"],
        ["Cook", "soup_x000D_\nbread"],
        ["Smith", "_x005F_x000D_"],
        ["x", "_x000D_\n"],
    ]
    table = read_table(book(tmp_path / "t.xlsx", {"A": rows}))
    assert list(table.columns) == ["ti\rtle", "description"]
    assert table["description"].tolist() == ["soup\r\nbread", "_x000D_", None]


def test_one_cell_far_to_the_right_counts_for_every_row(tmp_path, monkeypatch):
    rows = [["title", "description"], *([["Cook", "soup"]] * 300), ["Smith", "iron", *[None] * 300, "x"]]
    path = book(tmp_path / "t.xlsx", {"A": rows})
    assert read_table(path).shape == (301, 303)
    monkeypatch.setattr(unpacking, "LIMIT", 400_000)
    assert "unpacks to more than 400,000 bytes" in refused(path)
    assert len(read_pairs(path, trustfile=True)[0]) == 301


def test_excel_files_that_are_refused(tmp_path, monkeypatch):
    path = book(tmp_path / "t.xlsx", {"A": [HEADER, *BODY], "B": [HEADER, *BODY]})
    assert '"A", "B"' in refused(path) and "save the sheet with the table as CSV UTF-8" in refused(path)
    assert "no filled cells" in refused(book(tmp_path / "e.xlsx", {"A": []}))
    assert 'two columns named "title"' in refused(
        book(tmp_path / "d.xlsx", {"A": [["title", "title", "text"], ["a", "b", "c"]]})
    )
    (tmp_path / "x.xlsx").write_bytes(path.read_bytes()[:-200])
    assert "not a readable Excel file" in refused(tmp_path / "x.xlsx")
    (tmp_path / "x.csv").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 100)
    assert "save the sheet as CSV UTF-8" in refused(tmp_path / "x.csv")
    assert "save the sheet as CSV UTF-8" in refused(tmp_path / "x.xls")
    monkeypatch.setattr(unpacking, "LIMIT", 1000)
    assert "unpacks to more than 1,000 bytes" in refused(path)
    real = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name == "openpyxl":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert 'pip install "hr_search[excel]"' in refused(path) and "CSV UTF-8" in refused(path)
