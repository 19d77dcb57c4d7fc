"""Files of CVs: each kind, the head of a plain text, and what is refused."""

from __future__ import annotations

import io
import json
import sys

import matplotlib
import matplotlib.pyplot as plt
import pytest

from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.commands.parser import main
from hr_search.cvs.documents import read_cvs
from hr_search.cvs.header import read_plain
from hr_search.cvs.names import feminine, read_name
from hr_search.data.resume_texts import resume_text
from hr_search.data.tables import read_texts

PLAIN = """РЕЗЮМЕ
ИВАНОВ ИВАН ИВАНОВИЧ
Мужчина, 34 года, родился 5 мая 1990
Дата рождения: 05.05.1990
+7 (000) 000-00-01 - можно звонить
Проживает: Тверь
Гражданство: Россия, есть разрешение на работу: Россия

Сварщик, 10 лет опыта
Желаемая должность: сварщик
Адрес: цех номер пять
Иванов варит. Почта: ivan@example.com
Иванов Иван • Резюме обновлено 5 мая 2024 в 12:00
"""
BODY = "Сварщик, 10 лет опыта\nЖелаемая должность: сварщик\nАдрес: цех номер пять\nварит. Почта: [email]"


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pdf(*lines):
    """A PDF with lines of text; a picture for none."""
    figure, file = plt.figure(figsize=(4, 4)), io.BytesIO()
    for at, line in enumerate(lines):
        figure.text(0.1, 0.9 - at / 10, line)
    if not lines:
        figure.figimage([[0.0, 1.0], [1.0, 0.0]])
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format="pdf")
    plt.close(figure)
    return file.getvalue()


def word(*lines, header=""):
    """A DOCX file with paragraphs, the last of them in a table."""
    import docx

    document, file = docx.Document(), io.BytesIO()
    for line in lines[:-1]:
        document.add_paragraph(line)
    if lines:
        row = document.add_table(rows=1, cols=2).rows[0].cells
        row[0].merge(row[1]).text = lines[-1]
    document.sections[0].header.paragraphs[0].text = header
    document.save(file)
    return file.getvalue()


# -- the head of a plain text --------------------------------------------------------------------


def test_the_head_of_a_plain_text_is_left_out_and_counted():
    resume = read_plain(PLAIN)
    assert (resume.first, resume.middle, resume.last) == ("Иван", "Иванович", "Иванов")
    text, left = resume_text(resume)
    assert text == BODY
    assert left == {"names": 2, "births": 2, "contacts": 1, "places": 2, "emails": 1}


def test_a_head_on_one_line_and_a_name_in_parts():
    one = read_plain("Jane Roe | Python developer | jane@example.com\nSkills: Python")
    assert (one.first, one.last, one.body) == ("Jane", "Roe", "Python developer\nSkills: Python")
    parts = read_plain("Фамилия: Туманов\nИмя: Глеб\nОтчество: Олегович\nСварщик")
    assert (parts.first, parts.middle, parts.last, parts.body) == ("Глеб", "Олегович", "Туманов", "Сварщик")


@pytest.mark.parametrize(
    "line",
    [
        "Software Engineer",
        "Опытный Сварщик",
        "10 лет опыта работы",
        "ООО Ромашка",
        "Анна",
        "E-mail: [EMAIL]." + " A cook without line breaks." * 9,
    ],
)
def test_a_line_in_doubt_stays(line):
    resume = read_plain(f"{line}\nНавыки: сварка")
    assert (resume.body, resume.personal, resume.first) == (f"{line}\nНавыки: сварка", (), "")


def test_names_are_read_where_little_doubt_is_left():
    assert read_name("Петров Иван") == ("Иван", "", "Петров")
    assert read_name("Emily Rose Parker") == ("Emily", "Rose", "Parker")
    assert read_name("Фёдор Кузьмич Лось") == ("Фёдор", "Кузьмич", "Лось")
    assert read_name("иван петров") is None
    assert read_name("Иван, сварщик 5 разряда") is None
    assert [feminine(name) for name in ("Петров", "Зуев", "Никитин", "Белинский", "Шевчук", "Sokolov", "Belinsky")] == [
        "Петрова", "Зуева", "Никитина", "Белинская", "Шевчук", "Sokolova", "Belinskaya",
    ]  # fmt: skip


# -- files ---------------------------------------------------------------------------------------


def test_each_kind_of_file_is_read(tmp_path):
    (tmp_path / "deep").mkdir()
    written(tmp_path / "a.txt", PLAIN)
    written(tmp_path / "b.md", "# Jane Roe\njane@example.com\n\n## Skills\nsoup")
    written(tmp_path / "deep" / "c.pdf", pdf("Иванов Иван", "ivan@example.com", "Опыт: сварка"))
    written(tmp_path / "d.docx", word("Jane Roe", "Cook", "Skills: soup", header="Jane Roe"))
    written(tmp_path / "e.csv", "id;ФИО;Должность;Навыки\n7;Ли Анна;Повар;Суп\n;Ли Ян;Юрист;Право\n")
    written(tmp_path / "f.json", json.dumps({"found": 1, "items": [{"title": "Cook", "skill_set": ["soup"]}]}))
    written(
        tmp_path / "g.jsonl",
        json.dumps({"_id": "own", "resume": {"title": "Cook", "education": "BA"}, "name": "Jo Roe"}),
    )
    written(tmp_path / "h.csv", "id,text\nx,Сварщик\n")
    written(tmp_path / ".hidden", "x")
    found, wrong = read_cvs([tmp_path])
    assert not wrong
    texts = {cv.id: resume_text(cv.resume)[0] for cv in found}
    assert texts == {
        "a.txt": BODY,
        "b.md": "## Skills\nsoup",
        "deep/c.pdf": "Опыт: сварка",
        "d.docx": "Cook\nSkills: soup",
        "7": "Повар\nСуп",
        "e.csv:2": "Юрист\nПраво",
        "f.json": "Cook\nsoup",
        "own": "Cook\nBA",
        "x": "Сварщик",
    }
    assert list(texts) == ["a.txt", "b.md", "d.docx", "deep/c.pdf", "7", "e.csv:2", "f.json", "own", "x"]


def paragraph(inner):
    return f"<w:p>{inner}</w:p>"


def run(text):
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def control(inner, properties=""):
    return f"<w:sdt><w:sdtPr>{properties}</w:sdtPr><w:sdtContent>{inner}</w:sdtContent></w:sdt>"


def cell(inner, properties=""):
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{inner}</w:tc>"


def box(text):
    """A text box as Word writes it: once for itself, once for old programs."""
    content = f"<w:txbxContent>{paragraph(run(text))}</w:txbxContent>"
    return (
        '<w:r><mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        f'<mc:Choice Requires="wps"><w:drawing>{content}</w:drawing></mc:Choice>'
        f"<mc:Fallback><w:pict>{content}</w:pict></mc:Fallback></mc:AlternateContent></w:r>"
    )


DELETED = "<w:del><w:r><w:delText>not </w:delText></w:r></w:del>"
FIRST = '<w:vMerge w:val="restart"/>'
HINT = "<w:showingPlcHdr/>"
WORD = {
    "a control among paragraphs": (control(paragraph(run("Welder"))), ["Welder"]),
    "a control in a line": (paragraph(run("Skills: ") + control(run("soup"))), ["Skills: soup"]),
    "a hint of a template": (
        control(paragraph(run("Enter text"))) + control(paragraph(run("Hint")), HINT),
        ["Enter text"],
    ),
    "tracked changes": (
        paragraph(run("I ") + DELETED + f"<w:ins>{run('weld')}</w:ins><w:moveFrom>{run('gone')}</w:moveFrom>"),
        ["I weld"],
    ),
    "smart tags and links": (
        paragraph(f"<w:smartTag>{run('Moscow')}</w:smartTag>{run(', ')}<w:hyperlink>{run('site')}</w:hyperlink>"),
        ["Moscow, site"],
    ),
    "text boxes": (paragraph(run("Cook") + box("Skills: soup")), ["Cook", "Skills: soup"]),
    "tabs and breaks": (
        paragraph(
            '<w:pPr><w:tabs><w:tab w:val="left" w:pos="9"/></w:tabs></w:pPr><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/>'
            '<w:t>c</w:t><w:br w:type="page"/><w:noBreakHyphen/></w:r>'
        ),
        ["a\tb\nc-"],
    ),
    "tables": (
        f"<w:tbl><w:tr>{cell(paragraph(run('a')), FIRST)}{control(cell(paragraph(run('b'))))}</w:tr>"
        + control(f"<w:tr>{cell(paragraph(''), '<w:vMerge/>')}{cell(control(paragraph(run('c'))))}</w:tr>")
        + "</w:tbl>",
        ["a", "b", "c"],
    ),
}


@pytest.mark.parametrize("case", WORD)
def test_all_that_word_shows_is_read(tmp_path, case):
    import docx
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    inner, expected = WORD[case]
    document = docx.Document()
    for element in parse_xml(f"<w:body {nsdecls('w')}>{inner}</w:body>"):
        document.element.body.insert_element_before(element, "w:sectPr")
    document.save(tmp_path / "cv.docx")
    (cv,), wrong = read_cvs([tmp_path / "cv.docx"])
    assert not wrong and cv.resume.body == "\n".join(expected)


BAD = {
    "picture.pdf": (lambda: pdf(), "holds no text, its pages are pictures"),
    "broken.pdf": (lambda: b"%PDF-1.7 nothing", "is not a readable PDF"),
    "broken.docx": (lambda: b"PK\x03\x04nothing", "is not a readable DOCX file"),
    "empty.docx": (lambda: word(), "holds no text outside of pictures"),
    "blank.txt": (lambda: b" \n\n", "is empty; a CV needs"),
    "head.txt": (lambda: "Иванов Иван\nivan@example.com", "has no text of a CV"),
    "old.doc": (lambda: b"\xd0\xcf\x11\xe0", "is of a kind that is not read; save it as one of .json"),
    "other.json": (lambda: '{"shoe": 43}', r"is JSON of another shape than a CV \(its keys: shoe\)"),
    "number.json": (lambda: "[43]", "item 1 is JSON of another shape than a CV; write"),
    "cut.json": (lambda: '{"title": ', "line 1 is not valid JSON"),
    "nothing.json": (lambda: '{"title": "", "skills": []}', "has no text of a CV"),
    "strange.csv": (lambda: "shoe,hat\n43,56\n", r"has no column known to hold a part of a CV \(found: shoe, hat\)"),
    "gap.csv": (lambda: "position,skills\nCook,soup\n,\n", None),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name):
    make, pattern = BAD[name]
    path = written(tmp_path / name, make())
    found, wrong = read_cvs([path])
    if name == "gap.csv":
        assert (len(found), wrong) == (
            1,
            [
                f"{path}, row 2 has no text of a CV; a CV needs a desired position, skills, experience, education or a text."
            ],
        )
        return
    assert not found
    (sentence,) = wrong
    with pytest.raises(InputError, match=pattern):
        raise InputError(sentence)
    assert sentence.startswith(str(path)) and "\n" not in sentence and sentence.endswith(".")


@pytest.mark.parametrize(("kind", "package"), [("pdf", "pypdf"), ("docx", "docx")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    (sentence,) = read_cvs([written(tmp_path / f"cv.{kind}", b"x")])[1]
    assert 'run `pip install "hr_search[cvs]"`' in sentence


def test_two_cvs_of_one_id_and_missing_places_are_refused(tmp_path):
    row = json.dumps({"id": 5, "title": "Cook", "skills": "soup"})
    with pytest.raises(InputError, match=r'line 1 and .*line 2 have one id, "5"'):
        read_cvs([written(tmp_path / "a.jsonl", f"{row}\n{row}\n")])
    with pytest.raises(InputError, match="does not exist"):
        read_cvs([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no files"):
        read_cvs([tmp_path / "empty"])


# -- the verb ------------------------------------------------------------------------------------


def test_the_verb_writes_a_corpus(tmp_path, capsys):
    out = tmp_path / "cvs.jsonl"
    assert main(["cvs", str(paths.checkout() / "data" / "sample_cvs.jsonl"), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert (
        "10 CVs" in said
        and "20 births, 20 contacts, 1 emails, 10 genders, 1 handles, 1 links, 12 names, 1 phones, 10 places" in said
    )
    texts = read_texts(out)
    assert len(texts) == 10 and texts[0].startswith("Электрогазосварщик 5 разряда\nРучная дуговая сварка, ")
    rows = [
        json.loads(line) for line in (paths.checkout() / "data" / "sample_cvs.jsonl").read_text("utf-8").splitlines()
    ]
    for row, text in zip(rows, texts, strict=True):
        parts = [row[key] for key in ("first_name", "middle_name", "last_name", "birth_date")]
        assert not any(part in text for part in [*parts, row["area"]["name"], "example.com", "000"])
    assert main(["cvs", str(out), "--out", str(tmp_path / "again.jsonl")]) == 0
    assert read_texts(tmp_path / "again.jsonl") == texts


def test_the_sample_fits_the_vacancies():
    folder = paths.checkout() / "data"
    groups = {json.loads(line)["group"] for line in (folder / "sample_ru.jsonl").read_text("utf-8").splitlines()}
    found = [json.loads(line)["group"] for line in (folder / "sample_cvs.jsonl").read_text("utf-8").splitlines()]
    assert len(set(found)) == 10 and set(found) <= groups


def test_unreadable_files_stop_the_verb_unless_skipped(tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "in" / "cvs.jsonl"
    folder.mkdir()
    written(folder / "a.txt", "Сварщик")
    written(folder / "b.pdf", pdf())
    words = ["cvs", str(folder), "--out", str(out)]
    assert main(words) == 2
    assert not out.exists() and "1 of 2 CVs cannot be read: " in capsys.readouterr().err
    assert main([*words, "--skip"]) == 1
    assert out.read_text("utf-8") == '{"id": "a.txt", "text": "Сварщик"}\n'
    said = capsys.readouterr().err
    assert "no name and no contacts were found in 1 plain texts" in said
    assert main([*words, "--skip", "--json"]) == 1  # what it wrote is no CV of the folder
    assert json.loads(capsys.readouterr().out)["cvs"] == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "--out, or --audit"),
        (["--audit"], "give --queries"),
        (["--out", "x.csv"], "must end in .jsonl"),
        (["--out", "a.jsonl", "--queries", "q.txt"], "--queries is for --audit"),
        (["--out", "a.jsonl", "--model", "embedded"], "--model is for --audit; give it, too, or leave --model out"),
        (["--out", "a.jsonl", "--column", "text"], "--column is for --audit"),
        (["--out", "a.jsonl", "--maxlength", "64"], "--maxlength is for --audit"),
        (["--out", "a.jsonl", "--precision", "fp32"], "--precision is for --audit"),
    ],
)
def test_flags_that_do_not_fit_are_refused(capsys, words, sentence):
    assert main(["cvs", "a.txt", *words]) == 2
    assert sentence in capsys.readouterr().err
