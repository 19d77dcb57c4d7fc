"""Tokenizers that may never end, tried in a process of their own before they are used here.

A `tokenizer.json` is a small program: replacements that make a text a million times as long, regular expressions
that try every way to split it. The library that runs it cannot be interrupted, and what it panics with it also
prints. Ordinary tokenizers are recognised by their rules and not tried.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from hr_search.base.errors import InputError
from hr_search.base.files import read_json

_PATIENCE = 30.0  # seconds for the process, its start included
_MEMORY = 2 << 30  # bytes it may have
_GROWTH = 16.0  # times longer than a text what replacements make of it, by their own lengths
_SPECIAL = 64  # tokens that are put around a text
_NESTED = re.compile(r"[+*}?|][^()]*\)[+*{]|\\[1-9]")  # a repetition of repetitions or choices, a back reference

_TRIAL = """
import sys, json
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
except (ImportError, ValueError, OSError):
    pass
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
tokenizer.no_truncation()
tokenizer.no_padding()
for text in json.loads(sys.argv[3]):
    if tokenizer.normalizer and len(tokenizer.normalizer.normalize_str(text)) > 64 * len(text):
        sys.exit(3)
    if len(tokenizer.encode(text).ids) > 64 * len(text):
        sys.exit(3)
"""
_LETTERS = "aeAzя 0-._\n"
_TEXTS = [
    *(letter * 40 + end for letter in _LETTERS for end in ("", "!", "b")),
    "Welder (TIG & MIG), 5 years; сварщик 5 разряда – вахта 60/30. " * 20,
    "".join(map(chr, range(32, 127))) * 4,
]


def require_tokenizer(path: Path) -> None:
    """Checks that the tokenizer in a `tokenizer.json` ends.

    Raises:
        InputError: it has unusual rules, and failed in the trial, was not ready in time or took too much memory.
    """
    if not (reason := suspicion(read_json(path))):
        return
    command = [sys.executable, "-c", _TRIAL, str(path), str(_MEMORY), json.dumps(_TEXTS)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False)
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        failed = True
    if failed:
        raise InputError(
            f"{path} cannot be used: {reason}, and a trial on short texts did not end well; copy it again, or "
            "take another model."
        )


def suspicion(rules: Any) -> str:
    """Why the rules of a `tokenizer.json` should be tried first; "" where they are ordinary."""
    if not isinstance(rules, dict):
        return ""
    parts = [part for name in ("normalizer", "pre_tokenizer") for part in _parts(rules.get(name))]
    patterns = [str(pattern) for part in parts for pattern in [_pattern(part, "Regex")] if pattern]
    if nested := next((pattern for pattern in patterns if _NESTED.search(pattern)), ""):
        return f"its regular expression {nested[:60]!r} can take for ever"
    growth = math.prod(max(1.0, len(str(part.get("content", ""))) / _least(part)) for part in parts)
    longest = max((_longest(part) for part in parts), default=0)
    added = sum(len(str(part.get("prepend", ""))) for part in parts)
    if growth > _GROWTH or max(longest, added) > 4 * _GROWTH:
        return "it makes texts many times longer than they are"
    around = rules.get("post_processor")
    if sum("SpecialToken" in part for part in _parts(around)) > _SPECIAL:
        return f"it puts more than {_SPECIAL} tokens around each text"
    return ""


def _parts(rules: Any) -> list[dict]:
    """All mappings in a tree of rules."""
    if isinstance(rules, list):
        return [part for rule in rules for part in _parts(rule)]
    return [rules, *_parts(list(rules.values()))] if isinstance(rules, dict) else []


def _pattern(part: dict, kind: str) -> Any:
    pattern = part.get("pattern")
    return pattern.get(kind) if isinstance(pattern, dict) else None


def _least(part: dict) -> int:
    """Characters that a replacement takes away, at least."""
    return len(str(_pattern(part, "String") or "")) or 1


def _longest(part: dict) -> int:
    """Bytes of the longest text that a packed table of replacements (a trie, then texts that end in 0) puts in."""
    try:
        raw = base64.b64decode(str(part.get("precompiled_charsmap") or ""), validate=True)
    except (binascii.Error, ValueError):
        return 0
    return max(map(len, raw[4 + int.from_bytes(raw[:4], "little") :].split(b"\0"))) if raw else 0
