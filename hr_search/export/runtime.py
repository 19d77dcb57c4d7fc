"""An exported folder at work: tokenizers and a runtime turn texts into embeddings, as the folder's README shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hr_search.base.files import read_json
from hr_search.export.graph import EMBEDDING
from hr_search.export.requirements import MANIFEST
from hr_search.models.condenser import CONDENSER_FILE, Condenser

GRAPHS = {"onnx": "onnx/model.onnx", "int8": "onnx/model.onnx", "openvino": "openvino/openvino_model.xml"}
_BATCH = 32  # texts run at a time


class ExportedModel:
    """A folder of the formats onnx, int8 and openvino, opened: `encode(texts, side) -> (N, D)`.

    Attributes:
        manifest: what its `export.json` holds.
    """

    def __init__(self, folder: Path | str, threads: int = 0) -> None:
        """Opens the folder.

        Args:
            folder: what `export` wrote.
            threads: that the runtime uses; 0 = as many as it likes.
        """
        from tokenizers import Tokenizer

        folder = Path(folder)
        self.manifest = read_json(folder / MANIFEST)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        kept = folder / CONDENSER_FILE
        self._condense = Condenser.from_dict(read_json(kept)) if kept.is_file() else None
        start = _openvino if self.manifest["format"] == "openvino" else onnx_session
        self._run = start(folder / GRAPHS[self.manifest["format"]], threads)

    def encode(self, texts: Sequence[str], side: str = "document") -> np.ndarray:
        """Embeddings of texts, (N, D) float32, L2-normalised.

        Args:
            texts: N texts.
            side: "query" or "document"; decides the prompt.
        """
        if self._condense and side == "document":
            texts = [self._condense(text) for text in texts]
        prompt = self.manifest["prompts"][side]
        out = np.empty((len(texts), self.manifest["dimensions"]), np.float32)
        order = np.argsort([len(text) for text in texts], kind="stable")
        for at in range(0, len(texts), _BATCH):
            part = order[at : at + _BATCH]
            rows = self._tokenizer.encode_batch([prompt + texts[i] for i in part])
            ids, mask = (np.array([getattr(row, name) for row in rows], np.int64) for name in ("ids", "attention_mask"))
            out[part] = self._run({"input_ids": ids, "attention_mask": mask})
        return out


Run = Callable[[dict[str, np.ndarray]], np.ndarray]


def onnx_session(path: Path, threads: int) -> Run:
    """An ONNX graph opened by onnxruntime; `threads` as for `ExportedModel`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([EMBEDDING], inputs)[0]


def _openvino(path: Path, threads: int) -> Run:
    import openvino

    # By default bfloat16 is used where the processor has it, which costs the third digit.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda inputs: compiled(inputs)[EMBEDDING]
