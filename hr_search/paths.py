"""Where things lie: one root, one override variable, never the working directory.

Notebook tests and papermill start kernels in different folders, so every place is derived from
the package. `HR_SEARCH_HOME` moves what is written (caches, metrics, reports) elsewhere; notebooks
and recipes are always those of the checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

from hr_search.errors import InputError

HOME_VARIABLE = "HR_SEARCH_HOME"


def checkout() -> Path:
    """The repository folder this package was installed from, or the user's `~/hr_search` for a wheel."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "pyproject.toml").exists() else Path.home() / "hr_search"


def root() -> Path:
    """The folder under which everything is written: `$HR_SEARCH_HOME`, else the checkout."""
    override = os.environ.get(HOME_VARIABLE, "").strip()
    return Path(override).expanduser().resolve() if override else checkout()


def models() -> Path:
    """Rebuilt and trained models (git-ignored)."""
    return root() / "data" / "models"


def cache() -> Path:
    """Token caches; safe to delete at any time (git-ignored)."""
    return root() / "data" / "cache"


def metrics() -> Path:
    """Result tables."""
    return root() / "metrics"


def runs() -> Path:
    """One folder a run (git-ignored)."""
    return metrics() / "runs"


def reports() -> Path:
    """Executed notebooks and HTML pages (git-ignored)."""
    return root() / "reports"


def notebooks() -> Path:
    """The numbered notebooks of the checkout.

    Raises:
        InputError: the package was installed without them.
    """
    folder = checkout() / "notebooks"
    if not folder.is_dir():
        raise InputError(f"the notebooks are not at {folder}; clone the repository and run `pip install -e .` in it.")
    return folder


def recipes() -> Path:
    """The recipes (settings of real runs) of the checkout."""
    return checkout() / "data" / "recipes"


def resolve(path: str | Path) -> Path:
    """An absolute path for what a user wrote: as it is, from the working directory, else from the checkout."""
    path = Path(path).expanduser()
    if path.is_absolute() or path.exists():
        return path.resolve()
    inside = checkout() / path
    return inside if inside.exists() else path.resolve()
