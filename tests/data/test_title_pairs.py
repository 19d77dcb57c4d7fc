"""Pairs of job names: within languages, across them by the occupation's address, no job louder than another."""

from __future__ import annotations

import pandas as pd
import pytest

from hr_search.base.errors import InputError
from hr_search.base.files import write_csv
from hr_search.data import esco, title_pairs


def names(*rows):
    return pd.DataFrame(rows, columns=["query", "positive", "group"])


ENGLISH = names(("welder", "arc welder torch operator", "u1"), ("cook", "kitchen hand", "u2"))


def test_english_titles_meet_the_foreign_names_of_their_job_only():
    table = title_pairs.title_pairs(names(("soldador", "soldadora", "u1"), ("Koch", "Köchin", "u2")), ENGLISH)
    pairs = set(zip(table["query"], table["positive"], strict=True))
    assert {("welder", "soldador"), ("welder", "soldadora"), ("cook", "Koch"), ("cook", "Köchin")} <= pairs
    assert ("welder", "Koch") not in pairs and len(table) == 4 + 2 + 2


def test_no_job_has_more_than_its_share_and_pairs_across_languages_stay():
    many = names(*[(f"soldador {at}", f"soldadora {at}", "u1") for at in range(50)])
    table = title_pairs.title_pairs(many, ENGLISH, each=3, across=2)
    assert table["group"].value_counts().to_dict() == {"u1": 3, "u2": 1}
    assert (table[table["group"] == "u1"]["query"] == "welder").sum() >= 2


def test_equal_names_are_no_pair_and_the_draw_is_seeded():
    equal = names(("Soldador", "soldador!", "u1"), ("soldador", "el soldador", "u1"))
    assert ("Soldador", "soldador!") not in set(
        title_pairs.title_pairs(equal, ENGLISH)[["query", "positive"]].itertuples(index=False, name=None)
    )
    many = names(*[(f"a {at}", f"b {at}", "u1") for at in range(50)])
    assert title_pairs.title_pairs(many, ENGLISH, 5).equals(title_pairs.title_pairs(many, ENGLISH, 5))
    assert not title_pairs.title_pairs(many, ENGLISH, 5).equals(title_pairs.title_pairs(many, ENGLISH, 5, seed=1))


def test_the_table_is_written_from_tables_and_esco(tmp_path):
    address = esco.load_names()["group"].iloc[0]
    source = pd.DataFrame({"isco_uri": ["x"], "esco_uri": [address], "jobtitle_1": ["Eins"], "jobtitle_2": ["Zwei"]})
    source.to_csv(tmp_path / "de.tsv", sep="\t", index=False)
    count = title_pairs.write_titles(tmp_path / "titles.csv", [tmp_path / "de.tsv"])
    table = pd.read_csv(tmp_path / "titles.csv")
    assert len(table) == count > 2500 and set(table[table["group"] == address]["positive"]) >= {"Eins", "Zwei"}


def test_other_columns_and_numbers_are_refused(tmp_path):
    write_csv(tmp_path / "a.csv", pd.DataFrame({"title": ["a"], "other": ["b"]}))
    with pytest.raises(InputError, match="jobtitle_1"):
        title_pairs.write_titles(tmp_path / "t.csv", [tmp_path / "a.csv"])
    with pytest.raises(InputError, match="at least"):
        title_pairs.write_titles(tmp_path / "t.csv", [], each=0)
    assert not (tmp_path / "t.csv").exists()
