"""The knobs of a search in one direction, and the file beside a model that keeps those chosen for it."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

from hr_search.base.choices import DIRECTIONS, SCALINGS, SEARCH_MIXINGS, SIDES, STRATEGIES, WORDS
from hr_search.base.errors import InputError, quoted, suggestion
from hr_search.base.files import read_json, write_json

log = logging.getLogger(__name__)

FILE = "search.json"
_CHOICES = {"mixing": SEARCH_MIXINGS, "strategy": STRATEGIES, "words": WORDS, "scaling": SCALINGS}
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_BOUNDS = {  # least and greatest value
    "k": (1, 1000),
    "temperature": (0.001, 10),
    "weight": (0, 1),
    "fusion": (0, 1),
    "reranktop": (1, 1000),
    "rerankweight": (0, 1),
}


@dataclasses.dataclass(frozen=True)
class SearchPolicy:
    """How one direction is searched; the defaults are the plain cosine.

    Attributes:
        centre: the mean embedding of each side is subtracted, learnt from the memory.
        mixing: which embeddings are mixed with the partners of their nearest neighbours in the memory:
            "none", "documents" (what is searched), "queries" or "both".
        strategy: "weighted" or "slerp", as in training (`mixing.move_queries`).
        k: neighbours in the memory.
        temperature: of the softmax over their cosines.
        weight: of the partners; the text itself has 1 - weight. Of slerp, the share of the way to them.
        fusion: weight of the word scores in the sum with the cosines; 0 = no words.
        words: "tfidf" (character n-grams) or "bm25".
        scaling: "zscore" or "minmax", of both kinds of scores, by query, before they are summed.
        rerank: folder of the second stage, or its name on the Hub; empty = none.
        reranktop: how many of the first documents the second stage reads.
        rerankweight: weight of its scores in the sum with those of the first stage, both z-scored.

    Raises:
        InputError: a value out of bounds or not among the choices.
    """

    centre: bool = False
    mixing: str = "none"
    strategy: str = "weighted"
    k: int = 10
    temperature: float = 0.05
    weight: float = 0.5
    fusion: float = 0.0
    words: str = "tfidf"
    scaling: str = "zscore"
    rerank: str = ""
    reranktop: int = 50
    rerankweight: float = 1.0

    def __post_init__(self) -> None:
        for name, kind in TYPES.items():
            value = getattr(self, name)
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise InputError(f"search knob {name} is {quoted(value)}; it must be {KINDS[kind]}.")
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise InputError(f"search knob {name} is {quoted(value)}; {suggestion(value, choices)}")
        for name, (low, high) in _BOUNDS.items():
            if not low <= (value := getattr(self, name)) <= high:  # false for NaN, too
                raise InputError(f"search knob {name} is {quoted(value)}; it must be between {low:g} and {high:g}.")

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = FILE) -> SearchPolicy:
        """The policy that `to_dict` gave.

        Raises:
            InputError: no mapping, an unknown knob, or a value it cannot have.
        """
        if not isinstance(values, dict):
            raise InputError(f"{source} must map knobs to values; it holds {quoted(values)}; run `tune` again.")
        if unknown := [name for name in values if name not in TYPES]:
            raise InputError(f'{source} has a knob "{unknown[0]}"; {suggestion(str(unknown[0]), list(TYPES))}')
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """All knobs as a JSON-ready mapping."""
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> SearchPolicy:
        """A copy with some knobs changed, checked like any others."""
        return dataclasses.replace(self, **changes)

    @property
    def remembers(self) -> bool:
        """Whether it needs a memory of known pairs."""
        return self.centre or self.mixing != "none"

    @property
    def staged(self) -> bool:
        """Whether there is any stage beside the plain cosine."""
        return self.remembers or self.fusion > 0 or bool(self.rerank)

    @property
    def consults(self) -> bool:
        """Whether a memory changes what it finds: it needs one, or its word scores count the memory's texts."""
        return self.remembers or (self.fusion > 0 and self.words == "tfidf")

    @property
    def embedding(self) -> dict[str, Any]:
        """The knobs that decide the embeddings of documents, which an index stores."""
        return self.moves("documents")

    def mixes(self, role: str) -> bool:
        """Whether the embeddings of "documents" (what is searched) or "queries" are mixed."""
        return self.mixing in (role, "both")

    def moves(self, role: str) -> dict[str, Any]:
        """The knobs that decide the embeddings of "documents" or "queries"; equal where the embeddings are."""
        mixes = self.mixes(role)
        used = ("strategy", "k", "temperature", "weight") if mixes else ()
        return {"centre": self.centre, "mixing": mixes} | {name: getattr(self, name) for name in used}


TYPES = {field.name: type(field.default) for field in dataclasses.fields(SearchPolicy)}


def sides_of(direction: str) -> tuple[str, str]:
    """The sides of the texts to search with and of those to search in: "query" and "document" in q2d."""
    return SIDES if direction == "q2d" else SIDES[::-1]


def read_policies(folder: Path | str) -> dict[str, SearchPolicy]:
    """The policies that were chosen for a model, by direction; empty where none were.

    A second stage in a folder is kept by its place relative to the model, so that both can move together.

    Raises:
        InputError: the file is damaged, or a knob has a value that it cannot have.
    """
    place = Path(folder) / FILE
    if not place.is_file():
        return {}
    content = read_json(place)
    if not isinstance(content, dict):
        raise InputError(f"{place} must map directions to knobs; run `tune` again.")
    if unknown := [name for name in content if name not in DIRECTIONS]:
        raise InputError(f'{place} has a direction "{unknown[0]}"; {suggestion(str(unknown[0]), DIRECTIONS)}')
    found = {direction: SearchPolicy.from_dict(values, str(place)) for direction, values in content.items()}
    for direction, policy in found.items():
        if policy.rerank.startswith("."):
            rerank = os.path.normpath(os.path.join(os.path.abspath(folder), policy.rerank))
            found[direction] = policy.replace(rerank=rerank)
    return found


def write_policies(folder: Path | str, policies: dict[str, SearchPolicy]) -> None:
    """Keeps the policies of the given directions beside a model; those of other directions stay.

    A damaged file is replaced, with a warning: whoever reads it is told to run `tune` again.
    """
    try:
        known = read_policies(folder)
    except InputError as error:
        log.warning("%s It is written anew.", error)
        known = {}
    kept = {}
    for direction, policy in (known | policies).items():
        if os.path.isabs(policy.rerank):
            policy = policy.replace(rerank=f".{os.sep}{os.path.relpath(policy.rerank, os.path.abspath(folder))}")
        kept[direction] = policy.to_dict()
    write_json(Path(folder) / FILE, kept)
