"""The settings of a run: one frozen dataclass whose names, types, bounds and help texts serve the
command line, YAML recipes and notebook parameters alike.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from hr_search.base.choices import (
    DIRECTIONS,
    HARDNESS,
    LOSSES,
    METRICS,
    MIXINGS,
    NEGATIVES,
    PRECISIONS,
    SAMPLINGS,
    TRACKERS,
)
from hr_search.base.errors import InputError, one_line, quoted, shown, suggestion

MANY = 10**12  # more than any count of rows or steps, and small enough for all arithmetic
YAML_LIMIT = 1_000_000  # characters of a YAML file, and values it may stand for: aliases make billions of a few lines


def _setting(
    default: Any, help: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what a training run does; two runs with equal settings and data are equal.

    Names, types, bounds and help texts of the fields are those of flags, recipes and notebook parameters.

    Raises:
        InputError: a value of another type, out of bounds or not among the choices.

    Example:
        >>> settings = Settings.from_mapping({"learning-rate": "3e-5", "loss": "infonce"})
        >>> settings.learningrate, settings.replace(batchsize=64).batchsize
        (3e-05, 64)
    """

    # Data
    datapath: str = _setting(
        "esco",
        "table of pairs or triplets: a .pkl, .csv, .tsv, .jsonl[.gz] or .parquet file, "
        "hf:OWNER/NAME, esco (bundled, English) or sample_ru (bundled, Russian)",
    )
    validationpath: str = _setting("", "table for validation; empty = a grouped part of datapath")
    testpath: str = _setting("", "table for the final test; empty = a grouped part of datapath")
    querycolumn: str = _setting("", "column with the query; empty = found by name")
    positivecolumn: str = _setting("", "column with the matching document; empty = found by name")
    negativecolumn: str = _setting("", "column(s) with wrong documents, separated by commas; empty = found by name")
    groupcolumn: str = _setting(
        "", "column whose equal values are relevant to each other; empty = the normalised query"
    )
    template: str = _setting("", 'makes the query of several columns, such as "{title}. Skills: {skills}"')
    documenttemplate: str = _setting("", 'makes the matching document likewise, such as "{text} {requirements}"')
    condense: int = _setting(
        0,
        "characters kept of a long document: the sentences whose words tell the query, by the train rows; 0 = all; "
        "about 4 for each token of maxlength",
        0,
        MANY,
    )
    redact: bool = _setting(False, "replaces e-mails, phones, links and handles in all texts on reading")
    keephtml: bool = _setting(False, "leave HTML in texts as it is; by default tags go and entities become characters")
    encoding: str = _setting("", "encoding of text files, such as cp1251; empty = detected")
    trustfile: bool = _setting(False, "read tables that unpack to more memory than a table may have")
    validationshare: float = _setting(0.1, "share of the groups held out for validation", 0.0, 0.8)
    testshare: float = _setting(0.1, "share of the groups held out for the test", 0.0, 0.8)
    splitseed: int = _setting(42, "seed of the split of datapath; the same held-out rows for any --seed", 0, 2**31 - 1)
    maxrows: int = _setting(0, "train on at most this many rows; 0 = all", 0, MANY)
    allowleaks: bool = _setting(False, "go on although validation or test texts occur in train")

    # Model
    modelname: str = _setting("embedded", "embedded (multilingual-e5-small, no download), a Hub name or a local folder")
    maxlength: int = _setting(128, "tokens a text is cut to, special tokens included", 8, 8192)
    trainlength: int = _setting(
        0,
        "tokens a text is cut to while training, condensed in proportion; validation, test and search read maxlength; "
        "0 = maxlength",
        0,
        8192,
    )
    queryprompt: str = _setting("", "text put before every query; empty = the model's own")
    documentprompt: str = _setting("", "text put before every document; empty = the model's own")
    dropout: float = _setting(0.0, "dropout while training; -1 = the model's own", -1.0, 0.9)
    precision: str = _setting(
        "auto", "auto = bf16 where the hardware multiplies it fast, else fp32", choices=PRECISIONS
    )

    # Loss
    loss: str = _setting("triplet", "training loss", choices=LOSSES)
    margin: float = _setting(0.3, "cosine margin of triplet and margin-ce", 0.0, 2.0)
    temperature: float = _setting(0.05, "temperature of margin-ce and infonce", 0.001, 10.0)
    symmetric: bool = _setting(
        True, "margin-ce and infonce also rank the queries of the batch for each document, whatever --negatives"
    )
    negatives: str = _setting(
        "batch",
        "given = the table's wrong documents; random = a random document of the batch; "
        "batch = all wrong documents of the batch (and the given ones); mined = batch and hard ones mined from train",
        choices=NEGATIVES,
    )
    hardness: str = _setting(
        "hardest",
        "which wrong documents a triplet loss looks at: hardest = the nearest; semi-hard = the nearest that is "
        "further away than the positive; all = the mean over all that violate the margin",
        choices=HARDNESS,
    )

    # Mining: with negatives = mined
    minepool: int = _setting(10, "hard negatives mined for each query, or document", 1, 1000)
    minecount: int = _setting(1, "of them join the batch with each row, drawn anew at every step", 1, 100)
    mineside: str = _setting(
        "document",
        "document = wrong documents for each query; query = wrong queries for each document, which infonce and "
        "margin-ce rank in their second direction: cheap where queries are short",
        choices=("document", "query"),
    )
    mineevery: int = _setting(0, "mine anew every this many steps; 0 = at the start of each epoch", 0, MANY)
    minestart: int = _setting(0, "first rank taken; skipping the nearest avoids right documents nobody marked", 0, MANY)
    minestop: int = _setting(0, "rank behind the last one taken; 0 = 100, or the end of the band", 0, MANY)
    minebandlow: float = _setting(0.0, "ranks from this share of the corpus on (ConFit v2: 0.03)", 0.0, 1.0)
    minebandhigh: float = _setting(0.0, "ranks up to this share of the corpus (ConFit v2: 0.04); 0 = no band", 0.0, 1.0)
    mineshare: float = _setting(
        0.95, "a negative scores at most this share of the positive's score (NV-Retriever); 0 = off", 0.0, 1.0
    )
    minesampling: str = _setting("top", "top = the nearest that are left; random = any of them", choices=SAMPLINGS)

    # Mixing: training only
    mixing: str = _setting(
        "none",
        "the query embedding is mixed with its nearest positives and negatives (mean, weighted, rocchio, slerp), or "
        "further negatives are mixed (mochi, synco)",
        choices=MIXINGS,
    )
    mixk: int = _setting(1, "neighbours of each kind that are mixed in", 1, 64)
    mixquery: float = _setting(0.8, "weight of the query itself", 0.0, 1.0)
    mixpositive: float = _setting(0.2, "weight of its nearest positives; of slerp: share of the way", -1.0, 1.0)
    mixnegative: float = _setting(-0.1, "weight of its nearest negatives", -1.0, 1.0)
    mixcount: int = _setting(4, "negatives of each kind that mochi and synco make for a row", 1, 1000)
    mixstart: float = _setting(0.0, "share of the steps before mixing begins", 0.0, 1.0)
    mixprobability: float = _setting(1.0, "share of the rows that are mixed", 0.0, 1.0)
    mixown: bool = _setting(False, "a row's own positive may be one of its nearest; lowers the loss by itself")
    mixdetach: bool = _setting(True, "neighbours get no gradient from being mixed in")
    bank: int = _setting(
        0, "recent documents kept as further neighbours for mixing; 0 = those of the batch only", 0, 1_000_000
    )

    # Optimisation
    learningrate: float = _setting(5e-5, "peak learning rate of AdamW", 1e-9, 1.0)
    batchsize: int = _setting(32, "rows a step; in-batch negatives grow with it, so does memory", 1, 65536)
    epochs: int = _setting(1, "passes over the train rows", 1, 10000)
    maxsteps: int = _setting(0, "stop after this many steps; 0 = after the epochs", 0, MANY)
    warmup: float = _setting(0.1, "share of the steps in which the learning rate rises", 0.0, 0.9)
    weightdecay: float = _setting(0.0, "AdamW weight decay (never on embeddings, biases and norms)", 0.0, 1.0)
    clip: float = _setting(1.0, "largest gradient norm; 0 = no clipping", 0.0)
    baseshare: float = _setting(
        0.0,
        "share of the weights before training in the model that is validated, tested and kept (WiSE-FT); 0 = none",
        0.0,
        0.9,
    )
    chunktokens: int = _setting(0, "padded tokens encoded at a time; 0 = what suits the device", 0, MANY)
    gradcache: bool = _setting(
        False, "encode each batch twice, chunktokens at a time: memory of one part, a third more time, the same loss"
    )
    seed: int = _setting(42, "seed of order, dropout and sampling", 0, 2**31 - 1)

    # Evaluation and stopping
    evalsteps: int = _setting(0, "also validate every this many steps; 0 = after each epoch only", 0, MANY)
    goal: str = _setting("mrr", "validation metric that picks the best model", choices=METRICS)
    direction: str = _setting(
        "q2d", "direction the goal is measured in: q2d = query to document, d2q = document to query", choices=DIRECTIONS
    )
    patience: int = _setting(3, "stop after this many validations without a new best; 0 = never", 0, MANY)
    target: float = _setting(0.0, "stop once the goal reaches this value; 0 = never", 0.0, 1.0)
    probes: int = _setting(
        1000, "validation texts of each side whose embeddings are kept at every validation, for drift", 0, 5000
    )

    # Output
    projectname: str = _setting("hr-search", "name of the run and of the tracked project")
    outputpath: str = _setting("", "where the model goes: a folder, or FILE.pt for weights and a folder beside it")
    checkpointpath: str = _setting("", "file the checkpoint is written to, and resumed from; empty = none")
    checkpointsteps: int = _setting(1000, "write the checkpoint every this many steps", 1, MANY)
    resume: bool = _setting(False, "go on from checkpointpath where it exists")
    tracker: str = _setting("none", "also log to an experiment tracker (extra: track)", choices=TRACKERS)

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

    def to_dict(self) -> dict[str, Any]:
        """All settings as a JSON-ready mapping."""
        return dataclasses.asdict(self)


FIELDS: dict[str, dataclasses.Field] = {field.name: field for field in dataclasses.fields(Settings)}
TYPES: dict[str, type] = get_type_hints(Settings)


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
    value = converted(name, value, kind, source)
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    if choices and value not in choices:
        raise InputError(f"{source}: {name} is {quoted(value)}; {suggestion(value, choices)}")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise InputError(f"{source}: {name} is {value:g}; it must be {bounds}.")
    return value


def converted(name: str, value: Any, kind: type, source: str = "the settings") -> Any:
    """`value` as `kind` (int, float, bool or str), accepting the texts a command line or YAML gives.

    Raises:
        InputError: the value is of another kind, NaN or infinite, or a text that no file can hold.
    """
    wrong = InputError(f"{source}: {name} is {quoted(value)}; it must be {_KIND_WORDS[kind]}.")
    if isinstance(value, bool) or kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        value = words.get(str(value).strip().lower()) if isinstance(value, str) else value
        if kind is not bool or not isinstance(value, bool):
            raise wrong
        return value
    if kind is str:
        if not isinstance(value, str | Path):
            raise wrong
        if re.search("[\0\ud800-\udfff]", str(value)):
            raise InputError(
                f"{source}: {name} is {quoted(str(value))}, which holds a NUL or half a character; take it out, or "
                "rename the file."
            )
        return str(value)
    try:
        number = float(value)
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise wrong
    except (TypeError, ValueError, OverflowError) as error:
        raise wrong from error
    return int(value) if kind is int and isinstance(value, int) else kind(number)


_KIND_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping a YAML file holds, read with the safe loader.

    Raises:
        InputError: the file is missing, is not YAML, is not a mapping of names to values or gives a name twice.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(YAML_LIMIT + 1)
        node = yaml.compose(text, yaml.SafeLoader) if len(text) <= YAML_LIMIT else None
        endless = len(text) > YAML_LIMIT or _values_of(node, {}) > YAML_LIMIT
        values = None if endless else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; recipes lie in data/recipes.") from error
    # Impossible dates and numbers of thousands of digits are plain ValueErrors, deep nesting ends the recursion.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML ({one_line(error)}).") from error
    if endless:
        raise InputError(
            f"{path} has, with its aliases written out, more than {YAML_LIMIT:,} values or characters; give a file of "
            "settings, not of data."
        )
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold lines of `name: value`.")
    # YAML itself keeps the last of two and says nothing.
    if twice := [name for name, count in Counter(name.value for name, _ in node.value).items() if count > 1]:
        raise InputError(f"{path} gives {shown(twice[0])} twice; keep one of the two.")
    return values


def _values_of(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a YAML node stands for with its aliases written out; endless where it holds itself."""
    if id(node) not in known:
        known[id(node)] = YAML_LIMIT + 1
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = (each if isinstance(each, tuple) else (each,) for each in inner)
        known[id(node)] = 1 + sum(_values_of(each, known) for pair in pairs for each in pair)
    return known[id(node)]


def read_recipe(path: Path | str) -> Settings:
    """The settings a recipe file (YAML) holds.

    Raises:
        InputError: as `read_yaml` and `Settings.from_mapping`, naming the file.
    """
    return Settings.from_mapping(read_yaml(path), str(path))
