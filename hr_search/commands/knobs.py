"""The flags of a search's stages, shared by `evaluate`, `index`, `search` and `tune`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hr_search.base import paths
from hr_search.base.errors import InputError, quoted

if TYPE_CHECKING:
    from hr_search.encoder import Encoder
    from hr_search.reranking.scorer import Reranker
    from hr_search.search.memory import Memory
    from hr_search.search.policy import SearchPolicy
    from hr_search.settings import Settings

_FLAGS = {  # flag -> knob and help
    "centre": ("centre", "subtract each side's mean embedding, learnt from the memory"),
    "searchmixing": ("mixing", "mix with the partners of the nearest known pairs: none, documents, queries or both"),
    "strategy": ("strategy", "of mixing: weighted or slerp"),
    "k": ("k", "neighbours in the memory"),
    "temperature": ("temperature", "of the softmax over their cosines"),
    "weight": ("weight", "weight of their partners, 0 to 1"),
    "fusion": ("fusion", "weight of word scores, 0 to 1; 0 = none"),
    "words": ("words", "word scores: tfidf (character n-grams) or bm25"),
    "scaling": ("scaling", "of scores before they are summed: zscore or minmax"),
    "rerank": ("rerank", "folder of a second stage, as `train --stage rerank` writes it"),
    "reranktop": ("reranktop", "how many of the first documents the second stage reads"),
    "rerankweight": ("rerankweight", "weight of the second stage's scores, 0 to 1"),
}


def add_knobs(verb: argparse.ArgumentParser, *left_out: str) -> None:
    """Adds the flags of the stages, but for those named, `--memory` and `--plain`."""
    group = verb.add_argument_group("stages of the search (default: those in the model's search.json, see `tune`)")
    for flag, (_, text) in _FLAGS.items():
        if flag not in left_out:
            options: dict[str, Any] = {"nargs": "?", "const": "true"} if flag == "centre" else {}
            group.add_argument(f"--{flag}", help=text, metavar=flag.upper(), **options)
    group.add_argument("--memory", default="", help="table of known pairs; default: the one kept by `tune`")
    if "plain" not in left_out:
        group.add_argument("--plain", action="store_true", help="the plain cosine, whatever search.json says")


def given_knobs(arguments: argparse.Namespace) -> dict[str, Any]:
    """The knobs that the command line gives, by their names in a `SearchPolicy`.

    Raises:
        InputError: a text that is not a number or not true or false.
    """
    from hr_search.search.policy import TYPES

    values = {}
    for flag, (knob, _) in _FLAGS.items():
        if (text := getattr(arguments, flag, None)) is not None:
            values[knob] = _converted(flag, text, TYPES[knob])
    if values.get("rerank"):
        values["rerank"] = str(paths.resolve(values["rerank"]))
    return values


def policies_from(arguments: argparse.Namespace, model: str) -> dict[str, SearchPolicy]:
    """The policy of each direction: what was chosen for the model, overridden by the command line.

    Raises:
        InputError: a knob has a value that it cannot have, or the model's search.json is damaged.
    """
    from hr_search.base.choices import DIRECTIONS
    from hr_search.search.policy import SearchPolicy, read_policies

    folder = paths.resolve(model) if model and Path(model).expanduser().is_dir() else None
    chosen = {} if folder is None or getattr(arguments, "plain", False) else read_policies(folder)
    given, policies = given_knobs(arguments), {}
    for direction in DIRECTIONS:
        policy = chosen.get(direction, SearchPolicy())
        if policy.rerank and folder is not None:  # kept relative to the model, so that both can move
            policy = policy.replace(rerank=os.path.normpath(folder / policy.rerank))
        policies[direction] = policy.replace(**given)
    return policies


def memory_for(arguments: argparse.Namespace, encoder: Encoder, settings: Settings, wanted: bool) -> Memory | None:
    """The memory that `--memory` names, or the one beside the model; None where neither is there or it is not wanted.

    Raises:
        InputError: the table cannot be read or has no pairs, or the kept memory belongs to another model.
    """
    if not wanted:
        return None
    from hr_search.search import memory
    from hr_search.search.identity import fingerprint

    if arguments.memory:
        from hr_search.data.loading import load_all

        pairs = load_all(settings.replace(datapath=arguments.memory))
        return memory.build_memory(encoder, pairs, arguments.memory, progress=True)
    kept = Path(encoder.name).expanduser() / memory.FOLDER
    return memory.open_memory(kept, fingerprint(encoder)) if kept.is_dir() else None


def reader_for(policy: SearchPolicy, settings: Settings) -> Reranker | None:
    """The second stage that a policy names; None where it names none."""
    if not policy.rerank:
        return None
    from hr_search.reranking.scorer import load_reranker

    return load_reranker(policy.rerank, precision=settings.precision)


def _converted(flag: str, text: str, kind: type) -> Any:
    """The text of a flag as a value of its knob."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        kinds = {bool: "true or false", int: "a whole number", float: "a number"}
        raise InputError(f"--{flag} is {quoted(text)}; it must be {kinds[kind]}.") from error
