"""Pickled tables, read without unpickling: nothing the file names is imported, called or built.

A pickle is a program for a small stack machine, and `pickle.load` runs whatever that program names. An
allow-list alone is not enough: numpy's and pyarrow's own rebuilders trust sizes and offsets, and a tuple
nested a million times kills the interpreter when it is hashed. So the standard library's disassembler
(`pickletools.genops`) lists the instructions, the few that a table needs are followed here, and a global
name of `ALLOWED` becomes an inert record (`_Made`) of its arguments. Every other name or instruction ends
the reading. The table is then assembled from the records with its bounds checked, under any installed
pandas. Pickles of pandas 1.0 to 3 are read, but for those of 1.3, which need `functools.partial`, and
those with a named zone of `zoneinfo`, which need `getattr`: both stay forbidden.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base.errors import InputError, one_line, shown
from hr_search.data.unpacking import content

_AGAIN = "save the table again as .csv, .jsonl or .parquet."

_ARROW = ("ArrowStringArray", "ArrowStringArrayNumpySemantics", "ArrowExtensionArray")
_MASKED = ("IntegerArray", "FloatingArray", "BooleanArray")
_DATES = ("date", "datetime", "time", "timedelta", "Decimal", "Timestamp", "_unpickle_timestamp", "Timedelta",
          "_timedelta_unpickle")  # fmt: skip
ALLOWED: dict[str, frozenset[str]] = {package: frozenset(names.split()) for package, names in {
    "pandas": "DataFrame BlockManager _unpickle_block Index _new_Index RangeIndex MultiIndex Int64Index UInt64Index "
    "Float64Index CategoricalIndex DatetimeIndex _new_DatetimeIndex TimedeltaIndex __pyx_unpickle_NDArrayBacked "
    "StringArray ArrowStringArray ArrowStringArrayNumpySemantics ArrowExtensionArray StringDtype ArrowDtype "
    "IntegerArray FloatingArray BooleanArray Int8Dtype Int16Dtype Int32Dtype Int64Dtype UInt8Dtype UInt16Dtype "
    "UInt32Dtype UInt64Dtype Float32Dtype Float64Dtype BooleanDtype Categorical CategoricalDtype NA _nat_unpickle "
    "__nat_unpickle DatetimeArray TimedeltaArray DatetimeTZDtype Timestamp _unpickle_timestamp Timedelta "
    "_timedelta_unpickle Day",
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
}.items()}  # fmt: skip
"""The global names a pickle may hold, by package (the first part of the module).

Modules move from version to version; as no name is ever looked up, the package is enough.
"""

_LITERALS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE",
             "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
             "BYTEARRAY8"}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# How many items an instruction takes off the stack; None = all above the last mark.
_TAKES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None, "EMPTY_LIST": 0, "LIST": None,
          "APPEND": 1, "APPENDS": None, "EMPTY_DICT": 0, "DICT": None, "SETITEM": 2, "SETITEMS": None, "POP": 1,
          "POP_MARK": None, "STACK_GLOBAL": 2, "REDUCE": 2, "NEWOBJ": 2, "BUILD": 1, "STOP": 1}  # fmt: skip


@dataclass(frozen=True)
class Unread:
    """A harmless value that is neither a text nor a number, such as a date; only its kind is kept."""

    kind: str


@dataclass(slots=True, eq=False)
class _Made:
    """What a pickle asked to make: an allowed name, its arguments (None: only named) and its state."""

    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None


def read_pickle_frame(path: Path | str) -> pd.DataFrame:
    """The table of a `.pkl` or `.pkl.gz` file, read without running anything the file holds.

    Columns of numbers keep their type. All others are columns of objects: texts and numbers as they
    were, `None` for every kind of missing value, lists for lists, tuples and one-dimensional arrays,
    `Unread` for dates. A named row index becomes the first column; other row labels are dropped. A
    pickled list of dicts or dict of lists is a table too.

    Args:
        path: the file; protocol 0 to 5, written by Python 3.

    Raises:
        InputError: the pickle names a global outside `ALLOWED`, is damaged, is no table, or has a cell
            that is not a text, a number, a date, empty, or a flat list of these.
    """
    data = content(path)
    try:
        return _table(_followed(data, path), path)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may fail at any step, and no step runs foreign code
        raise InputError(f"{path} is not a readable pickle of a plain table ({one_line(error)}); {_AGAIN}") from error


def _followed(data: bytes, path: Path | str) -> Any:
    """What the instructions of a pickle leave on the stack: plain values and `_Made` records."""
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
            match code.removeprefix("EMPTY_"):
                case "STOP":
                    return items[0]
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
                    stack[-1].state = items[0]  # only `_Made` has that attribute
                case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(items))
        elif code not in ("PROTO", "FRAME"):
            raise InputError(f"{path} is not read: no plain table of texts needs its instruction {code}; {_AGAIN}")
    raise ValueError("it has no end")


def _filled(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """`target` with alternating keys and values added; only keys whose hash is cheap are taken."""
    if type(target) is not dict or any(type(key) not in (str, int, float, bool, type(None)) for key in items[::2]):
        raise ValueError("a mapping with keys that are not texts")
    target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _named(module: str, name: str, path: Path | str) -> _Made | None:
    """The inert record of a global name of the allow-list; None for `pandas.NA`."""
    if name not in ALLOWED.get(module.split(".")[0], ()):
        asked = ascii(f"{module}.{name}")[1:-1][:200]
        what = f"it asks for {asked}, which no plain table of texts needs"
        raise InputError(f"{path} is not read and nothing was run: {what}; {_AGAIN}")
    return None if name == "NA" else _Made(name)


def _made(function: _Made, args: tuple[Any, ...]) -> _Made:
    """The record of one call; `copyreg._reconstructor(kind, ...)` (protocols 0 and 1) makes a `kind`."""
    if type(function) is not _Made or function.args is not None or type(args) is not tuple:
        raise ValueError("a call of something that is no function")
    return _made(args[0], ()) if function.name == "_reconstructor" else _Made(function.name, args)


def _table(value: Any, path: Path | str) -> pd.DataFrame:
    """The DataFrame that was found in a pickle."""
    if type(value) is _Made and value.name == "DataFrame":
        columns = _frame_columns(value, path)
    elif type(value) is dict and all(type(cells) in (list, tuple) for cells in value.values()):
        columns = list(value.items())
    elif type(value) is list and all(type(row) is dict for row in value):
        labels = dict.fromkeys(label for row in value for label in row)
        columns = [(label, [row.get(label) for row in value]) for label in labels]
    else:
        kind = value.name if type(value) is _Made else type(value).__name__
        raise InputError(
            f"{path} holds a pickled {kind} and not a table; pickle a DataFrame, a list of dicts or a dict of lists."
        )
    if len({len(cells) for _, cells in columns}) > 1:
        raise ValueError("columns of different lengths")
    names = [str(_plain_cell(label, f"{path}, a column name")) for label, _ in columns]
    plain = {
        place: _plain_column(cells, f'column "{shown(names[place])}"', path) for place, (_, cells) in enumerate(columns)
    }
    return pd.DataFrame(plain).set_axis(pd.Index(names, dtype=object), axis="columns")


def _frame_columns(frame: _Made, path: Path | str) -> list[tuple[Any, Sequence[Any]]]:
    """Label and cells of every column of a pickled DataFrame, after its row index where that has a name."""
    manager = frame.state["_mgr"] if "_mgr" in frame.state else frame.state["_data"]
    if manager.args:  # pandas 1.4 and later: the blocks, then the labels of columns and rows
        blocks, (columns, rows) = [block.args[:2] for block in manager.args[0]], manager.args[1]
    else:  # pandas 1.0 to 1.2
        parts = manager.state[3]["0.14.1"]
        blocks, (columns, rows) = [(block["values"], block["mgr_locs"]) for block in parts["blocks"]], parts["axes"]
    labels = _labels(columns)
    if labels is None:
        raise InputError(f"{path} has column names on several levels; give each column one name.")
    if len(labels) > 100_000:
        raise ValueError("too many columns")
    lines: dict[int, Any] = {}
    for values, where in blocks:
        places = range(len(labels))[slice(*where.args)] if where.name == "slice" else _array(where).tolist()
        values = _array(values)
        block = [None] * len(places) if values is None else [values] if values.ndim == 1 else list(values)
        lines.update(zip(places, block, strict=True))
    length = max((len(line) for line in lines.values() if line is not None), default=0)
    unread = [Unread("date or another value that is no text")] * length
    result = [(label, unread if lines[place] is None else lines[place]) for place, label in enumerate(labels)]
    name, values = rows.args[1].get("name"), _labels(rows)
    if type(name) is str and values is not None and len(values) == length and name not in list(labels):
        result.insert(0, (name, values))
    return result


def _labels(index: _Made) -> range | np.ndarray | None:
    """The labels of a pickled index of one level; None for several levels or dates."""
    kind, parts = index.args[:2]
    if kind.name == "RangeIndex":
        return range(parts["start"], parts["stop"], parts["step"])
    return _array(parts["data"]) if "data" in parts else None


def _array(value: _Made) -> np.ndarray | None:
    """The values of a pickled numpy, pandas or pyarrow array; None where they are no texts or numbers."""
    name, state = value.name, value.state
    if name == "_reconstruct":
        _, shape, kind, fortran, cells = state
        return _shaped(cells, kind, shape, "F" if fortran else "C")
    if name == "_frombuffer":
        cells, kind, shape, order = value.args
        return _shaped(cells, kind, shape, order)
    if name in _ARROW:
        chunks = state["_pa_array"] if "_pa_array" in state else state["_data"]
        texts = [
            _arrow_texts(*part.args[0]) for part in (chunks.args[0] if chunks.name == "chunked_array" else [chunks])
        ]
        return None if None in texts else _objects([text for chunk in texts for text in chunk])
    if name in _MASKED:
        return np.where(_array(state["_mask"]), None, _array(state["_data"]).astype(object))
    if name == "__pyx_unpickle_NDArrayBacked":  # pandas 1.4 and later
        name, (kind, values) = value.args[0].name, state[:2]
    elif name in ("StringArray", "Categorical"):  # pandas 1.0 to 1.2
        kind, values = state["_dtype"], state["_ndarray" if name == "StringArray" else "_codes"]
    if name == "Categorical":
        categories = _labels(kind.state["categories"])
        codes = [] if categories is None else _array(values).tolist()
        return None if categories is None else _objects([None if code < 0 else categories[code] for code in codes])
    return _array(values) if name == "StringArray" else None


def _shaped(cells: Any, kind: _Made, shape: tuple[int, ...], order: str) -> np.ndarray | None:
    """A numpy array from a list (objects, C order) or a buffer (other dtypes, `order`); None for dates."""
    code, byteorder = kind.args[0], kind.state[1]
    if code[0] == "O":
        return _objects(cells).reshape(shape)
    if code[0] in "Mm":
        return None
    if not re.fullmatch(r"[biufcUS]\d{1,9}", code) or byteorder not in ("<", ">", "|", "="):
        raise ValueError("an array of another kind")
    dtype = np.dtype(byteorder + code)
    return np.frombuffer(_raw(cells), dtype).astype(dtype.newbyteorder("=")).reshape(shape, order=order)


def _objects(cells: Sequence[Any]) -> np.ndarray:
    """A one-dimensional array of objects, lists of equal length included."""
    return np.fromiter(cells, dtype=object, count=len(cells))


def _raw(buffer: Any) -> bytes:
    """The bytes of a pickled buffer; protocols 0 to 2 write them as Latin-1 texts."""
    if isinstance(buffer, bytes | bytearray):
        return bytes(buffer)
    if type(buffer) is str or buffer.name == "encode":
        return (buffer if type(buffer) is str else buffer.args[0]).encode("latin-1")
    if buffer.name not in ("py_buffer", "bytearray", "bytes"):
        raise ValueError("a buffer of another kind")
    return _raw(buffer.args[0]) if buffer.args else b""


def _arrow_texts(kind: _Made, length: int, _: int, start: int, buffers: list[Any], *__: Any) -> list[str | None] | None:
    """The texts of a pickled Arrow array (validity bits, offsets, UTF-8 bytes); None for other types."""
    if kind.args[0] not in ("string", "large_string"):
        return None
    if length == 0:
        return []
    valid, offsets, letters = (b"" if buffer is None else _raw(buffer) for buffer in buffers)
    width = "<i8" if kind.args[0] == "large_string" else "<i4"
    edges = np.frombuffer(offsets, width)[start : start + length + 1].tolist()
    if len(edges) != length + 1 or edges[0] < 0 or edges[-1] > len(letters) or edges != sorted(edges):
        raise ValueError("offsets outside the texts")
    texts = [letters[left:right].decode("utf-8") for left, right in pairwise(edges)]
    if not valid:
        return texts
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[start : start + length].tolist()
    return [text if bit else None for text, bit in zip(texts, bits, strict=True)]


def _plain_column(cells: Sequence[Any], column: str, path: Path | str) -> pd.Series:
    """A column of numbers as it is, any other as objects: texts, numbers, None, `Unread` and lists."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "biufc":
        return pd.Series(cells)
    values = enumerate(cells.tolist() if isinstance(cells, np.ndarray) else cells, 1)
    plain = [cell if type(cell) is str else _plain_cell(cell, f"{path}, row {row}, {column},") for row, cell in values]
    return pd.Series(_objects(plain), dtype=object)


def _plain_cell(value: Any, where: str, inside: bool = False) -> Any:
    """One cell (or, `inside`, one item of a list) in plain Python; `where` names it in an error."""
    name = value.name if type(value) is _Made else type(value).__name__
    if type(value) is _Made and name.endswith("_nat_unpickle"):
        return None
    if type(value) is _Made and name in _DATES:
        return Unread(name.removeprefix("_unpickle_"))
    if type(value) is _Made and name in ("scalar", "_reconstruct", "_frombuffer"):
        values = _shaped(value.args[1], value.args[0], (1,), "C") if name == "scalar" else _array(value)
        value = Unread("date") if values is None else values.tolist()[0] if name == "scalar" else values.tolist()
    if type(value) is float and value != value:
        return None
    if type(value) is int and value.bit_length() > 256:
        return Unread("number beyond reason")
    if type(value) in (str, int, float, complex, bool, type(None), Unread):
        return value
    if type(value) in (list, tuple) and not inside:
        return [_plain_cell(item, where, inside=True) for item in value]
    what = "a list inside a list" if type(value) in (list, tuple) else f"a value of type {name}"
    raise InputError(f"{where} holds {what}; keep texts, numbers and flat lists of them and drop other columns.")
