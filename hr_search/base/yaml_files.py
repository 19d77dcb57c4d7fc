"""YAML files: mappings of names to values, read safely and within bounds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from hr_search.base.errors import InputError, one_line, shown

YAML_LIMIT = 1_000_000  # characters of a YAML file, and values it may stand for: aliases make billions of a few lines


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping a YAML file holds, read with the safe loader.

    Raises:
        InputError: the file is missing, is not YAML, is not a mapping of names to values or gives a name twice.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(YAML_LIMIT + 1)
        node = yaml.compose(text, yaml.SafeLoader) if len(text) <= YAML_LIMIT else None
        endless = len(text) > YAML_LIMIT or _values_of(node, {}) > YAML_LIMIT
        values = None if endless else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; recipes lie in data/recipes.") from error
    # Impossible dates and numbers of thousands of digits are plain ValueErrors, deep nesting ends the recursion.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML ({one_line(error)}).") from error
    if endless:
        raise InputError(
            f"{path} has, with its aliases written out, more than {YAML_LIMIT:,} values or characters; give a file of "
            "settings, not of data."
        )
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold lines of `name: value`.")
    # YAML itself keeps the last of two and says nothing.
    if twice := _given_twice(node, set()):
        raise InputError(f"{path} gives {shown(twice)} twice; keep one of the two.")
    return values


def _given_twice(node: yaml.Node, seen: set[int]) -> str:
    """The first name that a mapping, or one inside it, gives twice; "" for none."""
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return ""
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        counts = Counter(name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode))
        if twice := [name for name, count in counts.items() if count > 1]:
            return twice[0]
    inner = (each if isinstance(each, tuple) else (each,) for each in node.value)
    return next(filter(None, (_given_twice(each, seen) for part in inner for each in part)), "")


def _values_of(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a YAML node stands for with its aliases written out; endless where it holds itself."""
    if id(node) not in known:
        known[id(node)] = YAML_LIMIT + 1
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = (each if isinstance(each, tuple) else (each,) for each in inner)
        known[id(node)] = 1 + sum(_values_of(each, known) for pair in pairs for each in pair)
    return known[id(node)]
