"""int8 in place of torch: the quantised graph of a model, and an encoder that embeds with it.

The graph is made once for each model and kept in the cache; about 20 s, and a quarter of the size of the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from hr_search.base import paths
from hr_search.base.choices import SIDES
from hr_search.base.errors import InputError, one_line
from hr_search.base.files import digest, whole_folder
from hr_search.encoder import Encoder
from hr_search.export import requirements
from hr_search.export.graph import write_graph
from hr_search.export.smoothing import smoothed
from hr_search.models.fidelity import TEXTS
from hr_search.search.identity import fingerprint

log = logging.getLogger(__name__)

NEAR = 0.98  # the least mean cosine between the embeddings of a model and those of its int8 graph
_LENGTHS = (1, 7, 40, 1000)  # words of further texts to compare
_FILE = "model.onnx"
_FORMAT = 1  # of the graphs in the cache: a higher one makes all of them anew


def in_int8(encoder: Encoder) -> Encoder:
    """The same encoder, embedding with int8 weights in onnxruntime, on the CPU.

    Matrices have a scale for each output, activations one for each chunk of texts: an embedding moves a little, and
    a little with the texts that it is computed with (`loss.int8_loss` measures by how much a ranking does).

    Args:
        encoder: as `load_encoder` returns it; changed in place.

    Raises:
        InputError: a package is missing, the model has no graph, or its int8 graph gives quite other embeddings.
    """
    requirements.require_packages("int8")
    requirements.require_model(encoder)
    encoder.model.to("cpu")
    made_by = requirements.versions("onnxruntime").values()
    folder = paths.cache() / "int8" / digest(_FORMAT, fingerprint(encoder), *made_by)
    pad = encoder.model.tokenizer.pad_token_id or 0
    engine = None
    if (folder / _FILE).is_file():
        try:
            engine = Int8Graph(folder / _FILE, pad)
        except Exception as error:  # whatever a runtime says of a damaged file
            log.warning("the int8 graph in %s is damaged (%s) and is made anew", folder, one_line(error, 80))
    if engine is None:
        log.info("making the int8 graph of %s, once for this model", encoder.name)
        with whole_folder(folder) as target:
            write_int8(encoder, target / _FILE, dict.fromkeys(SIDES, probe_texts(encoder.maxlength)))
            require_near(encoder, Int8Graph(target / _FILE, pad))
        engine = Int8Graph(folder / _FILE, pad)
    encoder.engine = engine
    return encoder


class Int8Graph:
    """An ONNX graph as an encoder's engine: N rows of token ids to embeddings (N, D) float32."""

    def __init__(self, path: Path, pad: int) -> None:
        """Opens a graph.

        Args:
            path: what `write_int8` wrote.
            pad: the id that fills rows up; the mask leaves it out.
        """
        from hr_search.export.runtime import onnx_session

        self._run, self._pad = onnx_session(path, torch.get_num_threads()), pad

    def __call__(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings of token rows."""
        ids = np.full((len(rows), max(map(len, rows))), self._pad, np.int64)
        mask = np.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, : len(row)], mask[at, : len(row)] = row, 1
        return self._run({"input_ids": ids, "attention_mask": mask})


def write_int8(encoder: Encoder, path: Path, texts: Mapping[str, Sequence[str]]) -> None:
    """Writes the graph of an encoder with int8 weights.

    Args:
        encoder: on the CPU.
        path: the file.
        texts: side to texts that show how large activations become.

    Raises:
        InputError: as `write_graph`.
    """
    from hr_search.export.quantised import quantise

    draft = path.with_name("draft.onnx")
    encoder.eval()
    with smoothed(encoder, texts):
        write_graph(encoder, draft)
    quantise(draft, path)
    draft.unlink()


def probe_texts(maxlength: int) -> list[str]:
    """Texts of several lengths, from one token to more than the model reads."""
    return [*TEXTS, *("welder 12 " * min(count, maxlength) for count in _LENGTHS)]


def require_near(encoder: Encoder, engine: Int8Graph) -> None:
    """Checks on a few texts that an engine gives nearly the embeddings of its model.

    Raises:
        InputError: their mean cosine is below `NEAR`.
    """
    texts, cosines = probe_texts(encoder.maxlength), []
    for side in SIDES:
        exact = encoder.encode(texts, side)
        encoder.engine = engine
        cosines.append((exact * encoder.encode(texts, side)).sum(1))
        encoder.engine = None
    mean = np.concatenate(cosines).mean()
    if not mean >= NEAR:
        raise InputError(
            f"with int8 weights the embeddings of {encoder.name} have a mean cosine of {mean:.3f} with the original's "
            f"(less than {NEAR:g}); encode it with fp32 or bf16."
        )
