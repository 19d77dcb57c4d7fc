"""What an index remembers of the model that made it, so that the same files need not be checked at every search.

Checking a model (its tokenizer ends, it gives what sentence-transformers gives, its fingerprint) takes longer than
searching 100,000 texts. Files of the same sizes and times of change, read by the same libraries, need it once.
"""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hr_search import __version__
from hr_search.encoder import Encoder, load_encoder
from hr_search.models import folders, requirements
from hr_search.search import policy
from hr_search.search.memory import FOLDER as MEMORY

_LIBRARIES = ("sentence-transformers", "transformers", "tokenizers", "torch")
_BESIDE = ("README.md", policy.FILE)  # files in a model's folder that change no embedding


def versions() -> dict[str, str]:
    """The versions of this package and of the libraries that decide what a model gives."""
    return {"hr_search": __version__} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def proof_of(encoder: Encoder) -> dict[str, Any]:
    """The evidence that an encoder was checked, ready for JSON; without files for a model of the Hub."""
    return {
        "files": _stamps(requirements.place_of(encoder.name)),
        "versions": versions(),
        "device": encoder.device.type,
        "packs": encoder.packs,
        "foreign": encoder.foreign,
    }


def open_proven(name: str, maxlength: int, precision: str, proof: Any) -> tuple[Encoder, bool]:
    """The encoder called `name`, and whether the proof holds for it, so that nothing was checked again.

    Args:
        name: "embedded", a folder or a Hub name.
        maxlength: tokens a text is cut to; 0 = the model's own.
        precision: as for `load_encoder`.
        proof: what `proof_of` gave when the index was written.

    Raises:
        InputError: as `load_encoder`.
    """
    holds = _holds(proof, name)
    shortcuts = (bool(proof["packs"]), bool(proof["foreign"])) if holds else None
    collects = gc.isenabled()
    gc.disable()  # a vocabulary of 250,000 pieces makes it search all objects again and again
    try:
        return load_encoder(name, maxlength, precision, proven=shortcuts), holds
    finally:
        if collects:
            gc.enable()


def _holds(proof: Any, name: str) -> bool:
    if not isinstance(proof, Mapping) or not proof.get("files") or not {"packs", "foreign"} <= set(proof):
        return False
    from sentence_transformers.util import get_device_name

    same = proof.get("versions") == versions() and proof.get("device") == get_device_name().split(":")[0]
    return same and proof["files"] == _stamps(requirements.place_of(name))


def _stamps(source: str) -> dict[str, list[int]]:
    """Size and time of change (ns) of each file in a model's folder; empty for a name on the Hub."""
    folder = Path(source)
    if not folder.is_dir():
        return {}
    found = {}
    for path in folders.files_of(folder):
        name = path.relative_to(folder)
        if name.parts[0] != MEMORY and str(name) not in _BESIDE:
            state = path.stat()
            found[str(name)] = [state.st_size, state.st_mtime_ns]
    return found
