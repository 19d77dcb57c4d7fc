"""Approximate search on the command line: the flags that `index` and `search` take for it, and what they do."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from hr_search.base.errors import InputError
from hr_search.commands.knobs import given_knobs
from hr_search.commands.output import fixed, say

if TYPE_CHECKING:
    from hr_search.encoder import Encoder
    from hr_search.index.approximate import Approximate
    from hr_search.index.folder import Index
    from hr_search.search.policy import SearchPolicy
    from hr_search.settings import Settings

_TITLE = "approximate search, for an index larger than memory (extra faiss)"


def add_building(verb: argparse.ArgumentParser) -> None:
    """Adds the flags of `index`."""
    group = verb.add_argument_group(_TITLE)
    words = "build lists for `search --approximate` and measure what they miss; without --corpus: of the index in --out"
    group.add_argument("--approximate", action="store_true", help=words)
    group.add_argument("--nlist", type=int, help="number of lists (default: about twice the root of the texts)")
    words = "bytes kept of each embedding, a divisor of its dimension (default: about an eighth of it)"
    group.add_argument("--codebytes", type=int, help=words)
    words = "table or .txt file of queries to measure with, of which 200 are drawn (default: 200 texts of the index)"
    group.add_argument("--queries", help=words)


def add_searching(verb: argparse.ArgumentParser) -> None:
    """Adds the flags of `search`."""
    group = verb.add_argument_group(_TITLE)
    group.add_argument("--approximate", action="store_true", help="search the lists of an index, not all embeddings")
    words = "how many lists are read (default: what reached a recall@10 of .95 when they were built)"
    group.add_argument("--nprobe", type=int, help=words)
    words = "candidates that are ranked by their exact cosines (default: as --nprobe); 0 = none"
    group.add_argument("--rescore", type=int, help=words)


def require_building(arguments: argparse.Namespace) -> None:
    """Checks the flags of `index` that depend on `--approximate`."""
    _require(arguments, ("nlist", "codebytes", "queries"), 1)
    if arguments.approximate:
        from hr_search.index.approximate import require_faiss

        require_faiss()


def require_building_only(arguments: argparse.Namespace, values: dict[str, Any]) -> None:
    """Checks the flags of `index` without a corpus, which builds the lists of an index that exists."""
    if not arguments.approximate:
        raise InputError("the following arguments are required: --corpus; see `python -m hr_search index --help`.")
    flags = (
        "append",
        "column",
        "direction",
        "numbers",
        "memory",
        "plain",
        "dimensions",
        "model",
        "scheduler",
        "shards",
    )
    given = [name for name in flags if getattr(arguments, name)]
    given += ["searchmixing" if name == "mixing" else name for name in given_knobs(arguments)]
    given += [name for name in ("maxlength", "precision", "keephtml", "positivecolumn") if name in values]
    if given:
        raise InputError(
            f"--{given[0]} does not apply without --corpus: the index keeps what it was built with; leave it out."
        )


def require_searching(arguments: argparse.Namespace) -> None:
    """Checks the flags of `search` that depend on `--approximate`."""
    _require(arguments, ("nprobe",), 1)
    _require(arguments, ("rescore",), 0)
    if arguments.approximate and not arguments.index:
        raise InputError("--approximate searches the lists of an index; give --index, or leave it out.")


def _require(arguments: argparse.Namespace, names: tuple[str, ...], least: int) -> None:
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not arguments.approximate:
            raise InputError(f"--{name} belongs to --approximate; add that, or leave --{name} out.")
        if isinstance(value, int) and value < least:
            raise InputError(f"--{name} is {value}; it must be at least {least}.")


def require_sizes(arguments: argparse.Namespace, count: int, dimension: int) -> None:
    """Checks that lists can be made of so many texts, before any of them is embedded."""
    if arguments.approximate:
        from hr_search.index.lists import sizes

        sizes(count, dimension, arguments.nlist or 0, arguments.codebytes or 0)


def drawn_queries(arguments: argparse.Namespace, settings: Settings, side: str) -> list[str]:
    """200 of the texts in `--queries`, drawn with a fixed seed; none without that flag."""
    if not arguments.queries:
        return []
    import numpy as np

    from hr_search.index.lists import QUERIES
    from hr_search.index.texts import read_corpus

    keephtml = settings.keephtml or side == "query"
    column = settings.querycolumn
    texts = read_corpus(arguments.queries, column, settings.encoding, settings.trustfile, keephtml, side).texts
    generator = np.random.default_rng(0)
    return [texts[at] for at in np.sort(generator.choice(len(texts), min(QUERIES, len(texts)), replace=False)).tolist()]


def build(
    arguments: argparse.Namespace, made: Index, queries: list[str], encoder: Encoder | None
) -> tuple[Index, dict[str, Any]]:
    """Builds the lists of an index; gives it with them, and what was measured, ready for JSON.

    Args:
        arguments: of `index`.
        made: the index.
        queries: texts to measure recall with; none = texts of the index.
        encoder: the model of the index, for these queries.
    """
    import torch

    from hr_search.base.peak import forget_peak, peak_above
    from hr_search.index.answers import Searcher
    from hr_search.index.approximate import ENTRY
    from hr_search.index.lists import build_lists

    embedded = None
    if encoder is not None and queries:
        parts = made.vectors, made.rows, made.texts, made.direction, made.policy, made.memory()
        embedded = Searcher(encoder, *parts).embedded(queries)
    asked = f"{len(queries)} texts of {arguments.queries}"
    began, start = forget_peak(torch.device("cpu")), time.perf_counter()
    made, table = build_lists(made, arguments.nlist or 0, arguments.codebytes or 0, embedded, asked)
    entry = made.manifest[ENTRY]
    told = {name: entry[name] for name in ("nlist", "codebytes", "nprobe", "rescore", "bytes", "queries")}
    told |= {"seconds": time.perf_counter() - start, "memory_gb": peak_above(began, torch.device("cpu"))}
    return made, told | {"recall@10": table}


def print_lists(told: dict[str, Any]) -> None:
    """Prints what `build` has measured, for people."""
    import pandas as pd

    from hr_search.index.lists import GOAL

    rows = fixed(pd.DataFrame(told["recall@10"]))
    reached = max(row["rescored_1000"] for row in told["recall@10"]) >= GOAL
    advice = "" if reached else f"\nNo row reaches {GOAL:g}: give more --codebytes, or search with a larger --rescore."
    say(
        f"{told['nlist']} lists, {told['codebytes']} bytes of each embedding: {told['bytes'] / 1e6:.1f} MB on disk, "
        f"built in {told['seconds']:.0f} s with {told['memory_gb']:.2f} GB of memory\n"
        f"recall@10 of {told['queries']} by lists read (--nprobe) and candidates with exact cosines (--rescore); a "
        f"search reads {told['nprobe']} and {told['rescore']} unless told otherwise\n{rows}{advice}"
    )


def opened_lists(arguments: argparse.Namespace, kept: Index, policy: SearchPolicy) -> Approximate | None:
    """The lists of an index; None without `--approximate`.

    Raises:
        InputError: the search adds word scores, or as `open_lists`.
    """
    if not arguments.approximate:
        return None
    if policy.fusion:
        raise InputError(
            f"--approximate cannot add word scores (fusion {policy.fusion:g}), which need the cosines of all texts; "
            "add --fusion 0, or search without --approximate."
        )
    from hr_search.index.approximate import open_lists

    return open_lists(kept, arguments.nprobe or 0, arguments.rescore)
