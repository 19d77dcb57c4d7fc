"""int8 weights of an ONNX graph: a quarter of the size, and integer products where the processor has them.

Matrices get one scale for each output, activations one for each call (dynamic quantisation). Tables of embeddings get
one scale for each row, for a single scale would drown rare tokens, whose rows are short.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

_LEAST = 4096  # numbers of a table; smaller ones stay as they are


def quantise(source: Path, target: Path) -> None:
    """Writes the graph at `source` with int8 weights to `target`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    quantise_tables(model)
    onnx.save(model, str(source))
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it advises a pre-processing for convolutions
    try:
        quantize_dynamic(
            str(source), str(target), op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
        )
    finally:
        root.setLevel(level)


def quantise_tables(model: ModelProto) -> int:
    """Stores the tables that a graph looks rows up in as int8 with a scale for each row; returns how many.

    Args:
        model: changed in place.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    tables = {item.name: item for item in graph.initializer}
    users: dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    done = 0
    for name, stored in tables.items():
        lookups = users.get(name, [])
        if not lookups or any(node.op_type != "Gather" or node.input[0] != name or _axis(node) for node in lookups):
            continue
        table = numpy_helper.to_array(stored)
        if table.ndim != 2 or table.dtype != np.float32 or table.size < _LEAST:
            continue
        numbers, scales = int8_rows(table)
        graph.initializer.remove(stored)
        graph.initializer.append(numpy_helper.from_array(numbers, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scales"))
        for node in lookups:
            _replace(graph, node, name, helper)
        done += 1
    return done


def int8_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table (V, D) as int8 numbers (V, D) and float32 scales (V, 1) whose product is nearly the table."""
    scales = np.abs(table).max(1, keepdims=True).astype(np.float32) / 127
    numbers = np.rint(table / np.where(scales > 0, scales, 1)).astype(np.int8)
    return numbers, scales


def _axis(node: object) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _replace(graph: object, node: object, name: str, helper: object) -> None:
    """Puts a lookup of integers and one of scales, multiplied, in place of a lookup of floats."""
    at = list(graph.node).index(node)
    rows, out = node.input[1], node.output[0]
    parts = [f"{out}.{part}" for part in ("numbers", "floats", "scales")]
    new = [
        helper.make_node("Gather", [f"{name}.int8", rows], [parts[0]]),
        helper.make_node("Cast", [parts[0]], [parts[1]], to=1),  # to float32
        helper.make_node("Gather", [f"{name}.scales", rows], [parts[2]]),
        helper.make_node("Mul", [parts[1], parts[2]], [out]),
    ]
    graph.node.remove(node)
    for offset, each in enumerate(new):
        graph.node.insert(at + offset, each)
