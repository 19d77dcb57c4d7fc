"""Which files of a Hub data set are read: its configurations and splits, as the library `datasets` finds them.

`datasets` is asked about empty files of the same names beside the data set's card, so that nothing is downloaded that
is not read. Where it is not installed, or knows none of the files, only names that leave no doubt are understood.
Where several configurations, splits or files could be meant, `hf:OWNER/NAME/ANSWER` names one.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from hr_search.base.errors import InputError, one_line, shown
from hr_search.base.paths import extension

log = logging.getLogger(__name__)

KINDS = (".parquet", ".jsonl", ".csv", ".tsv", ".json", ".pkl")
_ABOUT = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # not rows
_SPLITS = {"train": "train training", "validation": "validation valid val dev", "test": "test testing eval evaluation"}
_WORDS = {word: split for split, words in _SPLITS.items() for word in words.split()}
_SHOWN = 10  # names listed in a sentence

Layout = dict[str, dict[str, list[str]]]
"""The files of each split of each configuration."""


def train_files(
    names: Sequence[str], which: str = "", card: Mapping[str, Any] | None = None, place: str = "the data set"
) -> list[str]:
    """The files of the train split, or of what is asked for.

    Args:
        names: all files of the data set.
        which: a configuration, a split, both as `CONFIGURATION/SPLIT`, a folder or a file; empty = the train split.
        card: the metadata of its card.
        place: the data set as the user wrote it, for errors.

    Returns:
        Names of files, none if the data set has no tables.

    Raises:
        InputError: there are several of them, or not the one asked for; the sentence lists what there is.
    """
    tables = sorted(name for name in names if extension(name) in KINDS and PurePosixPath(name).name not in _ABOUT)
    if not tables or which in tables:
        return [which] if which in tables else []
    layout = _by_library(tables, card) or _by_name(tables)
    if not which:
        return _train_split(layout, tables, card, place)
    if which in layout:
        return _train_split({which: layout[which]}, [], card, place)
    every = {f"{name}/{split}": files for name, splits in layout.items() for split, files in splits.items()}
    if len(layout) == 1:
        every |= next(iter(layout.values()))
    if which in every:
        return every[which]
    folder, _, rest = which.partition("/")
    inside = [name.removeprefix(f"{folder}/") for name in tables if name.startswith(f"{folder}/")]
    if inside:
        return [f"{folder}/{name}" for name in train_files(inside, rest, None, place.removesuffix(f"/{rest}"))]
    found = [*layout, *every, *tables]
    raise InputError(f"{place}: the data set has no {shown(which)}; it has {_listed(found)}.")


def _train_split(layout: Layout, tables: Sequence[str], card: Mapping[str, Any] | None, place: str) -> list[str]:
    """The train split of the only configuration, or of the one that the card calls the default.

    Raises:
        InputError: it has to be asked for.
    """
    if not layout:
        raise InputError(
            f"{place} has {len(tables)} files and their names do not show which to train on; write {place}/ and one of "
            f"{_listed(tables)}, or install the package datasets if it is missing."
        )
    configs = (card or {}).get("configs")
    declared = [entry for entry in configs if isinstance(entry, Mapping)] if isinstance(configs, list) else []
    marked = [str(entry.get("config_name")) for entry in declared if entry.get("default")]
    default = next((name for name in (*marked, "default", *layout) if name in layout), "")
    if len(layout) > 1 and default not in (*marked, "default"):
        raise InputError(f"{place} has {len(layout)} configurations; write {place}/ and one of {_listed(layout)}.")
    if len(layout) > 1:
        others = [name for name in layout if name != default]
        log.warning('%s: read is the configuration "%s"; others are %s', place, default, _listed(others))
    splits = layout[default]
    used = {file for parts in layout.values() for files in parts.values() for file in files}
    kinds = {extension(file) for file in used}
    unused = [name for name in tables if name not in used and extension(name) in kinds]
    if "train" not in splits and (len(splits) > 1 or unused):
        raise InputError(f"{place} has no split called train; write {place}/ and one of {_listed([*splits, *unused])}.")
    split = "train" if "train" in splits else next(iter(splits))
    folders = sorted({str(PurePosixPath(file).parent) for file in splits[split]})
    if len(folders) > 1 and not declared:
        raise InputError(
            f"{place} has files of {split} in {len(folders)} folders, which may be different tables; write {place}/ "
            f"and one of {_listed(folders)}, or {place}/{split} for all."
        )
    if unused:
        log.warning("%s: %d files belong to no split and are not read: %s", place, len(unused), _listed(unused))
    if split != "train":
        log.warning("%s: the only split is %s", place, split)
    return splits[split]


def _by_library(tables: Sequence[str], card: Mapping[str, Any] | None) -> Layout:
    """The layout that `datasets` finds; empty where it is not installed or finds none."""
    try:
        import datasets
    except ImportError:
        return {}
    safe = [name for name in tables if ".." not in PurePosixPath(name).parts and not name.startswith("/")]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve() / "data"
        for name in safe:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        if configs := (card or {}).get("configs"):
            text = yaml.safe_dump({"configs": configs}, allow_unicode=True)
            (folder / "README.md").write_text(f"---\n{text}---\n", encoding="utf-8")
        try:
            builders = {
                name: datasets.load_dataset_builder(str(folder), name, cache_dir=str(Path(scratch) / "cache"))
                for name in datasets.get_dataset_config_names(str(folder))
            }
        except Exception as error:  # of any kind, from cards that contradict their files to kinds it does not read
            log.info("datasets finds no splits (%s)", one_line(error, 200))
            return {}
        return {
            name: {
                str(split): [Path(file).relative_to(folder).as_posix() for file in files]
                for split, files in (builder.config.data_files or {}).items()
            }
            for name, builder in builders.items()
        }


def _by_name(tables: Sequence[str]) -> Layout:
    """The layout where names leave no doubt: one file, or files of one folder that are all called like a split."""
    best = next(kind for kind in KINDS for name in tables if extension(name) == kind)
    own = [name for name in tables if extension(name) == best]
    if len(own) == 1:
        return {"default": {"train": own}}
    words = [re.sub(r"-\d{5}-of-\d{5}$", "", PurePosixPath(name).name.split(".")[0].lower()) for name in own]
    if len({PurePosixPath(name).parent for name in own}) > 1 or not all(word in _WORDS for word in words):
        return {}
    splits: dict[str, list[str]] = {}
    for name, word in zip(own, words, strict=True):
        splits.setdefault(_WORDS[word], []).append(name)
    return {"default": splits}


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    some = list(dict.fromkeys(names))
    return ", ".join(shown(name) for name in some[:_SHOWN]) + (
        f" and {len(some) - _SHOWN} more" if some[_SHOWN:] else ""
    )
