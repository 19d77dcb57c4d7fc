"""Settings in every spelling, recipes, and errors worded for a person."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hr_search.base import choices, paths
from hr_search.base.choices import METRICS
from hr_search.base.errors import InputError, guarded, one_line, suggestion
from hr_search.settings import FIELDS, TYPES, Settings, canonical, checked, read_recipe, read_yaml

BOUNDED = [
    (name, side, field.metadata[side])
    for name, field in FIELDS.items()
    for side in ("low", "high")
    if field.metadata[side] is not None
]


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["learningrate", "--learningrate", "--learning_rate", "--learning-rate", "learningRate", "LEARNING_RATE", " learning-rate "],
)  # fmt: skip
def test_every_spelling_of_a_name(name):
    assert canonical(name) == "learningrate"
    assert Settings.from_mapping({name: 1e-3}).learningrate == 1e-3


def test_every_setting_is_found_under_its_own_name():
    for name, field in FIELDS.items():
        assert canonical(name) == name and name == name.lower() and name.isalpha()
        assert field.metadata["help"] and TYPES[name] in (int, float, bool, str)
        assert checked(name, field.default) == field.default


@pytest.mark.parametrize(
    ("name", "hint"), [("marign", 'did you mean "margin"?'), ("zzz", "valid names: datapath"), ("", "valid names")]
)
def test_an_unknown_name_is_refused_with_a_hint(name, hint):
    with pytest.raises(InputError) as caught:
        Settings.from_mapping({name: 1}, "recipe.yaml")
    assert f'recipe.yaml has no setting "{name}"' in str(caught.value) and hint in str(caught.value)


def test_one_setting_in_two_spellings_is_refused():
    with pytest.raises(InputError, match="gives batchsize twice"):
        Settings.from_mapping({"batch_size": 8, "batchsize": 8}, "recipe.yaml")


def test_names_that_are_no_texts_are_refused():
    with pytest.raises(InputError, match='no setting "3"'):
        Settings.from_mapping({3: 1})


# -- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "side", "bound"), BOUNDED)
def test_bounds_belong_to_the_range_and_nothing_beyond_does(name, side, bound):
    assert getattr(Settings(**{name: bound}), name) == bound
    outward = -1 if side == "low" else 1
    beyond = int(bound) + outward if TYPES[name] is int else math.nextafter(bound, outward * math.inf)
    with pytest.raises(InputError, match=f"{name} is .*; it must be (at least|between)"):
        Settings(**{name: beyond})


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("learningrate", "1e-5", 1e-5), ("learningrate", " 0.5 ", 0.5), ("margin", 1, 1.0), ("margin", "0", 0.0),
        ("batchsize", "16", 16), ("batchsize", "16.0", 16), ("batchsize", 16.0, 16), ("maxsteps", "1e3", 1000),
        ("allowleaks", "true", True), ("allowleaks", "YES", True), ("allowleaks", "1", True), ("allowleaks", True, True),
        ("allowleaks", "False", False), ("allowleaks", " no ", False), ("allowleaks", "0", False),
        ("datapath", Path("data") / "a.csv", "data/a.csv"), ("datapath", "", ""), ("projectname", "2026", "2026"),
        ("loss", "margin-ce", "margin-ce"),
    ],
)  # fmt: skip
def test_texts_of_a_command_line_become_the_settings_type(name, given, expected):
    value = getattr(Settings(**{name: given}), name)
    assert value == expected and type(value) is TYPES[name]


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("batchsize", "16.5", "a whole number"), ("batchsize", 2.5, "a whole number"), ("batchsize", True, "a whole number"),
        ("batchsize", None, "a whole number"), ("batchsize", [16], "a whole number"), ("maxrows", 10**400, "a whole number"),
        ("batchsize", "many", "a whole number"), ("batchsize", math.inf, "a whole number"),
        ("margin", math.nan, "a number"), ("margin", "nan", "a number"), ("margin", "inf", "a number"),
        ("margin", False, "a number"), ("margin", "", "a number"), ("clip", -math.inf, "a number"), ("clip", 10**400, "a number"),
        ("allowleaks", "maybe", "true or false"), ("allowleaks", 1, "true or false"), ("allowleaks", None, "true or false"),
        ("projectname", 2026, "a text"), ("projectname", True, "a text"), ("projectname", None, "a text"),
        ("testpath", ["a", "b"], "a text"),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_refused(name, value, wanted):
    with pytest.raises(InputError) as caught:
        Settings.from_mapping({name: value}, "recipe.yaml")
    assert str(caught.value).startswith(f"recipe.yaml: {name} is ") and f"must be {wanted}." in str(caught.value)


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.metadata["choices"]])
def test_choices(name):
    choices = FIELDS[name].metadata["choices"]
    for choice in choices:
        assert getattr(Settings(**{name: choice}), name) == choice
    with pytest.raises(InputError, match=f'{name} is .*did you mean "{choices[0]}"'):
        Settings(**{name: choices[0].upper() + "x"})


def test_goals_are_the_metrics():
    assert choices.METRICS == METRICS


def test_settings_are_frozen_checked_copies():
    settings = Settings(margin=0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.margin = 3
    assert settings.replace(batchsize="8") == Settings(margin=0.1, batchsize=8)
    with pytest.raises(InputError, match="margin is 3; it must be between 0 and 2"):
        settings.replace(margin=3)


def test_settings_survive_json():
    settings = Settings(projectname="Проект", seed=2**31 - 1, learningrate=1e-9, resume=True)
    again = json.loads(json.dumps(settings.to_dict()))
    assert Settings.from_mapping(again) == settings and list(again) == list(FIELDS)


SPELLINGS = st.sampled_from(list(FIELDS)).flatmap(
    lambda name: st.sampled_from([name, f"--{name}", name.upper(), f"{name[:2]}_{name[2:]}", f"{name[:3]}-{name[3:]}"])
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates()
    | st.sampled_from(["1", "0.5", "true", "batch", "none", "1e999", "-0", "٣"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)  # fmt: skip


@given(st.dictionaries(SPELLINGS | st.text() | st.none() | st.integers(), VALUES, max_size=4))
@example({"maxrows": 10**400})
@example({"margin": -0.0})
@settings(deadline=None, derandomize=True)
def test_any_mapping_gives_settings_or_an_input_error(values):
    try:
        settings = Settings.from_mapping(values)
    except InputError as error:
        assert str(error)
        return
    assert Settings.from_mapping(settings.to_dict()) == settings
    assert all(type(value) is TYPES[name] for name, value in settings.to_dict().items())
    json.dumps(settings.to_dict(), allow_nan=False)


# -- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(paths.recipes().glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_come_along_are_whole(path):
    settings = read_recipe(path)
    assert settings.projectname == path.stem and settings.maxlength >= 32


def test_a_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "# real runs\ndatapath: данные.csv\nlearning-rate: 2e-5\nmaxLength: 64\nallow_leaks: yes\n", "utf-8"
    )
    expected = Settings(datapath="данные.csv", learningrate=2e-5, maxlength=64, allowleaks=True)
    assert read_recipe(path) == read_recipe(str(path)) == expected


def test_merged_defaults_of_yaml_are_no_repetition(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("<<: {margin: 0.1, epochs: 2}\nmargin: 0.2\n")
    assert read_recipe(path) == Settings(margin=0.2, epochs=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold lines of `name: value`"),
        (b"- margin\n- 0.3\n", "must hold lines of `name: value`"),
        (b"just words", "must hold lines of `name: value`"),
        (b"margin: [0.3", "cannot be read as YAML"),
        (b"margin: 0.3\n\tepochs: 1\n", "cannot be read as YAML"),
        (b"margin: \xff\xfe", "cannot be read as YAML"),
        (b"a: 1\n---\nb: 2\n", "cannot be read as YAML"),
        (b"[a]: 1\n", "cannot be read as YAML"),
        (b"x: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
        (b"projectname: 2026-13-45\n", "cannot be read as YAML"),
        (b"seed: " + b"1" * 5000, "cannot be read as YAML"),
        (b"seed: " + b"[" * 800 + b"]" * 800, "cannot be read as YAML"),
        (b"margin: 0.1\nepochs: 2\nmargin: 0.2\n", "gives margin twice"),
        (b"margin: 0.1\nMargin: 0.2\n", "gives margin twice"),
        (b"margin: wide\n", "margin is 'wide'; it must be a number"),
        (b"epoch: 3\n", 'has no setting "epoch"; did you mean "epochs"?'),
    ],
)  # fmt: skip
def test_recipes_that_are_refused(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("place", "message"), [("missing.yaml", "does not exist"), (".", "cannot be read"), ("\0", "cannot be read")])  # fmt: skip
def test_places_without_a_recipe(tmp_path, place, message):
    with pytest.raises(InputError, match=message):
        read_yaml(tmp_path / place)


# -- errors --------------------------------------------------------------------------------------


def test_nearest_name():
    assert suggestion("Triplets", ["infonce", "Triplet"]) == 'did you mean "Triplet"?'
    assert suggestion("xyz", ["infonce", "triplet"]) == "valid names: infonce, triplet"
    assert suggestion("x", iter([])) == "valid names: "


def test_errors_on_one_line():
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("x" * 300)) == "x" * 300
    assert one_line(ValueError("x" * 301)) == "x" * 299 + "…"
    assert one_line(ValueError("abcdef"), 3) == "ab…"


def failing(error):
    def command():
        raise error

    return command


def test_exit_codes(capsys):
    assert guarded(lambda: None) == 0 and guarded(lambda: 0) == 0 and guarded(lambda: 7) == 7
    assert capsys.readouterr().err == ""
    assert guarded(failing(InputError("row 3 is empty; fill it."))) == 2
    assert capsys.readouterr() == ("", "hr_search: row 3 is empty; fill it.\n")
    assert guarded(failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "hr_search: interrupted\n"
    with pytest.raises(ZeroDivisionError):
        guarded(failing(ZeroDivisionError()))


def test_names_agree_with_the_modules_that_know_them():
    assert choices.MIXINGS == choices.MIXINGS
    assert choices.HARDNESS == choices.HARDNESS
    assert choices.SAMPLINGS == choices.SAMPLINGS
