"""Rows of .csv, .tsv and .txt files: no quote swallows a line, no header is taken for another."""

from __future__ import annotations

import csv
import io
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hr_search.base.errors import InputError
from hr_search.data import qrels
from hr_search.data.formats import read_table
from hr_search.data.separated import read_separated
from hr_search.data.tables import read_pairs, read_texts


def stored(tmp_path: Path, text: str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def cells(path: Path) -> list[list[str]]:
    return read_table(path).values.tolist()


def refused(path: Path, **named: str) -> str:
    with pytest.raises(InputError) as caught:
        read_pairs(path, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


STRAY = [
    ["cook", '"hot" soup'],
    ["driver", '"goods'],
    ["guard", 'the "gate'],
    ["baker", 'bread"'],
    ["tailor", '"coats"'],
    ["nurse", 'ward "A" and "B"'],
]


def test_in_tab_separated_files_a_quote_is_a_character(tmp_path):
    for count in range(1, len(STRAY) + 1):
        for rows in (STRAY[:count], STRAY[-count:]):
            lines = ["query\tpositive", *("\t".join(row) for row in rows)]
            for kind in (".tsv", ".csv", ".txt"):
                assert cells(stored(tmp_path, "\n".join(lines), f"t{kind}")) == rows


@pytest.mark.parametrize("rule", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("separator", ["\t", ",", ";"])
def test_what_a_csv_writer_quotes_comes_back(tmp_path, rule, separator):
    rows = [["cook", 'hot, "very"'], ["driver\nat night", "goods\tand; more"], ["guard", '"'], ["baker", "a\n\nb,c"]]
    for chosen in (rows, rows[:1], rows[1:2], rows[2:3], rows[3:]):
        with (tmp_path / "t.tsv").open("w", newline="") as file:
            csv.writer(file, delimiter=separator, quoting=rule).writerows([["query", "positive"], *chosen])
        assert cells(tmp_path / "t.tsv") == chosen


def test_backslashes_before_quotes(tmp_path):
    text = 'query,positive\nwelder,"at \\"Red line\\" near, the river"\n"\\"Chief\\" cook","C:\\\\soup"\nbaker,bread\n'
    expected = [["welder", 'at "Red line" near, the river'], ['"Chief" cook', "C:\\soup"], ["baker", "bread"]]
    assert cells(stored(tmp_path, text)) == expected
    assert cells(stored(tmp_path, 'query,positive\na,"C:\\dir\\"\n"b, c",d\n')) == [["a", "C:\\dir\\"], ["b, c", "d"]]


def test_quotes_that_swallow_lines_are_refused_with_the_line(tmp_path):
    rows = ["welder,pipes", 'cook,"soup', "driver,goods", 'baker,bread"', "guard,gate"]
    assert cells(stored(tmp_path, "\n".join(["query,positive", *rows]))) == [row.split(",") for row in rows]
    rows[0] = '"welder",pipes'
    assert "line 3: a quote opens a text that ends some lines below" in refused(
        stored(tmp_path, "\n".join(["query,positive", *rows]))
    )
    assert "line 3: a quote opens" in refused(stored(tmp_path, 'query,positive\n"a, b",c\nd,"e\nf,g,h\n'))
    assert "line 3: a quote opens" in refused(stored(tmp_path, 'query;positive\n"a; b";c\n"d" e;f\n'))


def test_texts_of_several_lines_stay_whole(tmp_path):
    text = 'Повар,"Готовить\nзавтраки, обеды"\nСварщик,"Варить трубы,\nрешётки, баки\n\nночью"\n'
    assert [len(row[1].split("\n")) for row in cells(stored(tmp_path, "query,positive\n" + text))] == [2, 4]


def test_a_few_rows_that_look_swallowed_are_told(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    good = 'a,"one\ntwo, three, four\nfive"\n' * 3
    assert len(cells(stored(tmp_path, f'query,positive\n{good}cook,"soup\nbaker,bread"\n'))) == 4
    assert "1 rows of several lines look like several rows, the first at line 11" in caplog.text


def spelled(rows: list[list[str]], separator: str = ",", rule: int = csv.QUOTE_MINIMAL) -> str:
    """What Python's CSV writer makes of a header and rows."""
    file = io.StringIO()
    csv.writer(file, delimiter=separator, quoting=rule).writerows([["query", "positive"], *rows])
    return file.getvalue()


DUTIES = "Обязанности:\n- ведение учёта;\n- сдача отчётности;"


@pytest.mark.parametrize(
    ("separator", "text"),
    [
        (";", DUTIES),
        (";", DUTIES + " "),
        (";", "Обязанности:\nучёт; сдача\nотчёты; сверка"),
        (",", "Salary from\n50,000 rub"),
        (",", "Стаж от\n3,5 лет"),
        (",", "Skills:\nC++,\nSQL,"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_prose_of_several_lines_is_not_taken_for_rows(tmp_path, caplog, separator, text, newline):
    caplog.set_level(logging.WARNING)
    text = text.replace("\n", newline)
    for rows in ([["a", text]] * 3, [["a", text], *([["b", "c"]] * 1000)], [["a", '"b"'], ["c", text]]):
        assert cells(stored(tmp_path, spelled(rows, separator))) == rows
    assert not caplog.text


def test_quotes_read_as_characters_over_texts_of_several_lines_are_told(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    assert len(cells(stored(tmp_path, spelled([["cook", "soup"], ["driver", "classes\nB,C"]])))) == 3
    assert "each line as a row, although they may hold texts of several lines (1, the first from line 3" in caplog.text
    caplog.clear()
    assert len(cells(stored(tmp_path, spelled([["driver", "classes\nB\tC"]], "\t")))) == 2
    assert "(1, the first from line 2 on)" in caplog.text


def test_a_table_that_is_refused_can_be_saved_so_that_it_is_read(tmp_path):
    rows = [["cook, baker", "soup"], ["driver", "classes\nB,C"]]
    assert "if it is one text, save the table as JSONL or with quotes around the names in the header" in refused(
        stored(tmp_path, spelled(rows))
    )
    assert cells(stored(tmp_path, spelled(rows).replace("query,positive", '"query","positive"'))) == rows


PIECES = st.sampled_from([*' ab1,;|\t"\n\r\\', ", ", ";\n", "\r\n", "да", "5", '""', "\na,b", "\na;b"])
CELLS = st.lists(PIECES, min_size=1, max_size=3).map("".join)


@given(
    st.lists(st.tuples(CELLS, CELLS).map(list), min_size=1, max_size=3),
    st.sampled_from(",;|\t"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_what_a_csv_writer_wrote_comes_back_or_is_told(rows, separator, rule):
    told = []
    log = logging.getLogger("hr_search.data.separated")
    log.addFilter(keep := lambda record: bool(told.append(record)))
    try:
        table = read_separated(spelled(rows, separator, rule), "t.csv")
    except InputError:
        return
    finally:
        log.removeFilter(keep)
    assert told or table.values.tolist() == rows


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".json"])
def test_two_columns_of_one_name(tmp_path, kind):
    if "json" in kind:
        text = '{"query": "a", "positive": "b", "positive": "c"}'
    else:
        text = "query,positive,positive\na,b,c\nd,,e\n".replace(",", "\t" if kind == ".tsv" else ",")
    assert '"positive"' in refused(stored(tmp_path, text, f"t{kind}"))


def test_two_columns_that_may_be_meant(tmp_path):
    path = stored(tmp_path, "Title,title,text\na,b,c\n")
    assert '"Title" and "title", which may both be meant; name one with --querycolumn' in refused(path)
    assert read_pairs(path, querycolumn="title")[0]["query"].tolist() == ["b"]


def test_the_line_in_which_excel_names_the_separator(tmp_path):
    for line in ("sep=;\n", '"sep=;"\r\n', "SEP=;\n"):
        assert cells(stored(tmp_path, f"{line}query;positive\na,b;c,d\n")) == [["a,b", "c,d"]]
    assert "line 4 has 3 fields" in refused(stored(tmp_path, "sep=;\nquery;positive\na;b\nc;d;e\n"))


def test_lines_above_the_header(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    text = "Отчёт по вакансиям\n\nДата: 1 мая, Москва\n{}\nПовар;Кухня, смены\nШвея;Ткани\n"
    path = stored(tmp_path, text.format("Должность;Описание"))
    assert read_pairs(path)[0]["query"].tolist() == ["Повар", "Швея"]
    assert "the header is line 4; 2 rows above it are left out" in caplog.text
    path = stored(tmp_path, text.format("Кто;Что"))
    assert read_pairs(path, "Кто", "Что")[0]["positive"].tolist() == ["Кухня, смены", "Ткани"]
    assert "--querycolumn" in refused(path) or "fields instead of" in refused(path)


def test_a_header_with_a_separator_in_a_name(tmp_path):
    sentence = refused(stored(tmp_path, "title, full,description\ncook,makes soup\nbaker,bakes bread\n"))
    assert "line 1: the header has 3 fields" in sentence and "most rows have 2" in sentence
    assert cells(stored(tmp_path, '"title, full",description\na,b\n')) == [["a", "b"]]
    assert list(read_table(stored(tmp_path, ",title,text,\n0,a,b,\n")).columns) == ["column 1", "title", "text"]


def test_tab_separated_txt_files_are_tables_where_their_header_says_so(tmp_path):
    path = stored(
        tmp_path, "O*NET-SOC Code\tTitle\tDescription\n11-1\tCook\tmakes soup\n11-2\tSmith\tbends iron\n", "o.txt"
    )
    assert read_pairs(path)[0][["query", "positive"]].values.tolist() == [
        ["Cook", "makes soup"],
        ["Smith", "bends iron"],
    ]
    assert read_texts(path) == ["makes soup", "bends iron"] and read_texts(path, "Title") == ["Cook", "Smith"]
    path = stored(tmp_path, "first\tone\nsecond\n", "o.txt")
    assert read_texts(path) == ["first\tone", "second"]


def test_carriage_returns_alone_end_lines(tmp_path):
    assert read_texts(stored(tmp_path, "soup\rbread\riron", "o.txt")) == ["soup", "bread", "iron"]
    assert read_texts(stored(tmp_path, "id\ttext\r1\tsoup\r2\tiron\r", "o.txt")) == ["soup", "iron"]
    assert cells(stored(tmp_path, 'query,positive\rcook,"a, b"\r')) == [["cook", "a, b"]]
    assert cells(stored(tmp_path, '{"query": "a", "positive": "b"}\r{"query": "c", "positive": "d"}', "o.jsonl")) == [
        ["a", "b"],
        ["c", "d"],
    ]
    folder = tmp_path / "folder"
    folder.mkdir()
    stored(folder, "id\ttext\rq0\tcook\r", "queries.tsv")
    stored(folder, "id\ttext\rd0\tsoup\rd1\tiron\r", "corpus.tsv")
    stored(folder, "q0\t0\td0\t1\rq0\t0\td1\t1\r", "qrels.tsv")
    assert qrels.read_folder(str(folder))[0]["q2d"].relevant[0].tolist() == [0, 1]


def test_a_corpus_alone_has_the_rows_it_has_in_a_folder(tmp_path):
    texts = [text for _, text in STRAY]
    corpus = stored(tmp_path, "id\ttext\n" + "".join(f"d{n}\t{text}\n" for n, text in enumerate(texts)), "corpus.tsv")
    stored(tmp_path, "id\ttext\nq0\tcook\n", "queries.tsv")
    stored(tmp_path, "q0\t0\td0\t1\n", "qrels.tsv")
    assert read_texts(corpus) == texts == qrels.read_folder(str(tmp_path))[0]["q2d"].documents


def test_a_wide_table_and_a_pipe_are_refused(tmp_path):
    names = ",".join(f"c{number}" for number in range(20_000))
    assert "has 20,000 columns" in refused(stored(tmp_path, f"{names}\n{names}\n"))
    os.mkfifo(tmp_path / "p.csv")
    assert "is a pipe or a device" in refused(tmp_path / "p.csv")
