"""Pairs of job names: within sources and across them, no job louder than another, what a test shares with them."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from hr_search.base.errors import InputError
from hr_search.commands import parser
from hr_search.data import esco, title_pairs


def names(*rows):
    return pd.DataFrame(rows, columns=["name", "group", "isco", "source"])


def pairs_of(table):
    return {frozenset(pair) for pair in zip(table["query"], table["positive"], strict=True)}


def write(path, rows, separator=","):
    pd.DataFrame(rows).to_csv(path, sep=separator, index=False)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """A judged folder where "Schweisser" is right for "Löter" and, spelled alike, for "schweißer"."""
    place = tmp_path / "judged"
    place.mkdir()
    (place / "queries.tsv").write_text("q1\tLöter\nq2\tschweisser\n", encoding="utf-8")
    (place / "corpus.tsv").write_text("d1\tSchweisser\nd2\tKoch\nd3\tBrenner\n", encoding="utf-8")
    (place / "qrels.tsv").write_text("q1\t0\td1\t1\nq1\t0\td3\t1\nq2\t0\td1\t1\n", encoding="utf-8")
    return str(place)


def test_names_pair_within_their_job_only_and_each_comes_once_on_a_side():
    rows = [(f"welder {at}", "u1", "7212", "en") for at in range(5)] + [
        (f"cook {at}", "u2", "5120", "en") for at in (1, 2)
    ]
    table = title_pairs.title_pairs(names(*rows))
    assert table["group"].tolist() == ["u1"] * 5 + ["u2"] and table["isco"].tolist() == ["7212"] * 5 + ["5120"]
    assert sorted(table["query"][:5]) == sorted(table["positive"][:5]) == [f"welder {at}" for at in range(5)]
    assert pairs_of(table[5:]) == {frozenset({"cook 1", "cook 2"})}


def test_each_bounds_a_source_and_across_each_two_sources():
    rows = [(f"{source} {at}", "u1", code, source) for source, code in (("en", ""), ("de", "7212")) for at in range(9)]
    table = title_pairs.title_pairs(names(*rows), each=3, across=2)
    kinds = sorted("".join(sorted({text[:2] for text in pair})) for pair in pairs_of(table))
    assert kinds == ["de"] * 3 + ["deen"] * 2 + ["en"] * 3 and set(table["isco"]) == {"7212"}
    assert len(title_pairs.title_pairs(names(*rows), each=3, across=0)) == 6


def test_equal_names_are_no_pair_and_the_draw_is_seeded():
    alike = names(("Löter", "u1", "", "de"), ("löter!", "u1", "", "de"), ("LÖTER", "u1", "", "es"))
    assert title_pairs.title_pairs(alike).empty
    many = names(*[(f"a {at}", "u1", "", "en") for at in range(50)])
    assert title_pairs.title_pairs(many).equals(title_pairs.title_pairs(many))
    assert not title_pairs.title_pairs(many).equals(title_pairs.title_pairs(many, seed=1))


def test_sources_are_known_by_their_columns(tmp_path):
    talentclef = {
        "isco_uri": "http://x/isco/C0110",
        "esco_uri": "u1",
        "jobtitle_1": "Löter/Löterin",
        "jobtitle_2": "Rot",
    }
    found = title_pairs.read_names(write(tmp_path / "de.tsv", [talentclef], "\t"))
    assert found[["name", "group", "isco"]].values.tolist() == [
        ["Löter", "u1", "0110"],
        ["Löterin", "u1", "0110"],
        ["Rot", "u1", "0110"],
    ]
    published = {"conceptUri": "u2", "iscoGroup": "2512", "preferredLabel": "coder", "altLabels": "hacker\ndev | geek"}
    found = title_pairs.read_names(write(tmp_path / "en.csv", [published | {"code": "2512.1"}]))
    assert found["name"].tolist() == ["coder", "hacker", "dev", "geek"]
    assert set(found["group"]) == {"u2"} and set(found["isco"]) == {"2512"}
    onet = [
        {"O*NET-SOC Code": "11-1011.00", "Alternate Title": "CEO (Chief Executive Officer)", "Short Title": "CEO"},
        {"O*NET-SOC Code": "51-9199.00", "Alternate Title": "Bailer", "Short Title": "n/a"},  # of "all other"
    ]
    found = title_pairs.read_names(write(tmp_path / "Alternate Titles.txt", onet, "\t"))
    assert found["name"].tolist() == ["CEO", "Chief Executive Officer"]
    assert set(found["group"]) == {"onet:11-1011.00"} and set(found["isco"]) == {"soc:11-101"}


def test_labels_without_address_find_it_by_the_bundled_title(tmp_path):
    title = esco.load_titles().iloc[0]
    rows = [
        {"code": "1.1", "isco": "2654", "label": f" {title['title']}", "alternatives": ["other", "another"]},
        {"code": "9.9.9", "isco": "1234", "label": "keeper of unicorns", "alternatives": []},
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = title_pairs.read_names(tmp_path / "labels.jsonl")
    assert found["group"].tolist() == [title["id"]] * 3 + ["esco:9.9.9"]
    assert found["name"].tolist()[1:] == ["other", "another", "keeper of unicorns"]


@pytest.mark.parametrize("name", ["Film/Fernsehen", "Import-/Exportmanager", "Lehrer/in", "/vendedora", "a/b/c", "/"])
def test_a_name_with_a_slash_that_is_not_two_forms_stays_whole(tmp_path, name):
    row = {"isco_uri": "", "esco_uri": "u1", "jobtitle_1": name, "jobtitle_2": "x"}
    assert title_pairs.read_names(write(tmp_path / "de.tsv", [row], "\t"))["name"].tolist() == [name, "x"]


def test_what_a_test_shares_is_counted_and_left_out(tmp_path, folder, capsys):
    rows = [("löter", "schweisser"), ("Koch", "Köchin"), ("Brenner", "Schweisser")]
    rows = [{"jobtitle_1": one, "jobtitle_2": other} for one, other in rows]
    rows = [
        row | {"esco_uri": "u2" if "Koch" in row["jobtitle_1"] else "u1", "isco_uri": "http://x/isco/C7212"}
        for row in rows
    ]
    source = write(tmp_path / "de.tsv", rows, "\t")
    out = tmp_path / "titles.csv"
    line = ["titles", source, "--out", str(out), "--digits", "3", "--json"]
    assert parser.main([*line, "--judged", folder]) == 0
    told = json.loads(capsys.readouterr().out)
    # Of three right pairs one is of equal names. A circle of three names holds all of their pairs.
    assert told["folders"] == [{"folder": folder, "right": 2, "as_pairs": 2, "as_names": 2, "left_out": 0}]
    assert told["pairs"] == 4 and set(pd.read_csv(out, dtype=str)["isco"]) == {"721"}
    assert parser.main([*line, "--without", folder]) == 0
    assert json.loads(capsys.readouterr().out)["folders"][0]["left_out"] == 2
    assert pairs_of(pd.read_csv(out)) == {frozenset({"Koch", "Köchin"}), frozenset({"Brenner", "schweisser"})}


def test_bad_sources_and_numbers_are_refused_and_nothing_is_written(tmp_path, folder):
    strange = write(tmp_path / "a.csv", [{"title": "a", "other": "b"}])
    out = tmp_path / "t.csv"
    with pytest.raises(InputError, match='columns "title", "other"'):
        title_pairs.write_titles(out, [strange])
    with pytest.raises(InputError, match="no column iscoGroup"):
        title_pairs.write_titles(out, [write(tmp_path / "b.csv", [{"preferredLabel": "a", "altLabels": "b"}])])
    with pytest.raises(InputError, match="each is 0"):
        title_pairs.write_titles(out, ["esco"], each=0)
    for seed in (-1, 2**31, 2**32):
        with pytest.raises(InputError, match=f"seed is {seed}; it must be between 0 and 2147483647"):
            title_pairs.write_titles(tmp_path / "out.csv", ["esco"], seed=seed)
    with pytest.raises(InputError, match="no source"):
        title_pairs.write_titles(out, [])
    with pytest.raises(InputError, match="no pairs of names are left"):  # one title each
        title_pairs.write_titles(out, ["esco"], without=[folder])
    assert not out.exists()


def test_lower_writes_the_same_pairs_in_lower_case(tmp_path):
    row = {"preferredLabel": "Welder", "altLabels": "MIG Welder\nTIG welder", "iscoGroup": "7212", "conceptUri": "u1"}
    source = write(tmp_path / "names.csv", [row])
    tables = {}
    for name, flags in (("as they are", []), ("lower", ["--lower"])):
        out = tmp_path / f"{name}.csv"
        assert parser.main(["titles", source, "--out", str(out), *flags]) == 0
        tables[name] = pd.read_csv(out)[["query", "positive"]]
    assert tables["lower"].equals(tables["as they are"].apply(lambda column: column.str.lower()))
    assert not tables["lower"].equals(tables["as they are"])
