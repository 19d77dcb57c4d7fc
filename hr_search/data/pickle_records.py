"""Pickles followed without unpickling: nothing the file names is imported, called or built.

A pickle is a program for a small stack machine, and `pickle.load` runs whatever that program names. An
allow-list alone is not enough: the rebuild functions of numpy and pyarrow trust sizes and offsets, and
hashing a tuple nested a million levels deep crashes the interpreter. So the standard library's disassembler
(`pickletools.genops`) lists the instructions, the few that a table needs are interpreted here, and a global
name of `ALLOWED` becomes an inert `Record` of its arguments. Any other name or instruction ends the reading.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hr_search.base.errors import InputError

AGAIN = "save the table again as .csv, .jsonl or .parquet."

_NAMES = {
    "pandas": "DataFrame BlockManager _unpickle_block Index _new_Index RangeIndex MultiIndex Int64Index UInt64Index "
    "Float64Index CategoricalIndex DatetimeIndex _new_DatetimeIndex TimedeltaIndex __pyx_unpickle_NDArrayBacked "
    "StringArray ArrowStringArray ArrowStringArrayNumpySemantics ArrowExtensionArray StringDtype ArrowDtype "
    "IntegerArray FloatingArray BooleanArray Int8Dtype Int16Dtype Int32Dtype Int64Dtype UInt8Dtype UInt16Dtype "
    "UInt32Dtype UInt64Dtype Float32Dtype Float64Dtype BooleanDtype Categorical CategoricalDtype NA _nat_unpickle "
    "__nat_unpickle DatetimeArray TimedeltaArray DatetimeTZDtype Timestamp _unpickle_timestamp Timedelta "
    "_timedelta_unpickle Day "
    "IntervalIndex _new_IntervalIndex IntervalArray IntervalDtype Interval PeriodIndex PeriodArray PeriodDtype Period "
    "SparseArray SparseDtype IntIndex BlockIndex",
    "numpy": "_reconstruct _frombuffer ndarray dtype scalar",
    "pyarrow": "_restore_array chunked_array type_for_alias py_buffer",
    "builtins": "slice bytearray bytes object",
    "__builtin__": "slice bytearray bytes object",
    "copyreg": "_reconstructor",
    "copy_reg": "_reconstructor",
    "_codecs": "encode",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "pytz": "_UTC _p",
}
ALLOWED = {package: frozenset(names.split()) for package, names in _NAMES.items()}
"""The global names a pickle may hold, by package (the first part of the module).

Modules move from version to version; since no name is ever looked up, the package is enough.
"""

_LITERALS = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINBYTES",
    "BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# How many items an instruction takes off the stack; None = all above the last mark.
_TAKES = {
    **dict.fromkeys(["EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"], 0),
    **dict.fromkeys(["TUPLE1", "APPEND", "POP", "BUILD", "STOP"], 1),
    **dict.fromkeys(["TUPLE2", "SETITEM", "STACK_GLOBAL", "REDUCE", "NEWOBJ"], 2),
    "TUPLE3": 3,
    **dict.fromkeys(["TUPLE", "LIST", "APPENDS", "DICT", "SETITEMS", "POP_MARK"]),
}


@dataclass(slots=True, eq=False)
class Record:
    """What a pickle asked to build: an allowed name, its arguments (None: named, not called) and its state."""

    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None


def followed(data: bytes, path: Path | str) -> Any:
    """What the instructions of a pickle leave on the stack, built of plain values and records."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    for instruction, value, _ in pickletools.genops(data):
        code = instruction.name
        if code in _LITERALS:
            stack.append(value)
        elif code in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            memo[len(memo) if value is None else value] = stack[-1]
        elif code in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[value])
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code == "MARK":
            marks.append(len(stack))
        elif code == "GLOBAL":
            stack.append(_named(*value.split(" ", 1), path))
        elif code in _TAKES:
            start = marks.pop() if _TAKES[code] is None else len(stack) - _TAKES[code]
            if not 0 <= start <= len(stack):
                raise ValueError("the stack ran out")
            items = stack[start:]
            del stack[start:]
            if code == "STOP":
                return items[0]
            _apply(code.removeprefix("EMPTY_"), items, stack, path)
        elif code not in ("PROTO", "FRAME"):
            what = f"it holds the instruction {code}, which no plain table of texts needs"
            raise InputError(f"{path} is not read: {what}; {AGAIN}")
    raise ValueError("it has no end")


def _apply(code: str, items: list[Any], stack: list[Any], path: Path | str) -> None:
    """Carries out an instruction on the items it took off the stack; `POP` and `POP_MARK` only drop them."""
    match code:
        case "LIST":
            stack.append(items)
        case "APPEND" | "APPENDS":
            list.extend(stack[-1], items)
        case "DICT":
            stack.append(_filled({}, items))
        case "SETITEM" | "SETITEMS":
            _filled(stack[-1], items)
        case "STACK_GLOBAL":
            stack.append(_named(*items, path))
        case "REDUCE" | "NEWOBJ":
            stack.append(_made(*items))
        case "BUILD":
            stack[-1].state = items[0]  # only a `Record` has that attribute
        case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(tuple(items))


def _filled(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """`target` with alternating keys and values added; only keys that are cheap to hash are accepted."""
    if type(target) is not dict or any(type(key) not in (str, int, float, bool, type(None)) for key in items[::2]):
        raise ValueError("a mapping with keys that are not texts")
    target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _named(module: str, name: str, path: Path | str) -> Record | None:
    """The inert record of a global name of the allow-list; None for `pandas.NA`."""
    if name not in ALLOWED.get(module.split(".")[0], ()):
        asked = ascii(f"{module}.{name}")[1:-1][:200]
        what = f"it asks for {asked}, which no plain table of texts needs"
        raise InputError(f"{path} is not read and nothing was run: {what}; {AGAIN}")
    return None if name == "NA" else Record(name)


def _made(function: Record, args: tuple[Any, ...]) -> Record:
    """The record of one call; `copyreg._reconstructor(kind, ...)` (protocols 0 and 1) makes a `kind`."""
    if type(function) is not Record or function.args is not None or type(args) is not tuple:
        raise ValueError("a call of something that is not a function")
    return _made(args[0], ()) if function.name == "_reconstructor" else Record(function.name, args)
