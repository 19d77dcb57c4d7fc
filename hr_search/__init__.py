"""Train search encoders for HR (vacancy, job title, CV) and prove that they are better.

Tables of pairs go in, an encoder comes out, and every number about it is a row in a table.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# Nothing is reported to anybody; set before any Hub library reads it.
for _name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

__version__ = "0.2.0"

_PUBLIC = {
    "Settings": "settings",
    "load_data": "data.loading",
    "load_encoder": "encoder",
    "triplet": "losses",
    "infonce": "losses",
    "mix": "mixing",
    "mine": "mining",
    "fit": "train",
    "evaluate": "evaluation.scoring",
    "run_experiment": "experiment",
    "open_run": "runs.folders",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: torch alone takes seconds, and `--help` needs none of it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
