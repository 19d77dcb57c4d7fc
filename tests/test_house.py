"""The order of the rooms: a room imports only from rooms that stand before it in this list."""

from __future__ import annotations

import ast
from pathlib import Path

import hr_search

HOUSE = Path(hr_search.__file__).parent
ORDER = """
base losses dimensions nearest fast models batches anchors lessons drift sources fields settings places data encoder mixing bank cvs runs history checkpoint mining release
evaluation search index export shards step reports policies grids suite train checks row_checks reranking preparation experiment bench commands __main__
"""
SHIMS = {"__init__", "condensing"}  # the public face, and an old name for cards of saved models


def test_rooms_import_one_way():
    order, wrong = ORDER.split(), []
    for path in sorted(HOUSE.rglob("*.py")):
        room = path.relative_to(HOUSE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if room not in SHIMS else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hr_search":
                whole = [node.module] if "." in node.module else [f"hr_search.{name.name}" for name in node.names]
                rooms = {name.split(".")[1] for name in whole} - {room, "__version__"}
                late = [other for other in rooms if order.index(other) >= order.index(room)]
                wrong += [f"{path.relative_to(HOUSE)}:{node.lineno} imports {other}" for other in late]
    assert not wrong, "\n".join(wrong)


def test_every_room_says_what_it_owns():
    for folder in HOUSE.iterdir():
        if folder.is_dir() and any(folder.glob("*.py")):
            words = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
            assert words and len(words.split()) >= 10, folder.name
