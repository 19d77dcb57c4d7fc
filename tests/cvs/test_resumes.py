"""CVs in fields: the record of each shape, the text by the template, and what is left out of it."""

from __future__ import annotations

import json
import logging

import pandas as pd
import pytest

from hr_search.base.errors import InputError
from hr_search.data.loading import load_data
from hr_search.data.resume_texts import replaced_words, resume_text
from hr_search.data.resumes import Job, read_resume, split_name
from hr_search.data.tables import read_pairs, read_texts
from hr_search.settings import Settings

HH = {
    "id": "12",
    "title": "Сварщик",
    "first_name": "Иван",
    "middle_name": "Сергеевич",
    "last_name": "Петров",
    "birth_date": "1990-05-12",
    "age": 34,
    "gender": {"id": "male", "name": "Мужской"},
    "photo": {"small": "https://example.com/1.png"},
    "area": {"id": "1", "name": "Тверь", "url": "https://api.hh.ru/areas/1"},
    "contact": [
        {"type": {"id": "cell"}, "value": {"formatted": "+7 (000) 000-00-01", "number": "1"}, "preferred": True},
        {"type": {"id": "email"}, "value": "ivan@example.com"},
    ],
    "site": [{"type": {"id": "personal"}, "url": "https://example.com/ivan"}],
    "skill_set": ["Сварка", "Чертежи", "Сварка"],
    "skills": "<p>Я, Иван Петров, варю.</p><p>ПЕТРОВ: ivan@example.com</p>",
    "experience": [
        {
            "start": "2012-01-01",
            "end": "2015-03-01",
            "company": "Старый",
            "position": "Ученик",
            "description": "Зачищал",
        },
        {
            "start": "2015-04-01",
            "end": None,
            "company": "Новый",
            "industries": [{"id": "1", "name": "Мосты"}],
            "position": "Сварщик",
            "description": "<ul><li>варил</li><li>резал</li></ul>",
        },
    ],
    "education": {
        "level": {"id": "x", "name": "Среднее"},
        "primary": [{"name": "ПТУ", "organization": "Отделение", "result": "Сварщик", "year": 2011}],
        "additional": [{"name": "Курсы", "organization": "Центр", "result": "НАКС", "year": 2019}],
    },
    "language": [
        {"id": "rus", "name": "Русский", "level": {"id": "l1", "name": "Родной"}},
        {"id": "eng", "name": "Английский", "level": {"id": "a1", "name": "A1"}},
    ],
}
TEXT = """Сварщик
Сварка, Чертежи, Английский A1
Сварщик (Мосты): варил
резал
Ученик: Зачищал
Среднее
ПТУ, Отделение, Сварщик
Курсы, Центр, НАКС
Я, , варю.
: [email]"""
LEFT = {"names": 4, "births": 2, "genders": 1, "photos": 1, "places": 1, "contacts": 2, "links": 1, "emails": 1}

JSON_RESUME = {
    "basics": {
        "name": "Jane Roe",
        "label": "Head nurse",
        "email": "jane@example.com",
        "summary": "Jane is calm.",
        "location": {"city": "Leeds", "countryCode": "GB"},
        "profiles": [{"network": "example", "username": "jroe"}],
    },
    "work": [
        {
            "name": "A",
            "position": "Nurse",
            "description": "Clinic",
            "startDate": "2010",
            "endDate": "2014-02",
            "summary": "Wards",
        },
        {"name": "B", "position": "Head nurse", "startDate": "2014-03", "highlights": ["Led ten", "Taught"]},
    ],
    "skills": [{"name": "Care", "level": "Master", "keywords": ["injections"]}],
    "education": [{"institution": "College", "area": "Nursing", "studyType": "BSc", "endDate": "2009"}],
}


def test_a_resume_of_hh_becomes_a_text_without_the_person():
    resume = read_resume(HH)
    assert (resume.first, resume.middle, resume.last) == ("Иван", "Сергеевич", "Петров")
    text, left = resume_text(resume)
    assert text == TEXT
    assert left == LEFT


def test_identity_goes_before_the_text_and_nothing_is_changed():
    text, left = resume_text(read_resume(HH), identity=True)
    head = "Иван Сергеевич Петров\n1990-05-12\n34\nМужской\nТверь\n+7 (000) 000-00-01\nivan@example.com\nhttps://example.com/ivan\n"
    told = TEXT.replace("Я, , варю.\n: [email]", "Я, Иван Петров, варю.\nПЕТРОВ: ivan@example.com")
    assert (text, left) == (head + told, {})


def test_json_resume():
    text, left = resume_text(read_resume(JSON_RESUME))
    lines = ["Head nurse", "Care, Master, injections", "Head nurse: Led ten", "Taught", "Nurse (Clinic): Wards"]
    assert text.split("\n") == [*lines, "BSc, Nursing, College", "is calm."]
    assert left == {"names": 2, "contacts": 1, "places": 2, "links": 2}


def test_columns_in_russian_and_english():
    row = {
        "ФИО": "Петрова Анна Игоревна",
        "Желаемая должность": "Повар",
        "Ключевые навыки": "Суп",
        "Дата рождения": "1.2.1990",
    }
    row |= {"Опыт работы": "Варила", "Образование": "ПТУ", "О себе": "Анна", "Зарплата": "5"}
    resume = read_resume(row)
    assert (resume.first, resume.middle, resume.last) == ("Анна", "Игоревна", "Петрова")
    assert resume_text(resume) == ("Повар\nСуп\nВарила\nПТУ", {"names": 2, "births": 1})
    english = {"Full name": "Jane Roe", "Job title": "Cook", "Skills": "soup", "Phone": 79160000000, "Summary": None}
    assert resume_text(read_resume(english)) == ("Cook\nsoup", {"names": 1, "contacts": 1})


def test_what_is_no_cv():
    for value in ({"a": 1}, {"title": "Cook"}, {"title": "x", "skills": "y", "description": "d", "employer": {}}):
        assert read_resume(value) is None
    assert read_resume({"title": None, "skills": [], "experience": [{}]}).empty
    assert resume_text(read_resume({"experience": [], "age": 3}), identity=True) == ("", {})


def test_deep_and_long_values_end():
    deep = None
    for _ in range(3000):
        deep = {"primary": [deep], "cv": deep, "name": [deep]}
    resume = read_resume({"title": "Cook", "cv": deep, "education": deep, "skills": [deep], "contact": deep})
    assert resume_text(resume)[0] == "Cook"
    assert resume_text(read_resume({"name": "Bo " * 10**5, "about": "Bo " * 10**5}))[1] == {"names": 10**5 + 1}


@pytest.mark.parametrize(
    ("dates", "order"),
    [
        ([("2010", "2012"), ("2015-01-02", ""), ("2012-03", "2014")], "bca"),
        ([("01.2010", "02.2012"), ("03.2012", "по настоящее время"), ("05.2009", "2009-12")], "bac"),
        ([("2010", "2012"), ("some day", "2015"), ("2012", "2014")], "abc"),  # cannot be ordered
        ([("2010", "2012"), ("2010", "2012"), ("2011", "2013")], "cab"),
    ],
)
def test_jobs_stand_newest_first(dates, order):
    jobs = [{"title": name, "from": start, "to": end} for name, (start, end) in zip("abc", dates, strict=True)]
    assert read_resume({"jobs": jobs}).jobs == tuple(Job(position=name) for name in order)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Иван Петров", ("Иван", "", "Петров")),
        ("Петров Иван Сергеевич", ("Иван", "Сергеевич", "Петров")),
        ("Иван Сергеевич Петров", ("Иван", "Сергеевич", "Петров")),
        ("Иван Сергеевич", ("Иван", "Сергеевич", "")),
        ("Мамедов Эльчин Ариф оглы", ("Эльчин", "Ариф оглы", "Мамедов")),
        ("Roe, Jane Mary", ("Roe", "Jane", "Mary")),
        ("Cher", ("Cher", "", "")),
        ("", ("", "", "")),
    ],
)
def test_parts_of_a_whole_name(name, parts):
    assert split_name(name) == parts


def test_names_are_replaced_as_whole_words_outside_of_addresses():
    words = {"Анна": "X", "Ли": "Y"}
    assert replaced_words("Анна, АННА и Аннат", words) == ("X, X и Аннат", 2)
    assert replaced_words("Ли-ион, Липа, Ли. Ли", words) == ("Ли-ион, Липа, Y. Y", 2)
    for text in ("Анна@example.com", "example.com/Анна", "Анна.Ли@example.com", "анна"):
        assert replaced_words(text, words) == (text, 0)


# -- columns of tables ---------------------------------------------------------------------------


def stored(folder, rows):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["cv", "Resume", "резюме"])
@pytest.mark.parametrize("write", [dict, json.dumps])
def test_a_column_of_cvs_is_read_by_the_template(tmp_path, caplog, name, write):
    rows = [{"vacancy": "Нужен сварщик", name: write(HH)}, {"vacancy": "Ищем повара", name: "Повар, варит суп"}]
    caplog.set_level(logging.INFO)
    table, counts = read_pairs(stored(tmp_path, rows))
    assert table["positive"].tolist() == [TEXT, "Повар, варит суп"]
    assert counts.cvs == 1
    assert "1 CVs in fields became texts; left out: 2 births, 2 contacts, 1 emails, " in caplog.text
    kept, _ = read_pairs(tmp_path / "pairs.jsonl", identity=True)
    assert kept["positive"][0].startswith("Иван Сергеевич Петров\n")


def test_negatives_and_corpora_hold_cvs_too(tmp_path):
    path = stored(
        tmp_path, [{"query": "сварщик", "cv": HH, "other": [{"title": "Повар", "skills": "суп"}, "Юрист"]}] * 2
    )
    table, counts = read_pairs(path, positivecolumn="cv", negativecolumn="other")
    assert table["negatives"][0] == ["Повар\nсуп", "Юрист"]
    assert counts.cvs == 4
    assert read_texts(path, "cv") == [TEXT, TEXT]


def test_a_table_without_cvs_counts_none(tmp_path):
    path = stored(tmp_path, [{"title": "Cook", "description": "{soup}"}])
    table, counts = read_pairs(path)
    assert (table["positive"][0], counts.cvs) == ("{soup}", None)


def test_an_object_that_is_no_cv_is_refused_with_its_row(tmp_path):
    path = stored(tmp_path, [{"query": "a", "cv": HH}, {"query": "b", "cv": {"name": "Bob", "shoe": 43}}])
    with pytest.raises(InputError, match=r'row 2, column "cv" holds a mapping that is no CV \(its keys: name, shoe\)'):
        read_pairs(path, positivecolumn="cv")


def test_the_setting_reaches_the_data(tmp_path):
    rows = [
        {"query": f"job {at}", "cv": {"title": f"Job {at}", "skills": f"skill {at}", "name": f"Person{at} Roe"}}
        for at in range(20)
    ]
    path, found = str(stored(tmp_path, rows)), {}
    for identity in (False, True):
        settings = Settings(datapath=path, positivecolumn="cv", identity=identity, validationshare=0.2, testshare=0.2)
        data = load_data(settings)
        assert data.counts.cvs == 20
        found[identity] = pd.concat([data.train, data.validation, data.test])["positive"].str.contains("Roe").sum()
    assert found == {False: 0, True: 20}
