"""What lies in a model's folder, checked before any library opens it: kinds of files, sizes, classes of modules.

A folder may come from anywhere. Loaders read whatever bears the right name, wait for ever on a pipe, and build a
million layers where the configuration asks for them.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hr_search.base.errors import InputError, one_line, quoted, shown
from hr_search.base.files import read_json, refuse_pointer

_FILES = 2000  # looked at; a model has a few dozen
_DEPTH = 3  # folders below the model's own: modules, and those of a router
_POINTER = 1024  # bytes; a pointer of Git is shorter
_SETTINGS = 10_000_000  # bytes of a configuration; longer ones hold a vocabulary
_LAYERS = 1000  # of layers, heads, groups or experts: several times those of the largest encoders
_WIDTH = 10_000_000  # of rows, columns or positions
_COUNTS = re.compile("layers?$|groups?$|group_num$|heads?$|experts?$")
_WIDTHS = re.compile("size|dim|width|position|vocab|features|channels|d_model|d_ff|d_kv|n_embd|n_inner|n_ctx")
_MODULES = 50
_SPARE = 1 << 30  # bytes
_SIZES = (
    ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers"),
    ("hidden_size", "d_model", "dim", "n_embd"),
    ("intermediate_size", "d_ff", "hidden_dim", "n_inner", "encoder_ffn_dim"),
    ("vocab_size",),
)


def require_folder(folder: Path) -> None:
    """Checks the files of a model's folder.

    Raises:
        InputError: naming the first file that is a pipe or another device, a broken link, a pointer of Git, a
            configuration of sizes that no model has, or a list of modules that are not of sentence-transformers.
    """
    stored = 0
    configs = []
    for path in files_of(folder):
        try:
            state = path.stat()
        except OSError as error:
            raise InputError(f"{path} leads to no file ({one_line(error, 120)}); copy the model again.") from error
        if not stat.S_ISREG(state.st_mode):
            raise InputError(f"{path} is a pipe or a device, no file; copy the model again.")
        if state.st_size < _POINTER:
            refuse_pointer(path)
        stored += state.st_size
        if path.suffix == ".json" and "config" in path.name and state.st_size < _SETTINGS:
            configs.append(path)
    for path in configs:
        config = _read(path)
        require_sizes(config, str(path))
        _require_weight(config, path, stored)
    _require_plain_modules(folder / "modules.json")


def files_of(folder: Path) -> Iterator[Path]:
    """The files in and below a folder, hidden folders left out."""
    left = _FILES
    for place, folders, names in os.walk(folder):
        deep = len(Path(place).relative_to(folder).parts) >= _DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            yield Path(place) / name
            if not (left := left - 1):
                return


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply to be a configuration; copy the model again.") from error


def _require_weight(config: Any, path: Path, stored: int) -> None:
    """Checks that the weights a configuration asks for are not a great many times those that are there."""
    if not isinstance(config, dict):
        return
    layers, hidden, inner, vocabulary = (
        next((config[name] for name in names if isinstance(config.get(name), int)), 0) for names in _SIZES
    )
    wanted = layers * (4 * hidden + 2 * inner) * hidden + vocabulary * hidden
    if wanted // 4 > 8 * stored + _SPARE:  # weights of two bits would be the smallest
        raise InputError(
            f"{path} asks for {wanted:,} weights, and the files beside it have {stored:,} bytes; copy the model again."
        )


def require_sizes(config: Any, place: str) -> None:
    """Checks the sizes in a configuration, those of its parts included.

    Args:
        config: what its file holds.
        place: the file, or the model, for the sentence.

    Raises:
        InputError: naming the first size that no model has.
    """
    if not isinstance(config, dict):
        return
    for name, value in config.items():
        if isinstance(value, dict):
            require_sizes(value, place)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            most = _LAYERS if _COUNTS.search(str(name)) else _WIDTH if _WIDTHS.search(str(name)) else math.inf
            if value > most:
                raise InputError(
                    f"{place} asks for {shown(name)} = {quoted(value)}, and no model has more than {most}; copy "
                    "the model again."
                )


def _require_plain_modules(place: Path) -> None:
    """Checks that a model's modules are classes of sentence-transformers, which before version 6 runs any other.

    Raises:
        InputError: naming the first other class.
    """
    try:
        modules = _read(place) if place.is_file() else []
        kinds = [(str(module["type"]), str(module["path"])) for module in modules]
    except (TypeError, KeyError) as error:
        raise InputError(f"{place} is not the list of a model's modules; copy the model again.") from error
    if len(kinds) > _MODULES:
        raise InputError(f"{place} lists {len(kinds)} modules, and no model has more than {_MODULES}.")
    for kind, path in kinds:
        _require_plain(kind, place)
        settings = place.parent / path / "config.json"
        config = _read(settings) if kind.endswith(".Dense") and settings.is_file() else {}
        activation = str(config.get("activation_function") or "torch.") if isinstance(config, dict) else "torch."
        if not activation.startswith("torch."):
            raise InputError(
                f"{settings} asks for the activation {shown(activation)}, which is not part of torch and would be "
                "replaced by another; use a model without code of its own."
            )


def _require_plain(kind: str, place: Path) -> None:
    if not kind.startswith("sentence_transformers."):
        raise InputError(
            f"{place} asks for the class {shown(kind)}, which is not part of sentence-transformers, and nothing was "
            "run; use a model without code of its own."
        )
