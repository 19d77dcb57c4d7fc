"""What an export needs, checked before anything is written: packages, a model that can be exported, a free place."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hr_search.base import paths
from hr_search.base.errors import InputError, one_line
from hr_search.encoder import Encoder
from hr_search.release import require_place

FORMATS = ("onnx", "openvino", "int8", "static")
MANIFEST = "export.json"
_PACKAGES = {
    "onnx": ("onnxruntime",),
    "int8": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "static": (),
}  # that each format needs
_EXTRAS = {"openvino": "openvino"}
_MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Dropout", "Normalize")


def require_packages(form: str) -> None:
    """Checks that the packages of a format are installed.

    Raises:
        InputError: naming the first that is missing and the extra that brings it.
    """
    for package in _PACKAGES[form]:
        if importlib.util.find_spec(package) is None:
            extra = _EXTRAS.get(form, "export")
            raise InputError(
                f'the format {form} needs the package {package}; install it with pip install "hr_search[{extra}]".'
            )


def require_model(encoder: Encoder) -> None:
    """Checks that the way from a text to its embedding is a tokenizer and a graph.

    Raises:
        InputError: the model has another first module than a transformer, a module that is not known here, routes, a
            prompt that the pooling leaves out, or a tokenizer that is not a `tokenizer.json`.
    """
    names = [type(module).__name__ for module in encoder.model]
    reason = ""
    if strange := next((name for name in names if name not in _MODULES), ""):
        reason = f"has a module {strange}"
    elif encoder.foreign:
        reason = "is encoded by sentence-transformers itself, with steps of its own"
    elif any(getattr(module, "include_prompt", True) is False for module in encoder.model):
        reason = "leaves the tokens of its prompt out of the pooling"
    elif not hasattr(encoder.model.tokenizer, "backend_tokenizer"):
        reason = "has a tokenizer written in Python"
    if reason:
        raise InputError(
            f"the model {encoder.name} {reason}, which no exported form can repeat; export a plain model "
            f"({', '.join(_MODULES)})."
        )


def require_out(out: str, model: str) -> Path:
    """The folder to write: a new place, an empty folder or an older export.

    Args:
        out: where the export goes.
        model: the model's folder or name.

    Raises:
        InputError: it lies in the model's folder, is a file, holds other files or cannot be written to.
    """
    folder = paths.resolve(out)
    try:
        source = Path(model).expanduser()
        if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
            raise InputError(f"--out {folder} lies in the folder of the model; give a folder beside it.")
        if folder.is_file():
            raise InputError(f"--out {folder} is a file; give the path of a folder to write.")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
            raise InputError(f"the folder {folder} holds files that are not an export; give another --out.")
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--out {folder} cannot be used ({one_line(error)}); give another folder.") from error
    require_place(folder)
    return folder


def versions(*packages: str) -> dict[str, Any]:
    """The installed versions of packages."""
    from importlib.metadata import version

    return {package: version(package) for package in packages}
