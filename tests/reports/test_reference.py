"""The page of all parameters, and the same on a terminal."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup
from helpers import loads_nothing, write_notebook

from hr_search.base.errors import InputError
from hr_search.commands import parser
from hr_search.reports import reference
from hr_search.reports.parameters import BOUNDS
from hr_search.settings import FIELDS


def cells(row) -> list[str]:
    return [" ".join(cell.get_text(" ").split()) for cell in row.find_all(["th", "td"])]


def test_the_page_has_every_setting_once_with_default_bounds_and_meaning(home):
    page = reference.write_reference()
    text = page.read_text(encoding="utf-8")
    soup = BeautifulSoup(text, "html.parser")
    assert page == home / "reports" / "parameters.html" and loads_nothing(text) == 0
    rows = {row["id"]: cells(row) for row in soup.select("tr[id]")}
    assert list(rows) == list(FIELDS)
    assert all(rows[name][4] == " ".join(field.metadata["help"].split()) for name, field in FIELDS.items())
    assert rows["margin"][:4] == ["margin", "0.3", "number", "0 to 2"]
    assert rows["loss"][:4] == ["loss", "triplet", "text", "triplet margin-ce infonce"]
    assert rows["maxrows"][1:4] == ["0", "whole number", "0 or more"]
    assert rows["seed"][3] == "0 to 2,147,483,647" and rows["learningrate"][3] == "1e-09 to 1"
    assert rows["symmetric"][1:4] == ["true", "true or false", "any"] and rows["testpath"][1] == "empty"
    headings = [tag.string for tag in soup.select("main h2")]
    assert headings[0] == "Data" and headings[-2:] == ["Output", "Notebooks"]
    names = [tag["id"] for tag in soup.find_all(id=True)]
    assert len(names) == len(set(names))
    assert {a["href"] for a in soup.select('a[href^="#"]')} <= {f"#{name}" for name in names}


def test_every_notebook_shows_its_own_parameters_and_the_settings_it_declares(home):
    soup = BeautifulSoup(reference.write_reference().read_text(encoding="utf-8"), "html.parser")
    drift = soup.find(id="notebook-03_embedding_drift").find_parent("section")
    rows = {cells(row)[0]: cells(row) for row in drift.select("tbody tr")}
    assert rows["points"][1:4] == ["500", "whole number", "10 to 5,000"] and "runid" in rows
    assert [a["href"] for a in drift.select(".settings a")] == ["#seed"]
    own = {cells(row)[0] for row in soup.select("tbody tr:not([id])")}
    assert set(BOUNDS) <= own and not own & set(FIELDS)


def test_texts_of_notebooks_stay_text_and_damaged_ones_are_named(tmp_path):
    write_notebook(tmp_path / "n.ipynb", 'name = "<b>"  # of <i>it</i>\nmany = {"a": 1}\n\nseed = 7  # of the draw')
    (found,) = reference.notebook_sections(tmp_path)
    assert [(row.name, row.default, row.help) for row in found.rows] == [
        ("name", "<b>", "of <i>it</i>"),
        ("many", '{"a": 1}', ""),
    ]
    assert found.words == "n" and found.settings == [("seed", "7")]
    write_notebook(tmp_path / "n.ipynb", "twice = 2 * three")
    with pytest.raises(InputError, match=r"n\.ipynb: the parameters cell"):
        reference.notebook_sections(tmp_path)


def test_the_same_on_a_terminal_and_nothing_is_run(home, capsys):
    assert parser.main(["report", "--help-notebook"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} = " in printed for name in FIELDS)
    assert "  margin = 0.3  (number, 0 to 2)\n      cosine margin of triplet and margin-ce\n" in printed
    assert "  loss = triplet  (text, triplet, margin-ce, infonce)" in printed
    assert "05_ablations: Which settings matter?" in printed and max(map(len, printed.splitlines()[:-1])) <= 140
    assert printed.splitlines()[-1] == str(home / "reports" / "parameters.html")
    assert [path.name for path in (home / "reports").iterdir()] == ["parameters.html"]
