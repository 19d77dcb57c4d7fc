"""Pickled tables, assembled from the records of `pickle_records` with all bounds checked, under any installed pandas.

Pickles of pandas 1.0 to 3 are read, except those of 1.3, which need `functools.partial`, and those with a
named time zone of `zoneinfo`, which need `getattr`: both stay forbidden.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base.errors import InputError, one_line, shown
from hr_search.data.cleaning import Unread
from hr_search.data.pickle_records import AGAIN, Record, followed
from hr_search.data.unpacking import content

_ARROW = ("ArrowStringArray", "ArrowStringArrayNumpySemantics", "ArrowExtensionArray")
_MASKED = ("IntegerArray", "FloatingArray", "BooleanArray")
_DATES = (
    "date",
    "datetime",
    "time",
    "timedelta",
    "Decimal",  # not a date, but as useless as one
    "Timestamp",
    "_unpickle_timestamp",
    "Timedelta",
    "_timedelta_unpickle",
)


def read_pickle_frame(path: Path | str) -> pd.DataFrame:
    """The table of a `.pkl` or `.pkl.gz` file, read without running anything the file holds.

    Columns of numbers keep their type. All others are columns of objects: texts and numbers unchanged,
    `None` for every kind of missing value, lists for lists, tuples and one-dimensional arrays, `Unread`
    for dates. A named row index becomes the first column; other row labels are dropped. A pickled list of
    dicts or dict of lists is a table too.

    Args:
        path: the file; protocol 0 to 5, written by Python 3.

    Raises:
        InputError: the pickle names a global outside `ALLOWED`, is damaged, is not a table, or has a cell
            that is not a text, a number, a date, empty, or a flat list of these.
    """
    data = content(path)
    try:
        return _table(followed(data, path), path)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may fail at any step, and no step runs foreign code
        raise InputError(f"{path} is not a readable pickle of a plain table ({one_line(error)}); {AGAIN}") from error


def _table(value: Any, path: Path | str) -> pd.DataFrame:
    """The table that a pickle holds."""
    if type(value) is Record and value.name == "DataFrame":
        columns = _frame_columns(value, path)
    elif type(value) is dict and all(type(cells) in (list, tuple) for cells in value.values()):
        columns = list(value.items())
    elif type(value) is list and all(type(row) is dict for row in value):
        labels = dict.fromkeys(label for row in value for label in row)
        columns = [(label, [row.get(label) for row in value]) for label in labels]
    else:
        kind = value.name if type(value) is Record else type(value).__name__
        raise InputError(
            f"{path} holds a pickled {kind}, not a table; pickle a DataFrame, a list of dicts or a dict of lists."
        )
    if len({len(cells) for _, cells in columns}) > 1:
        raise ValueError("columns of different lengths")
    names = [str(_plain_cell(label, f"{path}, a column name")) for label, _ in columns]
    plain = {
        place: _plain_column(cells, f'column "{shown(names[place])}"', path) for place, (_, cells) in enumerate(columns)
    }
    return pd.DataFrame(plain).set_axis(pd.Index(names, dtype=object), axis="columns")


def _frame_columns(frame: Record, path: Path | str) -> list[tuple[Any, Sequence[Any]]]:
    """Label and cells of each column of a pickled DataFrame, the row index first where it has a name."""
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
    unread = [Unread("date or another value that is not a text")] * length
    result = [(label, unread if lines[place] is None else lines[place]) for place, label in enumerate(labels)]
    name, values = rows.args[1].get("name"), _labels(rows)
    if type(name) is str and values is not None and len(values) == length and name not in list(labels):
        result.insert(0, (name, values))
    return result


def _labels(index: Record) -> range | np.ndarray | None:
    """The labels of a pickled index of one level; None for several levels or dates."""
    kind, parts = index.args[:2]
    if kind.name == "RangeIndex":
        return range(parts["start"], parts["stop"], parts["step"])
    return _array(parts["data"]) if "data" in parts else None


def _array(value: Record) -> np.ndarray | None:
    """The values of a pickled numpy, pandas or pyarrow array; None where they are neither texts nor numbers."""
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


def _shaped(cells: Any, kind: Record, shape: tuple[int, ...], order: str) -> np.ndarray | None:
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


def _arrow_texts(
    kind: Record, length: int, _: int, start: int, buffers: list[Any], *__: Any
) -> list[str | None] | None:
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
    """A column of numbers unchanged, any other as objects: texts, numbers, None, `Unread` and lists."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "biufc":
        return pd.Series(cells)
    values = enumerate(cells.tolist() if isinstance(cells, np.ndarray) else cells, 1)
    plain = [cell if type(cell) is str else _plain_cell(cell, f"{path}, row {row}, {column},") for row, cell in values]
    return pd.Series(_objects(plain), dtype=object)


def _plain_cell(value: Any, where: str, inside: bool = False) -> Any:
    """One cell (or, `inside`, one item of a list) in plain Python; `where` names it in an error."""
    name = value.name if type(value) is Record else type(value).__name__
    if type(value) is Record and name.endswith("_nat_unpickle"):
        return None
    if type(value) is Record and name in _DATES:
        return Unread(name.removeprefix("_unpickle_"))
    if type(value) is Record and name in ("scalar", "_reconstruct", "_frombuffer"):
        values = _shaped(value.args[1], value.args[0], (1,), "C") if name == "scalar" else _array(value)
        value = Unread("date") if values is None else values.tolist()[0] if name == "scalar" else values.tolist()
    if type(value) is float and value != value:
        return None
    if type(value) is int and value.bit_length() > 256:
        return Unread("number of absurd size")
    if type(value) in (str, int, float, complex, bool, type(None), Unread):
        return value
    if type(value) in (list, tuple) and not inside:
        return [_plain_cell(item, where, inside=True) for item in value]
    what = "a list inside a list" if type(value) in (list, tuple) else f"a value of type {name}"
    raise InputError(f"{where} holds {what}; keep texts, numbers and flat lists of them, and drop other columns.")
