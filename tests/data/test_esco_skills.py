"""The bundled skills: where the description starts, and where the name ends, only if that is certain."""

from __future__ import annotations

import pytest

from hr_search.base.errors import InputError
from hr_search.data import esco, esco_skills
from hr_search.data.loading import load_all, load_data
from hr_search.settings import Settings

# Verbs are known by opening two descriptions: "manage" and "teach" are never nouns, "control" is one here.
OTHERS = [
    "manage herds run herds Manage the herds to keep them.",
    "manage flocks Manage flocks of hens.",
    "teach chess Teach it.",
    "teach draughts Teach the game.",
    "control dogs Control the dogs at the control of a gate.",
    "control cats Control of cats by their control units.",
]


def one(text: str) -> esco_skills.Skill | None:
    return esco_skills.split([text, *OTHERS])[0]


@pytest.fixture(scope="module")
def pairs():
    return esco_skills.load_skills()


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ("write songs writing songs compose tunes", "write songs"),  # the name again, as a gerund
        ("types of plastic types of plastics sorts of plastic", "types of plastic"),  # again, in the plural
        ("manage a bee farm teach bees", "manage a bee farm"),  # a verb that is never a noun
        ("manage sheep and teach dogs manage sheep", "manage sheep and teach dogs"),  # linked verbs are one name
        ("manage quality control systems manage control", ""),  # "control" may be a noun or open a name
        ("manage quality control systems teach quality control systems", "manage quality control systems"),
        ("manage quality control guard quality teach quality control", ""),  # "quality" has come twice
        ("bee keeping apiculture honey making", ""),  # no verb, no repetition
        ("manage apiculture", "manage apiculture"),  # no other name
    ],
)
def test_where_a_name_ends(names: str, name: str) -> None:
    skill = one(f"{names} Keep bees well.")
    assert skill is not None
    assert skill.name == name and skill.description == "Keep bees well."
    assert f"{skill.name} {skill.others}".strip() == names


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("use Perl scripts Manage scripts in Perl.", "Manage scripts in Perl."),  # one capital opens other descriptions
        ("Perl PONIE Practical Extraction The language Perl.", None),  # none of them does
        ("perl Manage a language. Teach it.", "Manage a language. Teach it."),
        ("perl Manage it and Teach it.", None),  # two may open the description
        ("perl e.g. scripts. Manage them.", None),  # a sentence before it
        ("perl scripts", None),
    ],
)
def test_where_a_description_starts(text: str, description: str | None) -> None:
    skill = one(text)
    assert (skill and skill.description) == description


def test_rows_and_counts_of_a_small_table(tmp_path, monkeypatch) -> None:
    texts = [
        "write songs writing songs tunes Compose melodies.",
        "draw maps drawing maps Also draw maps of sites.",
        "x",
    ]
    (tmp_path / "stand_in_of_skills" / "data").mkdir(parents=True)
    lines = [f"http://x/skill/{number},{text}" for number, text in enumerate([*texts, *OTHERS])]
    (tmp_path / "stand_in_of_skills" / "data" / "skills.csv").write_text("id,description\n" + "\n".join(lines))
    (tmp_path / "stand_in_of_skills" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(esco, "PACKAGE", "stand_in_of_skills")
    table = esco_skills.load_skills()
    rows = table[table["group"].isin(["http://x/skill/0", "http://x/skill/1"])]
    assert rows[["query", "positive", "kind"]].values.tolist() == [
        ["write songs", "Compose melodies.", "title"],
        ["writing songs tunes", "Compose melodies.", "keywords"],
        ["write songs", "writing songs tunes", "keywords"],
        ["draw maps", "Also draw maps of sites.", "keywords"],  # the description repeats the name
        ["drawing maps", "Also draw maps of sites.", "keywords"],
        ["draw maps", "drawing maps", "keywords"],
    ]
    assert table.attrs["skills"] == 9 and table.attrs["unsplit"] == 1
    assert table["negatives"].tolist() == [[]] * len(table)


def test_real_skills(pairs) -> None:
    assert pairs.attrs == {"skills": 13939, "unsplit": 646, "unnamed": 6058, "told": 630}
    titles = pairs[pairs["kind"] == "title"]
    assert len(titles) == 13939 - 646 - 6058 - 630 and titles["group"].is_unique
    assert not (titles["query"] + titles["positive"]).str.contains(r"\s\s|[\u200b\u00a0\n]", regex=True).any()
    found = dict(zip(titles["query"], titles["positive"], strict=True))
    assert found["tend laser beam welding machine"].startswith("Tend a metalworking machine designed to")
    assert found["advise customers on electronic cigarettes"].startswith("Provide customers with information")
    assert found["scale copies"].startswith("Use proportion wheels to scale the")
    assert "write Japanese" in pairs[pairs["positive"].str.startswith("writing Japanese ")]["query"].tolist()


def test_validation_and_test_rank_descriptions_and_each_once() -> None:
    settings = Settings(datapath="esco_skills", validationshare=0.05, testshare=0.1)
    data = load_data(settings)
    assert data.name == "esco_skills" and data.counts.unsplit == 646
    for part in (data.validation, data.test):
        assert part["positive"].str[0].str.isupper().all() and not part["positive"].duplicated().any()
    assert data.counts.exact_leaks == data.counts.test_leaks == 0
    assert (data.train["positive"].str[0].str.islower()).sum() > 5000  # names beside other names


def test_templates_are_for_tables_of_ones_own() -> None:
    with pytest.raises(InputError, match="esco_skills has its queries"):
        load_all(Settings(datapath="esco_skills", template="{query}"))
