"""A suite file: the tasks that a suite measures, and how to get the data of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hr_search import settings as config
from hr_search.base import conversions, paths
from hr_search.base.choices import DIRECTIONS, METRICS, is_table_file
from hr_search.base.errors import InputError, quoted, shown, suggestion
from hr_search.base.yaml_files import read_yaml
from hr_search.runs.folders import checked_run_id
from hr_search.settings import Settings

KEYS = ("name", "tasks")
OWN = (  # keys of a task that are no settings
    *("name", "family", "data", "split", "metric", "direction", "dropidentical", "cvs", "licence", "get"),
)
READING = (  # the settings that a task may have
    *("querycolumn", "positivecolumn", "groupcolumn", "template", "documenttemplate", "condense", "redact", "keephtml"),
    *("identity", "encoding", "trustfile", "validationshare", "testshare", "splitseed", "maxlength", "relevantfrom"),
)
_OF_CVS = ("identity", "encoding", "trustfile", "maxlength")  # those that a task of CVs in fields may have
ALL = "all families"  # in the table of families, the mean over them
SPLITS = ("all", "validation", "test")
LIMIT = 500  # tasks of a suite; more are a mistake


@dataclasses.dataclass(frozen=True)
class SuiteTask:
    """One task of a suite: data, how they are read, and what is measured on them.

    Attributes:
        name: of the task, and of the folder of its cells.
        family: tasks of one family are averaged before the families are.
        settings: `datapath` and how it is read; what the file leaves out has its default.
        given: the names of the settings that the file gives.
        split: "all" rows, or those that a run with these settings holds out as "validation" or "test".
        metric: one of `choices.METRICS`.
        directions: those that are measured.
        dropidentical: whether documents equal to the query are left out of its ranking.
        cvs: whether the rows of the data are CVs in fields: the task is then desired position -> rest of the CV.
        licence: of the data.
        get: how the data are fetched; empty where they come with the package.
    """

    name: str
    family: str
    settings: Settings
    given: tuple[str, ...] = ()
    split: str = "all"
    metric: str = "mrr"
    directions: tuple[str, ...] = ("q2d",)
    dropidentical: bool = False
    cvs: bool = False
    licence: str = ""
    get: str = ""

    @property
    def maxlength(self) -> int:
        """Tokens read of a text; 0 = as many as the model was saved with."""
        return self.settings.maxlength if "maxlength" in self.given else 0

    @property
    def there(self) -> bool:
        """Whether the data are here, or can be read without being fetched first."""
        return not is_table_file(self.settings.datapath) or paths.resolve(self.settings.datapath).exists()


@dataclasses.dataclass(frozen=True)
class Suite:
    """The tasks of a suite file."""

    name: str
    tasks: tuple[SuiteTask, ...]


def source_folder() -> Path:
    """The folder of the checkout's suite files."""
    return paths.checkout() / "data" / "suites"


def read_suite(path: Path | str) -> Suite:
    """The suite of a YAML file.

    Args:
        path: the file. Its keys: `name` (default: the file's name) and `tasks`, a list. The keys of a task: `name` and
            `data` (a file, a folder of judged queries, a bundled name or `hf:OWNER/NAME`); `family` (default: one of
            its own), `split` (all), `metric` (mrr), `direction` (q2d, d2q or both; default q2d), `dropidentical`,
            `cvs`, `licence`, `get` (how the data are fetched), and the settings `READING`.

    Raises:
        InputError: an unknown key, a value that does not fit, two tasks of one name, no task, or data that are neither
            here nor to be got.
    """
    source, values = str(path), read_yaml(path)
    _check_keys(values, KEYS, source)
    name = checked_run_id(str(values.get("name", Path(path).stem)))
    entries = values.get("tasks")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{source} has no tasks; give a list of them under tasks:, each with a name and its data.")
    if len(entries) > LIMIT:
        raise InputError(f"{source} has {len(entries):,} tasks; keep it to {LIMIT}.")
    tasks = [_task(entry, f"{source}, task {number}") for number, entry in enumerate(entries, 1)]
    names = [task.name.casefold() for task in tasks]  # some file systems do not tell A from a
    if twice := next((task.name for place, task in enumerate(tasks) if names[place] in names[:place]), ""):
        raise InputError(f"{source} has two tasks with the name {shown(twice)}; give each its own.")
    return Suite(name, tuple(tasks))


def _task(entry: Any, source: str) -> SuiteTask:
    """One entry of the list of tasks."""
    if not isinstance(entry, Mapping):
        raise InputError(f"{source} must be lines of `name: value` with a name and data, not {quoted(entry)}.")
    own, given = _sorted_keys(entry, source)
    if missing := [key for key in ("name", "data") if not str(own.get(key) or "").strip()]:
        raise InputError(f"{source} has no {missing[0]}; it needs a name and data.")
    name = checked_run_id(str(own["name"]))
    where = f"{source} ({name})"
    settings = Settings.from_mapping({**given, "datapath": str(own["data"])}, where)
    direction = _one_of("direction", own.get("direction", "q2d"), (*DIRECTIONS, "both"), where)
    task = SuiteTask(
        name=name,
        family=str(own.get("family") or name),
        settings=settings,
        given=tuple(given),
        split=_one_of("split", own.get("split", "all"), SPLITS, where),
        metric=_one_of("metric", own.get("metric", "mrr"), METRICS, where),
        directions=DIRECTIONS if direction == "both" else (direction,),
        dropidentical=conversions.converted("dropidentical", own.get("dropidentical", False), bool, where),
        cvs=conversions.converted("cvs", own.get("cvs", False), bool, where),
        licence=str(own.get("licence") or ""),
        get=" ".join(str(own.get("get") or "").split()),
    )
    if task.family == ALL:
        raise InputError(
            f'{where} has the family "{ALL}", which is the name of the mean over families; choose another.'
        )
    if settings.condense and task.split == "all":
        raise InputError(f"{where} has condense, which is learnt from train rows; give split: test as well.")
    if task.cvs:
        _check_cvs(task, given, where)
    if not task.there and not task.get:
        raise InputError(
            f"{where}: its data {shown(settings.datapath)} does not exist; check the path, or say under get: how they "
            "are fetched, so that the task is skipped until then."
        )
    return task


def _check_cvs(task: SuiteTask, given: Mapping[str, Any], where: str) -> None:
    """Checks that nothing else is wanted of a file of CVs than what can be made of it."""
    if not is_table_file(task.settings.datapath):
        raise InputError(f"{where} has cvs, which is for a file whose rows are CVs in fields; leave it out.")
    idle = [name for name in given if name not in _OF_CVS]
    idle += ["split"] * (task.split != "all") + ["dropidentical"] * task.dropidentical
    if idle:
        raise InputError(
            f"{where} has cvs and {idle[0]}, which means nothing for CVs in fields; leave one of them out."
        )


def _sorted_keys(entry: Mapping[Any, Any], source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of a task that are its own, and its settings under their names."""
    own: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for key, value in entry.items():
        if key in OWN:
            own[key] = value
            continue
        name = str(key).replace("-", "").replace("_", "").lower()
        if name not in READING:
            raise InputError(f'{source} has no key "{shown(key)}"; {suggestion(str(key), [*OWN, *READING])}')
        if name in given:
            raise InputError(f"{source} gives {name} twice; keep one of the two.")
        given[name] = config.checked(name, value, source)
    return own, given


def _one_of(key: str, value: Any, valid: tuple[str, ...], source: str) -> str:
    if value not in valid:
        raise InputError(f"{source}: {key} is {quoted(value)}; {suggestion(str(value), valid)}")
    return value


def _check_keys(values: Mapping[str, Any], valid: tuple[str, ...], source: str) -> None:
    for key in values:
        if key not in valid:
            raise InputError(f'{source} has no key "{shown(key)}"; {suggestion(str(key), valid)}')
