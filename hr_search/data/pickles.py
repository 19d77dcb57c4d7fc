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
from hr_search.data.unpacking import CELL, Room, content

_ARROW = ("ArrowStringArray", "ArrowStringArrayNumpySemantics", "ArrowExtensionArray")
_MASKED = ("IntegerArray", "FloatingArray", "BooleanArray")


def read_pickle_frame(path: Path | str, trustfile: bool = False) -> pd.DataFrame:
    """The table of a `.pkl` or `.pkl.gz` file, read without running anything the file holds.

    Columns of numbers keep their type. All others are columns of objects: texts and numbers unchanged,
    `None` for every kind of missing value, lists for lists, tuples and one-dimensional arrays, `Unread`
    for anything else, such as dates and mappings. A named row index becomes the first column; other row
    labels are dropped. A pickled list of dicts or dict of lists is a table too.

    Args:
        path: the file; protocol 0 to 5, written by Python 3.
        trustfile: let the table be of any size.

    Raises:
        InputError: the pickle names a global outside `ALLOWED`, is damaged, is not a table, or has more columns or
            takes more memory than a table may; what it repeats by reference counts each time.
    """
    data = content(path, trustfile)
    try:
        return _table(followed(data, path), path, Room(path, trustfile))
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may fail at any step, and no step runs foreign code
        raise InputError(f"{path} is not a readable pickle of a plain table ({one_line(error)}); {AGAIN}") from error


def _table(value: Any, path: Path | str, room: Room) -> pd.DataFrame:
    """The table that a pickle holds."""
    if type(value) is Record and value.name == "DataFrame":
        columns = _frame_columns(value, path, room)
    elif type(value) is dict and all(type(cells) in (list, tuple) for cells in value.values()):
        columns = list(value.items())
    elif type(value) is list and all(type(row) is dict for row in value):
        room.take(sum(map(len, value)) * CELL)
        labels = dict.fromkeys(label for row in value for label in row)
        room.take_cells(len(value), len(labels))
        columns = [(label, [row.get(label) for row in value]) for label in labels]
    else:
        kind = value.name if type(value) is Record else type(value).__name__
        raise InputError(
            f"{path} holds a pickled {kind}, not a table; pickle a DataFrame, a list of dicts or a dict of lists."
        )
    if len({len(cells) for _, cells in columns}) > 1:
        raise ValueError("columns of different lengths")
    room.take_cells(len(columns[0][1]) if columns else 0, len(columns))
    names = [_plain_cell(label, room) for label, _ in columns]
    if wrong := [name for name in names if isinstance(name, list | Unread)]:
        raise InputError(f"{path} has a column name that is {shown(wrong[0])}; give each column a text as its name.")
    plain = {place: _plain_column(cells, room) for place, (_, cells) in enumerate(columns)}
    return pd.DataFrame(plain).set_axis(pd.Index([str(name) for name in names], dtype=object), axis="columns")


def _frame_columns(frame: Record, path: Path | str, room: Room) -> list[tuple[Any, Sequence[Any]]]:
    """Label and cells of each column of a pickled DataFrame, the row index first where it has a name."""
    manager = frame.state["_mgr"] if "_mgr" in frame.state else frame.state["_data"]
    if manager.args:  # pandas 1.4 and later: the blocks, then the labels of columns and rows
        blocks, (columns, rows) = [block.args[:2] for block in manager.args[0]], manager.args[1]
    else:  # pandas 1.0 to 1.2
        parts = manager.state[3]["0.14.1"]
        blocks, (columns, rows) = [(block["values"], block["mgr_locs"]) for block in parts["blocks"]], parts["axes"]
    labels = _labels(columns, room)
    if labels is None:
        raise InputError(f"{path} has column names on several levels; give each column one name.")
    room.take_cells(0, len(labels))
    if len(blocks) > len(labels):
        raise ValueError("more blocks than columns")
    lines: dict[int, Any] = {}
    for values, where in blocks:
        places = range(len(labels))[slice(*where.args)] if where.name == "slice" else _array(where, room).tolist()
        values = _array(values, room)
        if values is not None and values.ndim > 1 and len(values) != len(places):
            raise ValueError("a block of another height")
        block = [None] * len(places) if values is None else [values] if values.ndim == 1 else list(values)
        lines.update(zip(places, block, strict=True))
    length = max((len(line) for line in lines.values() if line is not None), default=0)
    unread = [Unread("date or another value that is not a text")] * length
    result = [(label, unread if lines[place] is None else lines[place]) for place, label in enumerate(labels)]
    name, values = rows.args[1].get("name"), _labels(rows, room)
    if type(name) is str and values is not None and len(values) == length and name not in list(labels):
        result.insert(0, (name, values))
    return result


def _labels(index: Record, room: Room) -> range | np.ndarray | None:
    """The labels of a pickled index of one level; None for several levels or dates."""
    kind, parts = index.args[:2]
    if kind.name == "RangeIndex":
        return range(parts["start"], parts["stop"], parts["step"])
    return _array(parts["data"], room) if "data" in parts else None


def _array(value: Record, room: Room) -> np.ndarray | None:
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
            _arrow_texts(room, *part.args[0])
            for part in (chunks.args[0] if chunks.name == "chunked_array" else [chunks])
        ]
        return None if None in texts else _objects([text for chunk in texts for text in chunk])
    if name in _MASKED:
        return np.where(_array(state["_mask"], room), None, _array(state["_data"], room).astype(object))
    if name == "__pyx_unpickle_NDArrayBacked":  # pandas 1.4 and later
        name, (kind, values) = value.args[0].name, state[:2]
    elif name in ("StringArray", "Categorical"):  # pandas 1.0 to 1.2
        kind, values = state["_dtype"], state["_ndarray" if name == "StringArray" else "_codes"]
    if name == "Categorical":
        index = kind.state["categories"]
        categories = _labels(index, room) if index.args and len(index.args) > 1 else None
        codes = [] if categories is None else _array(values, room).tolist()
        categories = categories.tolist() if isinstance(categories, np.ndarray) else categories
        return None if categories is None else _objects([None if code < 0 else categories[code] for code in codes])
    return _array(values, room) if name == "StringArray" else None


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
    room: Room, kind: Record, length: int, _: int, start: int, buffers: list[Any], *__: Any
) -> list[str | None] | None:
    """The texts of a pickled Arrow array (validity bits, offsets, UTF-8 bytes); None for other types."""
    if kind.args[0] not in ("string", "large_string"):
        return None
    if length == 0:
        return []
    room.take(CELL * length)
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


def _plain_column(cells: Sequence[Any], room: Room) -> pd.Series:
    """A column of numbers unchanged, any other as objects: texts, numbers, None, lists and `Unread`."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "biufc":
        return pd.Series(cells)
    plain, known = [], {}  # what a pickle refers to many times is made plain once, and counted each time
    for cell in cells.tolist() if isinstance(cells, np.ndarray) else cells:
        if type(cell) is str:
            room.take(len(cell))
        elif cell is not None:
            if id(cell) not in known:
                made = _plain_cell(cell, room)
                known[id(cell)] = made, _size(made), cell  # kept, so that its id stays its own
            cell, size, _ = known[id(cell)]
            room.take(size)
        plain.append(cell)
    return pd.Series(_objects(plain), dtype=object)


def _size(cell: Any) -> int:
    """The least bytes that a cell takes beyond its place in the column."""
    if isinstance(cell, list):
        return sum(CELL + _size(item) for item in cell)
    return len(cell) if isinstance(cell, str) else 0


def _plain_cell(value: Any, room: Room, inside: bool = False) -> Any:
    """One cell (or, `inside`, one item of a list) in plain Python; `Unread` for what no table of texts needs."""
    name = value.name if type(value) is Record else type(value).__name__
    if type(value) is Record and name.endswith("_nat_unpickle"):
        return None
    if type(value) is Record and name in ("scalar", "_reconstruct", "_frombuffer"):
        values = _shaped(value.args[1], value.args[0], (1,), "C") if name == "scalar" else _array(value, room)
        value = Unread("date") if values is None else values.tolist()[0] if name == "scalar" else values.tolist()
    if type(value) is float and value != value:
        return None
    if type(value) is int and value.bit_length() > 256:
        return Unread("number of absurd size")
    if type(value) in (str, int, float, complex, bool, type(None), Unread):
        return value
    if type(value) in (list, tuple):
        return Unread("list inside a list") if inside else [_plain_cell(item, room, inside=True) for item in value]
    return Unread("mapping" if type(value) is dict else f"value of type {name.removeprefix('_unpickle_')}")
