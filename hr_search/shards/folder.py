"""The folder of the shards of some texts: embeddings that many workers write and one process reads.

data/README.md describes the files. A folder belongs to one model, one precision and one version of the libraries: a
shard of another one would give embeddings that differ from the others in their last digits, or altogether.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from hr_search.base import arrays
from hr_search.base.errors import InputError, one_line, quoted
from hr_search.base.files import read_json, whole_folder, write_json
from hr_search.encoder import Encoder
from hr_search.index.proof import versions
from hr_search.search import identity

MANIFEST, VECTORS, IDS = "manifest.json", "embeddings.npy", "ids.npy"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Origin:
    """What made the shards of a folder.

    Attributes:
        model: its name, for messages.
        fingerprint: of the model (`search.identity`).
        precision: "fp32", "bf16" or "int8".
        dimension: D.
        versions: of this package and of the libraries that decide what a model gives.
    """

    model: str
    fingerprint: str
    precision: str
    dimension: int
    versions: dict[str, str]

    @classmethod
    def of(cls, encoder: Encoder) -> Origin:
        """That of an encoder."""
        return cls(encoder.name, identity.fingerprint(encoder), encoder.precision, encoder.dimension, versions())

    def require_same(self, folder: Path, told: Any) -> None:
        """Checks the manifest of a folder, or of a shard in it.

        Raises:
            InputError: naming what is other than here.
        """
        advice = "delete it, or give another --shards"
        if not isinstance(told, dict) or told.get("format") != _FORMAT:
            raise InputError(f"the shards in {folder} have another format; {advice}.")
        if told.get("fingerprint") != self.fingerprint:
            raise InputError(
                f"the shards in {folder} were made by another model ({quoted(told.get('model'))}) than {self.model} "
                f"is now; {advice}."
            )
        for name in ("precision", "dimension", "versions"):
            if told.get(name) != getattr(self, name):
                raise InputError(
                    f"the shards in {folder} were made with {name} {quoted(told.get(name))}, and this command has "
                    f"{quoted(getattr(self, name))}; {advice}."
                )

    def entries(self) -> dict[str, Any]:
        """The entries of a manifest."""
        return {"format": _FORMAT, **dataclasses.asdict(self)}


def open_folder(folder: Path, origin: Origin) -> None:
    """Makes a folder for shards, or checks the one that is there.

    Raises:
        InputError: it holds other files, or shards of another origin.
    """
    if (folder / MANIFEST).is_file():
        origin.require_same(folder, read_json(folder / MANIFEST))
        return
    if folder.is_file() or (folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())):
        raise InputError(f"{folder} holds files that are no shards; give another --shards.")
    write_json(folder / MANIFEST, origin.entries())


def write_shard(place: Path, ids: np.ndarray, vectors: np.ndarray, manifest: dict[str, Any]) -> None:
    """Writes a shard, whole or not at all.

    Args:
        place: its folder.
        ids: (R,) int64, the places of its texts among all, from 0.
        vectors: (R, D) float32, their embeddings.
        manifest: `Origin.entries`, and the digest of its texts.
    """
    with whole_folder(place) as target:
        arrays.save(target / VECTORS, vectors)
        arrays.save(target / IDS, ids)
        write_json(target / MANIFEST, {**manifest, "count": len(ids)})


def is_finished(place: Path, digest: str, origin: Origin) -> bool:
    """Whether a shard of these texts is there.

    Raises:
        InputError: one of another origin, or of other texts, is.
    """
    if not (place / MANIFEST).is_file():
        return False
    told = read_json(place / MANIFEST)
    origin.require_same(place, told)
    if told.get("texts") != digest:
        raise InputError(f"the shard {place} holds other texts than its name says; delete it.")
    return True


def read_shard(place: Path, ids: np.ndarray, dimension: int) -> np.ndarray:
    """The embeddings of a shard, (R, D) float32, memory-mapped.

    Raises:
        InputError: they are not there, or damaged.
    """
    try:
        found, vectors = arrays.load(place / IDS), arrays.load(place / VECTORS, mapped=True)
        if vectors.shape != (len(ids), dimension) or vectors.dtype != np.float32 or not np.array_equal(found, ids):
            raise ValueError("it does not fit its texts")
    except ValueError as error:
        raise InputError(
            f"the shard {place} is damaged ({one_line(error, 120)}); delete it, and the same command makes it again."
        ) from error
    return vectors
