"""Parameters of notebooks: what a notebook declares, and the checked values it gets for a run."""

from __future__ import annotations

import ast
import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hr_search import settings as config
from hr_search.base import conversions, files, paths
from hr_search.base.errors import InputError, one_line, quoted, shown, suggestion
from hr_search.settings import Settings

RESERVED = ("more", "runid")  # parameters that the report itself fills in
# Bounds of parameters that are not settings: a value outside would otherwise be refused only after the training.
BOUNDS = {"points": (10, 5000), "neighbours": (2, 200), "checkpoints": (2, 20), "examples": (1, 200), "worst": (1, 200)}
BOUNDS |= {"top": (1, 50), "texts": (2, 2000), "pairs": (2, 2000)}  # of the playground


class Parameter(NamedTuple):
    """A parameter as its notebook declares it."""

    default: Any
    help: str


def parameters_of(path: Path | str) -> dict[str, Parameter]:
    """The parameters a notebook declares in its cell tagged `parameters`, in the order of the cell.

    Raises:
        InputError: the notebook is missing or unreadable, or a line of the cell is not `name = literal  # help`.
    """
    # Not at the top: papermill takes a second to import, and kernels need only `check_parameters`.
    import nbformat
    import papermill

    path = Path(path)
    try:
        notebook = nbformat.read(path, as_version=4)
        cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        with quiet_papermill():
            read = set(papermill.inspect_notebook(papermill_path(path)))
    except FileNotFoundError as error:
        raise InputError(f"the notebook {path} does not exist.") from error
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        raise InputError(f"{path} is not a readable notebook ({one_line(error)}).") from error
    if len(cells) > 1:
        raise InputError(f"{path.name} has {len(cells)} cells tagged parameters; keep one.")
    declared = _literals("".join(cells), path.name)
    if unread := [name for name in declared if name not in read]:
        raise InputError(f"{path.name}: papermill skips {unread[0]}; keep its line to one `=`, comment included.")
    return declared


def declared_in(notebook: Mapping[str, Any], name: str) -> dict[str, Parameter]:
    """As `parameters_of`, for the JSON of a notebook of the checkout; papermill, which takes a second, is not asked.

    Args:
        notebook: what its file holds.
        name: of the file, for errors.

    Raises:
        InputError: a line of the cell is not `name = literal  # help`.
    """
    cells = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    return _literals("".join("".join(cell["source"]) for cell in cells), name)


def _literals(source: str, where: str) -> dict[str, Parameter]:
    """What a cell declares that holds nothing but lines of `name = literal  # help`."""
    found: dict[str, Parameter] = {}
    try:
        for line in ast.parse(source).body:
            target = line.targets[0] if isinstance(line, ast.Assign) else line.target
            rest = source.split("\n")[line.end_lineno - 1].encode()[line.end_col_offset :].decode().strip()
            found[target.id] = Parameter(ast.literal_eval(line.value), rest.removeprefix("#").strip())
    except (SyntaxError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: the parameters cell may hold only lines of `name = literal  # help`.") from error
    return found


def check_parameters(notebook: str) -> None:
    """Gives the parameters of the notebook that is running, named so, the values that `given` returns.

    Raises:
        InputError: as `given`.
    """
    from IPython import get_ipython

    names = get_ipython().user_ns
    names.update(given(notebook, names))


def given(notebook: str, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the notebook that is running, each in the type of its default and within its bounds.

    A report has checked them before; papermill's command line guesses types (`-p worst 2e1` is 20.0) and injects names
    that no cell knows.

    Args:
        notebook: its name, `04_analyse_metrics`.
        namespace: its names, IPython's `In` among them.

    Raises:
        InputError: a value of another type or out of bounds, or a name that the notebook does not declare.
    """
    path = paths.notebooks() / f"{notebook}.ipynb"
    defaults = {name: parameter.default for name, parameter in declared_in(files.read_json(path), path.name).items()}
    injected = [source for source in namespace.get("In", []) if source.startswith("# Parameters\n")]
    for name in _literals("".join(injected[-1:]), f"{path.name} as papermill has filled it in"):
        if name not in defaults:
            raise InputError(f'{path.name} has no parameter "{shown(name)}"; {suggestion(name, defaults)}')
    values = {name: namespace[name] for name in defaults}
    # A run may be called 2026, which papermill takes for a number.
    texts = {name: str(value) for name, value in values.items() if type(value) is int and type(defaults[name]) is str}
    return {name: _checked(name, value, defaults[name], notebook) for name, value in (values | texts).items()}


def papermill_path(path: Path) -> str:
    """A path written so that papermill opens exactly it: whatever stands between braces it would fill in."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextlib.contextmanager
def quiet_papermill() -> Iterator[None]:
    """Keeps papermill from logging which files it opens."""
    logger = logging.getLogger("papermill")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def plan(
    declared: Mapping[str, Mapping[str, Parameter]], settings: Settings, extra: Mapping[str, Any], runid: str
) -> dict[str, dict[str, Any]]:
    """The values that each notebook of a report gets.

    A notebook gets the settings it declares. One that declares `more` also gets, there, all other settings
    that differ from their defaults. `runid` and the names in `extra` go to every notebook that declares them.

    Args:
        declared: by notebook, the parameters that `parameters_of` found.
        settings: the settings of the run.
        extra: values of parameters that are not settings.
        runid: the name of the run.

    Raises:
        InputError: a name in `extra` is a setting, reserved or not declared anywhere, or its value has the wrong
            type or is out of bounds; or a changed setting reaches no notebook.
    """
    known = {name for parameters in declared.values() for name in parameters}
    values = settings.to_dict()
    changed = {name: value for name, value in values.items() if value != config.FIELDS[name].default}
    _check_extra(extra, known)
    lost = sorted(set(changed) - known - {"projectname"})
    if lost and "more" not in known:
        raise InputError(f"no notebook takes the setting {lost[0]}; leave it at its default.")
    planned = {}
    for notebook, parameters in declared.items():
        given = {name: values[name] for name in parameters if name in values}
        if "more" in parameters:
            given["more"] = {name: value for name, value in changed.items() if name not in parameters}
        if "runid" in parameters:
            given["runid"] = runid
        for name, value in extra.items():
            if name in parameters:
                given[name] = _checked(name, value, parameters[name].default, notebook)
        planned[notebook] = given
    return planned


def _check_extra(extra: Mapping[str, Any], known: set[str]) -> None:
    """Checks that each extra name is a notebook's own parameter."""
    for name in extra:
        if name in config.FIELDS or name in RESERVED:
            raise InputError(f'"{name}" is not an extra parameter; give it as a setting or as the run id.')
        if name not in known:
            hint = suggestion(name, sorted(known | {*config.FIELDS}))
            raise InputError(f'no notebook has a parameter "{shown(name)}"; {hint}')


def _checked(name: str, value: Any, default: Any, notebook: str) -> Any:
    """`value` in the type of the parameter's default and within its bounds; a default of None takes anything."""
    if type(default) in (int, float, bool, str):
        value = conversions.converted(name, value, type(default), notebook)
    elif default is not None and not isinstance(value, type(default)):
        kind = type(default).__name__
        raise InputError(f"{notebook}: {name} is {quoted(value)}; it must be a {kind} like {default!r}.")
    if name in config.FIELDS and value != default:
        value = config.checked(name, value, notebook)
    low, high = BOUNDS.get(name, (None, None))
    if low is not None and not low <= value <= high:
        raise InputError(f"{notebook}: {name} is {value}; it must be between {low} and {high}.")
    return value
