"""Random bytes, damaged files, settings and command lines: a valid result or an InputError, never anything else.

`HYPOTHESIS_PROFILE=nightly` tries 2,000 examples of each instead of 200.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hr_search import settings as config
from hr_search.base.errors import InputError, escaped, one_line, plain, quoted, shown
from hr_search.base.yaml_files import read_yaml
from hr_search.commands import parser
from hr_search.commands.flags import plain_flag
from hr_search.data import tables
from hr_search.grids import grid_file
from hr_search.runs import folders
from hr_search.settings import FIELDS, TYPES, Settings
from hr_search.suite import suite_file

EXAMPLES = {"ci": 200, "nightly": 2000}
profile = settings(
    max_examples=EXAMPLES[os.environ.get("HYPOTHESIS_PROFILE", "ci")],
    deadline=None,
    derandomize=os.environ.get("HYPOTHESIS_PROFILE", "ci") == "ci",
    suppress_health_check=list(HealthCheck),
)

ROWS = [
    {"query": 'Повар "су-шеф"', "positive": "Готовить | подавать\tна; стол", "negatives": ["a", "b"], "salary": 1.5},
    {"query": "welder", "positive": "joins, metal\nparts", "negatives": [], "salary": None},
    {"query": "", "positive": "nobody", "negatives": ["['x']"], "salary": 2.0},
]


def valid_files() -> dict[str, bytes]:
    """A small good file of each kind that is read."""
    frame, packed = pd.DataFrame(ROWS), io.BytesIO()
    frame.to_parquet(packed)
    found = {
        ".csv": frame.to_csv(index=False).encode(), ".tsv": frame.to_csv(index=False, sep="\t").encode("utf-16"),
        ".jsonl": "\n".join(map(json.dumps, ROWS)).encode(), ".json": json.dumps(ROWS, ensure_ascii=False).encode(),
        ".pkl": pickle.dumps(frame.astype(object), 4), ".parquet": packed.getvalue(),
        ".txt": "сварщик\nповар\n".encode("cp1251"),
    }  # fmt: skip
    return found | {f"{kind}.gz": gzip.compress(found[kind]) for kind in (".csv", ".jsonl", ".pkl")}


VALID = valid_files()
PIECES = st.sampled_from([b"", b"\0", b"\n", b"\r", b'"', b"'", b",", b";", b"\t", b"{", b"}", b"[", b"]", b"\\", b"\xff",
                          b"\xef\xbb\xbf", b"\xff\xfe", b"NaN", b"null", b"1e999", b"\\ud800", b"\x1b[2J", b"=cmd|"])  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """A file with some bytes replaced, dropped, doubled or cut off."""
    data = bytearray(raw)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        stop = min(len(data), start + draw(st.integers(0, 12)))
        match draw(st.sampled_from(["replace", "double", "cut", "move"])):
            case "replace":
                data[start:stop] = draw(PIECES | st.binary(max_size=8))
            case "double":
                data[start:start] = data[start:stop] * draw(st.integers(1, 40))
            case "cut":
                del data[start : start + draw(st.integers(0, len(data)))]
            case "move":
                data.extend(data[start:stop])
    return bytes(data)


def checked(read, *arguments, **named):
    """What `read` gives, or None where it refuses in one plain sentence."""
    try:
        return read(*arguments, **named)
    except InputError as error:
        assert str(error) and "\n" not in str(error)
        return None


@profile
@given(data=st.data(), kind=st.sampled_from(sorted(VALID)))
def test_any_file_is_a_table_or_refused(tmp_path_factory, data, kind):
    path = tmp_path_factory.getbasetemp() / f"fuzz{kind}"
    packed = kind.endswith(".gz") and data.draw(st.booleans())  # else the damage is in the packing itself
    raw = gzip.decompress(VALID[kind]) if packed else VALID[kind]
    raw = data.draw(st.one_of(st.binary(max_size=300), damaged(raw)))
    path.write_bytes(gzip.compress(raw) if packed else raw)
    if kind != ".txt":
        columns = {name: data.draw(st.sampled_from(["", "query", "positive", "salary", "x"])) for name in
                   ("querycolumn", "positivecolumn", "negativecolumn", "groupcolumn")}  # fmt: skip
        found = checked(tables.read_pairs, path, **columns)
        if found is not None:
            table, counts = found
            assert counts.rows - counts.empty == len(table) > 0
            texts = [*table["query"], *table["positive"], *(text for row in table["negatives"] for text in row)]
            assert all(type(text) is str and text == text.strip() != "" and "\0" not in text for text in texts)
            "".join(texts).encode("utf-8")  # no half characters
    texts = checked(tables.read_texts, path)
    assert texts is None or (any(texts) and all(type(text) is str for text in texts))


VALUES = st.recursive(
    st.none() | st.integers(3600, 4000).map(lambda size: 16**size) | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates()
    | st.sampled_from([10**400, "1" * 5000, "1e999", "nan", "-0", "٣", "true", "batch", "\0", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
NAMES = st.sampled_from(list(FIELDS)).flatmap(
    lambda name: st.sampled_from([name, name.upper(), f"--{name}", f"{name[:3]}_{name[3:]}", f"{name[:-1]}"])
) | st.text(max_size=8)


@profile
@given(values=st.dictionaries(NAMES | st.none() | st.integers(), VALUES, max_size=5))
def test_any_mapping_is_settings_or_refused(values):
    found = checked(Settings.from_mapping, values, "recipe.yaml")
    if found is not None:
        assert Settings.from_mapping(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
        assert all(type(value) is TYPES[name] for name, value in found.to_dict().items())


@profile
@given(name=NAMES)
def test_any_name_is_a_setting_or_refused(name):
    assert checked(config.canonical, name) in (*FIELDS, None)
    runid = checked(folders.checked_run_id, name)
    assert runid is None or (Path("/r") / runid).resolve().parent == Path("/r")
    fresh = folders.new_run_id(name)
    assert folders.checked_run_id(fresh) == fresh


YAML = st.text(alphabet="abc:-[]{}&*<>!|#'\"\n\t 0x1e.~?,%@`\\", max_size=60) | st.recursive(
    st.sampled_from([*FIELDS, "product", "list", "random", "seeds", "base", "name", 1, 0.5, None, True, [], {}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FIELDS, "product", "list", "random",
                  "seeds", "base", "name", "tasks", "data", "get", "cvs", "count", "settings", "low", "high", "log"]), inner, max_size=3),
    max_leaves=8,
).map(lambda value: yaml.safe_dump(value))  # fmt: skip


@profile
@given(text=YAML | st.binary(max_size=60))
def test_any_yaml_is_a_recipe_and_a_grid_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    values = checked(read_yaml, path)
    assert values is None or isinstance(values, dict)
    assert isinstance(checked(config.read_recipe, path), Settings | None)
    cells = checked(grid_file.read_grid, path)
    assert cells is None or (cells.cells and len({cell.runid for cell in cells.cells}) == len(cells.cells))
    suite = checked(suite_file.read_suite, path)
    assert suite is None or suite.tasks


WORDS = st.sampled_from(
    ["train", "evaluate", "search", "compare", "grid", "suite", "benchmark", "report", "-p", "--recipe", "--runid", "--", "-", "x=1",
     "points=1", "--top", "--json", "--corpus", "--split", "--workers", *(f"--{name}" for name in FIELDS)]
) | st.text(max_size=8)  # fmt: skip


@profile
@given(words=st.lists(WORDS, max_size=6))
def test_any_command_line_is_understood_or_refused(words):
    words = [plain_flag(word) for word in words]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            arguments = checked(parser.build_parser().parse_args, words)
        except SystemExit as stopped:  # some way to ask for help
            assert stopped.code == 0
            return
    assert arguments is None or callable(arguments.run)


@profile
@given(text=st.text(alphabet=st.characters(), max_size=200), value=VALUES)
def test_any_text_becomes_plain(text, value):
    for line in (plain(text), one_line(ValueError(text)), shown(text), quoted(value), quoted(text), escaped(text)):
        assert line == plain(line)
        line.encode("utf-8")
    assert plain(plain(text)) == plain(text) and len(plain(text)) == len(text)


@pytest.mark.parametrize("kind", sorted(set(VALID) - {".txt"}))
def test_every_kind_of_file_gives_the_same_pairs(tmp_path, kind):
    path = tmp_path / f"good{kind}"
    path.write_bytes(VALID[kind])
    table, counts = tables.read_pairs(path)
    assert table["query"].tolist() == ['Повар "су-шеф"', "welder"] and (counts.rows, counts.empty) == (3, 1)
    assert [text.split() for text in table["positive"]] == [text["positive"].split() for text in ROWS[:2]]
    assert table["negatives"].map(list).tolist() == [["a", "b"], []]
