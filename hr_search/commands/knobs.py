"""The flags of a search's stages, shared by `evaluate`, `index`, `search` and `tune`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
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
    "rerank": ("rerank", "folder of a second stage, as `train --stage rerank` writes it; empty = none"),
    "reranktop": ("reranktop", "how many of the first documents the second stage reads"),
    "rerankweight": ("rerankweight", "weight of the second stage's scores, 0 to 1"),
}
_BELONG = {  # flags without effect unless another one turns their stage on
    "searchmixing": ("strategy", "k", "temperature", "weight"),
    "fusion": ("words", "scaling"),
    "rerank": ("reranktop", "rerankweight"),
}


def add_knobs(verb: argparse.ArgumentParser, *left_out: str) -> None:
    """Adds the flags of the stages, but for those named, `--memory` and `--plain`."""
    group = verb.add_argument_group("stages of the search (default: those in the model's search.json, see `tune`)")
    for flag, (_, text) in _FLAGS.items():
        if flag not in left_out:
            options: dict[str, Any] = {"nargs": "?", "const": "true"} if flag == "centre" else {}
            group.add_argument(f"--{flag}", help=text, metavar=flag.upper(), **options)
    group.add_argument(
        "--memory",
        default="",
        help="table of known pairs, its columns found by name or those of --querycolumn and --positivecolumn; default: "
        "the memory kept by `tune`",
    )
    if "plain" not in left_out:
        group.add_argument("--plain", action="store_true", help="start from the plain cosine, not from search.json")


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
    if values.get("rerank") and (folder := paths.resolve(values["rerank"])).is_dir():
        values["rerank"] = str(folder)
    return values


def require_stages(given: Mapping[str, Any], policies: Iterable[SearchPolicy]) -> None:
    """Checks that each knob of the command line belongs to a stage that some policy has.

    Raises:
        InputError: naming the first flag without effect.
    """
    stages = [(policy.mixing != "none", policy.fusion > 0, bool(policy.rerank)) for policy in policies]
    words = ("mixing, and nothing is mixed", "word scores, and none are added", "the second stage, and there is none")
    for (switch, knobs), used, what in zip(_BELONG.items(), zip(*stages, strict=True), words, strict=True):
        if not any(used) and (idle := [knob for knob in knobs if knob in given]):
            raise InputError(f"--{idle[0]} is a knob of {what}; give --{switch} as well.")


def policies_from(arguments: argparse.Namespace, model: str) -> dict[str, SearchPolicy]:
    """The policy of each direction: what was chosen for the model, overridden by the command line.

    Raises:
        InputError: a knob has a value that it cannot have, or no effect, or the model's search.json is damaged.
    """
    from hr_search.base.choices import DIRECTIONS
    from hr_search.search.policy import SearchPolicy, read_policies

    folder = own_folder(model)
    chosen = {} if folder is None or getattr(arguments, "plain", False) else read_policies(folder)
    given = given_knobs(arguments)
    policies = {name: chosen.get(name, SearchPolicy()).replace(**given) for name in DIRECTIONS}
    require_stages(given, policies.values())
    return policies


def own_folder(model: str) -> Path | None:
    """The folder of a model that has one of its own; None for "embedded" and names on the Hub."""
    from hr_search.models.embedded import NAME

    try:
        folder = Path(model).expanduser().resolve()
        return folder if model and model != NAME and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # no path at all; whoever loads the model says so
        return None


def require_memory(arguments: argparse.Namespace, values: Mapping[str, Any]) -> None:
    """Checks that a document column of known pairs is not given where no such pairs are.

    Args:
        arguments: of a verb whose corpus has a `--column` of its own.
        values: the settings that the command line gives.

    Raises:
        InputError: it is; the corpus would be read by another column than the one that was meant.
    """
    if "positivecolumn" in values and not arguments.memory:
        raise InputError(
            "--positivecolumn names the document column of a --memory, and none is given; name a column of the corpus "
            "with --column."
        )


def memory_for(
    arguments: argparse.Namespace, encoder: Encoder, settings: Settings, *policies: SearchPolicy
) -> Memory | None:
    """The memory that `--memory` names, or the one beside the model; None where no policy needs one.

    Raises:
        InputError: a policy needs one and there is none, `--memory` is given and none needs it, the table cannot be
            read or has no pairs, or the kept memory is damaged or belongs to another model.
    """
    from hr_search.search.identity import fingerprint
    from hr_search.search.memory import FOLDER, open_memory

    if not any(policy.consults for policy in policies):
        if arguments.memory:
            raise InputError("no stage of this search uses the --memory; add --searchmixing, --centre or --fusion.")
        return None
    if arguments.memory:
        return memory_from(arguments.memory, encoder, settings)
    folder = own_folder(encoder.name)
    if folder is not None and (folder / FOLDER).is_dir():
        return open_memory(folder / FOLDER, fingerprint(encoder))
    if any(policy.remembers for policy in policies):
        raise InputError(
            f"centring and mixing need known pairs, and none are kept with {encoder.name}; give a table of pairs as "
            "--memory, or run `tune`."
        )
    return None


def memory_from(table: str, encoder: Encoder, settings: Settings) -> Memory:
    """The memory of a table of pairs, read like `--datapath`, with the same columns and templates.

    Raises:
        InputError: it cannot be read or has no pairs.
    """
    from hr_search.data.loading import load_all
    from hr_search.search.memory import build_memory

    pairs = load_all(settings.replace(datapath=table, groupcolumn=""))
    return build_memory(encoder, pairs, table, progress=True)


def reader_for(policy: SearchPolicy, settings: Settings) -> Reranker | None:
    """The second stage that a policy names; None where it names none."""
    if not policy.rerank:
        return None
    from hr_search.reranking.scorer import load_reranker

    return load_reranker(policy.rerank, precision=exact_precision(settings))


def exact_precision(settings: Settings) -> str:
    """The precision a model is loaded in: int8 comes after that, and a second stage has none."""
    return "auto" if settings.precision == "int8" else settings.precision


def _converted(flag: str, text: str, kind: type) -> Any:
    """The text of a flag as a value of its knob."""
    from hr_search.search.policy import KINDS

    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise InputError(f"--{flag} is {quoted(text)}; it must be {KINDS[kind]}.") from error
