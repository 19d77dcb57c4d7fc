"""The settings of a run: one frozen dataclass whose names, types, bounds and help texts serve the
command line, YAML recipes and notebook parameters alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from hr_search.base.conversions import converted
from hr_search.base.errors import InputError, quoted, shown, suggestion
from hr_search.base.yaml_files import read_yaml
from hr_search.fields import (
    DataFields,
    EvaluationFields,
    LossFields,
    MiningFields,
    MixingFields,
    ModelFields,
    OptimisationFields,
    OutputFields,
    RerankingFields,
    SearchFields,
    TeacherFields,
)
from hr_search.sources import one_text, sources


@dataclasses.dataclass(frozen=True)
class Settings(  # the fields of the last come first
    OutputFields,
    EvaluationFields,
    OptimisationFields,
    MixingFields,
    SearchFields,
    RerankingFields,
    TeacherFields,
    MiningFields,
    LossFields,
    ModelFields,
    DataFields,
):
    """Everything that decides what a training run does; two runs with equal settings and data are equal.

    Names, types, bounds and help texts of the fields are those of flags, recipes and notebook parameters.

    Raises:
        InputError: a value of another type, out of bounds or not among the choices.

    Example:
        >>> settings = Settings.from_mapping({"learning-rate": "3e-5", "loss": "infonce"})
        >>> settings.learningrate, settings.replace(batchsize=64).batchsize
        (3e-05, 64)
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field.name, getattr(self, field.name)))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str = "the settings") -> Settings:
        """The settings with `values` laid over the defaults.

        Args:
            values: names (any case, `-` and `_` ignored) to values; texts are converted to the setting's type.
            source: how to name the place in an error, such as a file.

        Raises:
            InputError: an unknown name, a wrong type, a value out of bounds, a name given twice.
        """
        known: dict[str, Any] = {}
        for name, value in values.items():
            key = canonical(str(name), source)
            if key in known:
                raise InputError(f"{source} gives {key} twice; keep one of the two.")
            known[key] = checked(key, value, source)
        return cls(**known)

    def replace(self, **changes: Any) -> Settings:
        """A copy with some settings changed, checked like any others."""
        return dataclasses.replace(self, **changes)

    def tables(self) -> list[Settings]:
        """The settings by which each table of `datapath` is read: its path, with its own columns over these."""
        return [self.replace(datapath=source.path, **source.columns) for source in sources(self.datapath)]

    def holds_out(self, part: str) -> bool:
        """Whether "validation" or "test" has a file of its own, or a share of some table."""
        return bool(getattr(self, f"{part}path")) or any(getattr(each, f"{part}share") for each in self.tables())

    def to_dict(self) -> dict[str, Any]:
        """All settings as a JSON-ready mapping."""
        return dataclasses.asdict(self)


FIELDS: dict[str, dataclasses.Field] = {field.name: field for field in dataclasses.fields(Settings)}
TYPES: dict[str, type] = get_type_hints(Settings)
GROUPS: dict[str, list[str]] = {
    group.__doc__ or "": [field.name for field in dataclasses.fields(group)] for group in reversed(Settings.__bases__)
}


def canonical(name: str, source: str = "the settings") -> str:
    """The setting's name for any spelling of it: `--learning_rate`, `learning-rate`, `learningRate`.

    Raises:
        InputError: no setting has that name; the sentence gives the nearest one.
    """
    key = name.strip().lstrip("-").replace("-", "").replace("_", "").lower()
    if key not in FIELDS:
        raise InputError(f'{source} has no setting "{shown(name)}"; {suggestion(key, FIELDS)}')
    return key


def checked(name: str, value: Any, source: str = "the settings") -> Any:
    """`value` in the type of the setting `name`.

    Raises:
        InputError: it cannot be read as that type, is out of bounds or is not one of the choices.
    """
    field, kind = FIELDS[name], TYPES[name]
    value = converted(name, one_text(value, source) if name == "datapath" else value, kind, source)
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    if choices and value not in choices:
        raise InputError(f"{source}: {name} is {quoted(value)}; {suggestion(value, choices)}")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise InputError(f"{source}: {name} is {value:g}; it must be {bounds}.")
    return value


def read_recipe(path: Path | str) -> Settings:
    """The settings a recipe file (YAML) holds.

    Raises:
        InputError: as `read_yaml` and `Settings.from_mapping`, naming the file.
    """
    return Settings.from_mapping(read_yaml(path), str(path))
