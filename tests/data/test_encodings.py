"""Encodings of texts: those that are told, those that are refused, and texts misread before."""

from __future__ import annotations

import logging

import pytest

from hr_search.base.errors import InputError
from hr_search.base.files import refuse_pointer
from hr_search.commands.parser import main
from hr_search.data.blocks import read_blocks
from hr_search.data.encodings import decoded, refuse_misread
from hr_search.data.formats import read_table
from hr_search.data.tables import read_pairs, read_texts

RUSSIAN = (
    "query,positive\nСварщик,варить трубы и решётки\nПовар,готовить обеды\nВодитель-экспедитор,её грузы — «в срок»\n"
)
CAPITALS = "query,positive\nСВАРЩИК,ВАРИТЬ ТРУБЫ\nПОВАР,ГОТОВИТЬ ОБЕДЫ\nВОДИТЕЛЬ,РАЗВОЗИТЬ ГРУЗЫ\n"
LATIN = {
    "French": "query,positive\nIngénieur système,développement\nInfirmière,soins à l’hôpital, où l'on reçoit\n",
    "German": "query,positive\nVerkäufer,Beratung im Geschäft\nKöchin,führt die Küche, täglich frisch\n",
    "Spanish": "query,positive\nMédico,atención a niños\nDiseñador gráfico,señalización y diseño\n",
    "Portuguese": "query,positive\nTécnico,manutenção e instalação\nMédica,atenção às crianças\n",
    "Swedish": "query,positive\nSjuksköterska,vård på sjukhus\nLärare,undervisar i Örebro\n",
    "English": "query,positive\nbarista,We’re looking for “friendly” people – now\nwaiter,the café\n",
    "many": "query,positive\nIngénieur,Ingeniör\nKöchin,Médico\nDiseñador,Chefe de manutenção\nrésumé,naïve café\n",
}
CENTRAL = {
    "Polish": "query,positive\nKsięgowy,prowadzi księgi i rozlicza należności\nKucharz,gotuje żurek w święta, źródło\n",
    "Czech": "query,positive\nÚčetní,vede účetnictví a řeší daně\nKuchař,vaří jídla přes den\nŘidič,rozváží zboží\n",
}


def refused(data: bytes, encoding: str = "") -> str:
    with pytest.raises(InputError) as caught:
        decoded(data, "t.csv", encoding)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", [RUSSIAN, CAPITALS, RUSSIAN.lower()])
@pytest.mark.parametrize("encoding", ["cp1251", "koi8_r", "cp866", "mac_cyrillic"])
def test_cyrillic_encodings_are_told_apart(text, encoding):
    data = text.encode(encoding, "ignore")
    assert decoded(data, "t.csv") == data.decode(encoding)


@pytest.mark.parametrize("language", LATIN)
def test_western_texts_are_not_taken_for_cyrillic(language):
    assert decoded(LATIN[language].encode("cp1252"), "t.csv") == LATIN[language]
    latin = LATIN[language].encode("latin_1", "ignore")
    assert decoded(latin, "t.csv") == latin.decode("latin_1")


@pytest.mark.parametrize("encoding", ["iso8859_2", "cp1250"])
@pytest.mark.parametrize("language", CENTRAL)
def test_central_european_texts(language, encoding):
    assert decoded(CENTRAL[language].encode(encoding), "t.csv") == CENTRAL[language]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_with_and_without_a_mark(encoding):
    for text in (RUSSIAN, LATIN["French"], "query,positive\na,b\n"):
        assert decoded(text.encode(encoding), "t.csv") == text
        if encoding in ("utf-16", "utf-32"):
            for order in ("-le", "-be"):
                assert decoded(text.encode(encoding + order), "t.csv") == text
                mark = "\ufeff".encode(encoding + order)
                assert decoded(mark + text.encode(encoding + order), "t.csv") == text


def test_a_damaged_line_is_named():
    ascii_mostly = "query,positive\nbarista,We’re open\n" + "clerk,keeps files\n" * 50
    assert "line 53 breaks the UTF-8" in refused(ascii_mostly.encode() + b"waiter,we\x92re closed\n")
    assert "line 5 breaks the UTF-8" in refused(RUSSIAN.encode() + b"\xd0,x\n")
    joined = RUSSIAN.encode() + RUSSIAN.encode("cp1251")
    assert "line 6 breaks the UTF-8" in refused(joined)
    assert "breaks the UTF-8" in refused(RUSSIAN.encode("cp1251") * 5 + "Повар,кухня\n".encode())
    assert "--encoding" in refused(joined)


def test_what_cannot_be_told_is_refused_with_line_and_flag():
    sentence = refused("query,positive\nclerk,x\nDiseñador,x\n".encode("cp1252"))
    assert sentence.startswith("t.csv, line 3") and "--encoding" in sentence and '"Diseñador"' in sentence
    for text, encoding in (
        ("a,b\nΜάγειρας,μαγειρεύει φαγητό\n", "cp1253"),
        ("a,b\nMühendis,ışık ve güç sistemleri, bakım yapar\nAşçı,çorba pişirir\n", "cp1254"),
        ("a,b\n料理人,食べ物を作る\n", "shift_jis"),
        ("a,b\n요리사,음식을 만든다\n", "euc_kr"),
        ("a,b\nטבח,מבשל אוכל\n", "cp1255"),
        (LATIN["French"], "mac_roman"),
        (RUSSIAN, "iso8859_5"),
    ):
        assert "an encoding that cannot be determined" in refused(text.encode(encoding, "ignore")), encoding
    assert "an encoding that cannot be determined" in refused(bytes(range(256)) * 4)
    assert "is not text in" in refused(bytes(range(1, 32)) * 9)


def test_the_named_encoding_wins():
    data = RUSSIAN.encode("koi8_r", "ignore")
    assert decoded(data, "t.csv", "cp1251") == data.decode("cp1251")
    assert decoded(RUSSIAN.encode(), "t.csv", "latin-1") == RUSSIAN.encode().decode("latin-1")
    assert decoded("\ufeffа\0б".encode(), "t.csv", "utf-8") == "а б"
    assert "line 2 is not text in utf-8; name another --encoding" in refused(RUSSIAN.encode("cp1251"), "utf-8")
    assert "line 2 is not text in ascii" in refused(RUSSIAN.encode(), "ascii")
    assert "t.csv, line 2 is not text in idna; name another" in refused(b"a,b\n\xff..\xff", "idna")
    for name in ("utf-9", "hex", "rot13", ""):
        if name:
            assert f'--encoding "{name}" is unknown' in refused(b"a", name)
    assert "is not text in utf-16" in refused(b"\xff\xfe" + "ё,я\n".encode("utf-16-le") + b"x")


def test_blocks_in_an_encoding_that_does_not_say_where_it_fails(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b'{"a": "\xff..\xff"}\n')
    with pytest.raises(InputError, match="line 1 is not text in idna; name another --encoding"):
        list(read_blocks(tmp_path / "t.jsonl", "idna"))


def test_the_flag_reaches_every_reader(tmp_path, capsys):
    (tmp_path / "t.csv").write_bytes("query,positive\nПовар,Кухня\nШвея,Ткани\n".encode("koi8_r"))
    assert read_pairs(tmp_path / "t.csv", encoding="koi8_r")[0]["query"].tolist() == ["Повар", "Швея"]
    assert read_texts(tmp_path / "t.csv", encoding="koi8_r") == ["Кухня", "Ткани"]
    for words in (["evaluate", "--datapath"], ["search", "Повар", "--corpus"]):
        assert main([*words, str(tmp_path / "t.csv"), "--encoding", "utf-9"]) == 2
        assert "is unknown; write cp1251" in capsys.readouterr().err


def glued(count: int, rows: int, text: str) -> list[tuple[str, str]]:
    return [("Повар", text if row < count else "ordinary текст, 1С-программист, SQLщик, IТ") for row in range(rows)]


@pytest.mark.parametrize(
    "text",
    [
        "Ingйnieur",
        "Employй de bureau",
        "йtudiant",
        "Verkдufer",
        "РџРѕРІР°СЂ",
        "ÐŸÐ¾Ð²Ð°Ñ€",
        "CafÃ©",
        "Weâ€™re",
        "кухoнный",
    ],
)
def test_texts_that_were_misread_before(tmp_path, caplog, text):
    with pytest.raises(InputError, match=r"t: the text of 3 of 20 rows, the first in row 1 \(\".*--encoding"):
        refuse_misread(glued(3, 20, text), "t")
    caplog.set_level(logging.WARNING)
    refuse_misread(glued(1, 20, text), "t")
    assert "t: 1 of 20 rows, the first of them row" in caplog.text
    caplog.clear()
    refuse_misread(glued(0, 20, text), "t")
    assert not caplog.text
    path = tmp_path / "t.csv"
    path.write_text(f"query,positive\n{text},a\n{text},b\n", encoding="utf-8")
    with pytest.raises(InputError, match="read in a wrong encoding"):
        read_pairs(path)
    assert len(read_pairs(path, encoding="utf-8")[0]) == 2


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
PAGES = [
    b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>",
    b"\xef\xbb\xbf \n<html lang='ru'><head>",
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
    b"<table border=1><tr><td>x</td></tr></table>",
    "<!doctype html><p>x".encode("utf-16"),
]


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet", ".pkl", ".xlsx", ".csv.gz"])
def test_pointers_and_pages_in_place_of_a_table(tmp_path, kind):
    path = tmp_path / f"t{kind}"
    path.write_bytes(POINTER)
    for read in (read_table, refuse_pointer):
        with pytest.raises(InputError, match=r"is a pointer that Git keeps in place of a large file.*git lfs pull"):
            read(path)
    for page in PAGES:
        path.write_bytes(page)
        refuse_pointer(path)
        with pytest.raises(InputError, match="is a web page"):
            read_table(path)
    refuse_pointer(tmp_path / "none")
    refuse_pointer(tmp_path)
