"""The exported folder: written whole or not at all, checked against the encoder before it appears."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hr_search import __version__
from hr_search.base.choices import SIDES
from hr_search.base.errors import InputError
from hr_search.base.files import whole_folder, write_csv, write_json, write_text
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder
from hr_search.export import comparison, reduction, static
from hr_search.export.card import card
from hr_search.export.graph import EMBEDDING, HIDDEN, INPUTS, OPSET, write_graph
from hr_search.export.int8 import NEAR, probe_texts, write_int8
from hr_search.export.requirements import MANIFEST, versions
from hr_search.export.runtime import GRAPHS, ExportedModel

log = logging.getLogger(__name__)

TABLE = "export.csv"
EQUAL = 1e-4  # between numbers of unit vectors, of the exact formats
_SAMPLED = 10_000  # texts of each side that principal directions are learnt from
_BALANCED = 64  # texts of each side that show outliers
_WEIGHTS = ("model*.safetensors*", "pytorch_model*")  # of the transformer, which the graph holds


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be exported.

    Attributes:
        form: "onnx", "openvino", "int8" or "static".
        size: numbers of an embedding; 0 = the model's.
        reduction: "leading", "pca" or "" (see `reduction.chosen`).
        texts: train texts of each side; for principal directions, token frequencies and outliers.
        tasks: held-out search tasks of both directions to compare on; None = no comparison.
        threads: in the timing.
        seed: of samples and intervals.
    """

    form: str
    size: int = 0
    reduction: str = ""
    texts: Mapping[str, Sequence[str]] | None = None
    tasks: Mapping[str, Task] | None = None
    threads: int = 1
    seed: int = 42


def export(encoder: Encoder, source: str, folder: Path, plan: Plan) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """Writes an encoder in another form.

    Args:
        encoder: in float32 on the CPU; a shorter embedding changes it.
        source: the folder or name it was loaded from.
        folder: where the export goes; an older one is replaced.
        plan: what is wanted.

    Returns:
        The manifest, and the comparison with the original (None without tasks), which are also in the folder.

    Raises:
        InputError: the model cannot be exported, or the export does not give the embeddings of the model.
    """
    original = _original(encoder, source, plan)
    with whole_folder(folder) as target:
        write = _static if plan.form == "static" else _graph
        manifest = {"format": plan.form, "model": encoder.name, "hr_search": __version__}
        manifest |= write(encoder, target, plan)
        table = None
        if original:
            table = comparison.comparison_table(original, _exported(target, plan), plan.tasks, plan.seed)
            write_csv(target / TABLE, table)
        write_json(target / MANIFEST, manifest)
        write_text(target / "README.md", card(manifest, table is not None))
    return manifest, table


def _original(encoder: Encoder, source: str, plan: Plan) -> comparison.System | None:
    if not plan.tasks:
        return None
    local = Path(source).is_dir()
    size = comparison.folder_megabytes(source) if local else sum(4 * p.numel() for p in encoder.parameters()) / 1e6

    def encode(texts: Sequence[str], side: str) -> np.ndarray:
        """As users of the saved model do, who have sentence-transformers alone."""
        if encoder.condenser and side == "document":
            texts = [encoder.condenser(text) for text in texts]
        run = encoder.model.encode_query if side == "query" else encoder.model.encode_document
        return run(list(texts), show_progress_bar=False)

    timed = comparison.with_threads(encode, plan.threads)
    return comparison.measure("original", encoder.encode, timed, size, plan.tasks)


def _exported(folder: Path, plan: Plan) -> comparison.System:
    if plan.form == "static":
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device="cpu")

        def encode(texts: Sequence[str], side: str) -> np.ndarray:
            return model.encode(list(texts), show_progress_bar=False)

        timed = comparison.with_threads(encode, plan.threads)
    else:
        encode, timed = ExportedModel(folder).encode, ExportedModel(folder, plan.threads).encode
    return comparison.measure(plan.form, encode, timed, comparison.folder_megabytes(folder), plan.tasks)


# -- the formats ---------------------------------------------------------------------------------


def _static(encoder: Encoder, target: Path, plan: Plan) -> dict[str, Any]:
    texts = [text for side in SIDES for text in (plan.texts or {}).get(side, ())]
    table = static.distil(encoder, plan.size or encoder.dimension, texts, progress=True)
    static.save_static(encoder, table, target)
    return {
        "dimensions": table.shape[1],
        "reduction": "pca of the vocabulary",
        "frequencies": "train texts and Zipf's law" if texts else "Zipf's law",
        "prompts": dict.fromkeys(SIDES, ""),
        "maxlength": 0,
        "condense": 0,
        "tokens": table.shape[0],
    }


def _graph(encoder: Encoder, target: Path, plan: Plan) -> dict[str, Any]:
    reduction.settle_truncation(encoder)
    if plan.reduction:
        reduction.project(encoder, _projection(encoder, plan))
    _save_modules(encoder, target)
    path = target / GRAPHS[plan.form]
    path.parent.mkdir(parents=True)
    _write(encoder, path, plan)
    manifest = {
        "dimensions": encoder.dimension,
        "reduction": plan.reduction,
        "prompts": {side: encoder.prompt(side) for side in SIDES},
        "maxlength": encoder.maxlength,
        "condense": encoder.condenser.characters if encoder.condenser else 0,
        "file": GRAPHS[plan.form],
        "inputs": list(INPUTS),
        "outputs": [EMBEDDING, HIDDEN],
        "opset": OPSET,
        "versions": versions("torch", "openvino" if plan.form == "openvino" else "onnxruntime"),
    }
    write_json(target / MANIFEST, {"format": plan.form, **manifest})
    return manifest | _checked(encoder, ExportedModel(target), plan)


def _projection(encoder: Encoder, plan: Plan) -> np.ndarray:
    """The projection (size, D) that shortens embeddings."""
    if plan.reduction == "leading":
        return np.eye(plan.size, encoder.dimension, dtype=np.float32)
    generator = np.random.default_rng(plan.seed)
    parts = []
    for side in SIDES:
        texts = list(dict.fromkeys(plan.texts[side]))
        kept = np.sort(generator.permutation(len(texts))[:_SAMPLED])
        embeddings = encoder.embed(encoder.tokens([texts[at] for at in kept], side), progress=True)
        parts.append(embeddings / np.sqrt(len(embeddings)))  # each side counts the same, however many texts it has
    return reduction.principal_directions(np.concatenate(parts), plan.size)


def _save_modules(encoder: Encoder, target: Path) -> None:
    """Writes all of the model but the weights of its transformer, and a tokenizer that cuts and pads by itself."""
    from tokenizers import Tokenizer

    saved = target / "saved"
    encoder.save(saved)
    for child in list(saved.iterdir()):
        shutil.move(child, target / child.name)
    saved.rmdir()
    for pattern in _WEIGHTS:
        for path in target.glob(pattern):
            path.unlink()
    place, words = target / "tokenizer.json", encoder.model.tokenizer
    tokenizer = Tokenizer.from_file(str(place))
    tokenizer.enable_truncation(encoder.maxlength, direction=words.truncation_side)
    padding = words.pad_token_id or 0
    tokenizer.enable_padding(pad_id=padding, pad_token=tokenizer.id_to_token(padding))
    tokenizer.save(str(place))


def _write(encoder: Encoder, path: Path, plan: Plan) -> None:
    """Writes the graph in its format."""
    if plan.form == "onnx":
        write_graph(encoder, path)
        return
    if plan.form == "int8":
        write_int8(encoder, path, _balancing_texts(encoder, plan))
        return
    import openvino

    draft = path.with_name("draft.onnx")
    write_graph(encoder, draft)
    openvino.save_model(openvino.convert_model(str(draft)), str(path), compress_to_fp16=False)
    draft.unlink()


def _balancing_texts(encoder: Encoder, plan: Plan) -> dict[str, list[str]]:
    """Texts that show how large the inputs of layers become: train texts, or those of the check."""
    if not plan.texts:
        return dict.fromkeys(SIDES, probe_texts(encoder.maxlength))
    generator = np.random.default_rng(plan.seed)
    chosen = {side: generator.permutation(len(texts))[:_BALANCED] for side, texts in plan.texts.items()}
    return {side: [plan.texts[side][at] for at in places] for side, places in chosen.items()}


# -- the check -----------------------------------------------------------------------------------


def _checked(encoder: Encoder, exported: ExportedModel, plan: Plan) -> dict[str, Any]:
    """How far the export is from the encoder on a few texts.

    Raises:
        InputError: the format is exact and the embeddings differ, or it is int8 and they differ much.
    """
    texts = probe_texts(encoder.maxlength)
    with torch.inference_mode():
        pairs = [(encoder.encode(texts, side), exported.encode(texts, side)) for side in SIDES]
    ours, theirs = (np.concatenate(part) for part in zip(*pairs, strict=True))
    apart = float(np.abs(ours - theirs).max())
    cosines = (ours * theirs).sum(1)
    if plan.form != "int8" and not apart <= EQUAL:
        raise InputError(
            f"the graph of {encoder.name} gives embeddings that differ from the model's by up to {apart:.2g} (more "
            f"than {EQUAL:g}), so nothing was written; try --format static, or another model."
        )
    if plan.form == "int8" and not cosines.mean() >= NEAR:
        raise InputError(
            f"with int8 weights the embeddings of {encoder.name} have a mean cosine of {cosines.mean():.3f} with the "
            f"original's (less than {NEAR:g}), so nothing was written; take --format onnx."
        )
    return {"deviation": apart, "cosine_mean": float(cosines.mean()), "cosine_least": float(cosines.min())}
