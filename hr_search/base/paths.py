"""Where things lie: one root, one override variable, never the working directory.

Notebook tests and papermill start kernels in different folders, so every path is derived from the
package. `HR_SEARCH_HOME` moves all that is written (caches, metrics, reports); notebooks and recipes
are always those of the checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

from hr_search.base.errors import InputError, one_line

HOME_VARIABLE = "HR_SEARCH_HOME"


def checkout() -> Path:
    """The repository folder this package was installed from, or the user's `~/hr_search` for a wheel."""
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / "pyproject.toml").exists() else Path.home() / "hr_search"


def root() -> Path:
    """The folder under which everything is written: `$HR_SEARCH_HOME`, or the checkout if it is unset.

    Raises:
        InputError: the variable names the home of an unknown user.
    """
    override = os.environ.get(HOME_VARIABLE, "").strip()
    try:
        return Path(override).expanduser().resolve() if override else checkout()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{HOME_VARIABLE} is {override!r}, which is not a usable folder ({one_line(error)})."
        ) from error


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
    """One folder for each run (git-ignored)."""
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
    """The absolute path a user means: relative to the working directory, or to the checkout if it exists only there.

    Raises:
        InputError: no file can have that path: it is too long, holds a NUL or names the home of an unknown user.
    """
    try:
        path = Path(path).expanduser()
        if path.is_absolute() or path.exists():
            return path.resolve()
        inside = checkout() / path
        return inside if inside.exists() else path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{str(path)[:80]!r} cannot be a path ({one_line(error)}); give one that can.") from error


def extension(path: Path | str) -> str:
    """The extension that names a file's format, in lower case and without a final `.gz`."""
    return Path(str(path).lower().removesuffix(".gz")).suffix
