"""The knobs of a search in one direction, and the file beside a model that keeps those chosen for it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from hr_search.base.choices import DIRECTIONS, SCALINGS, SEARCH_MIXINGS, SIDES, STRATEGIES, WORDS
from hr_search.base.errors import InputError, quoted, suggestion
from hr_search.base.files import read_json, write_json

FILE = "search.json"
_CHOICES = {"mixing": SEARCH_MIXINGS, "strategy": STRATEGIES, "words": WORDS, "scaling": SCALINGS}
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
        rerank: folder of the second stage; empty = none.
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
                raise InputError(f"search knob {name} is {quoted(value)}; it must be a {kind.__name__}.")
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise InputError(f"search knob {name} is {quoted(value)}; {suggestion(value, choices)}")
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise InputError(f"search knob {name} is {value:g}; it must be between {low:g} and {high:g}.")

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = FILE) -> SearchPolicy:
        """The policy that `to_dict` gave.

        Raises:
            InputError: no mapping, an unknown knob, or a value it cannot have.
        """
        if not isinstance(values, dict):
            raise InputError(f"{source} must map knobs to values; it holds {quoted(values)}.")
        if unknown := [name for name in values if name not in TYPES]:
            raise InputError(f'{source} has a knob "{unknown[0]}"; {suggestion(str(unknown[0]), list(TYPES))}')
        return cls(**values)

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
    def embedding(self) -> dict[str, Any]:
        """The knobs that decide the embeddings of documents, which an index stores."""
        names = ["centre"] + ["mixing", "strategy", "k", "temperature", "weight"] * self.mixes("documents")
        return {name: getattr(self, name) for name in names}

    def mixes(self, role: str) -> bool:
        """Whether the embeddings of "documents" (what is searched) or "queries" are mixed."""
        return self.mixing in (role, "both")


TYPES = {field.name: type(field.default) for field in dataclasses.fields(SearchPolicy)}


def sides_of(direction: str) -> tuple[str, str]:
    """The sides of the texts to search with and of those to search in: "query" and "document" in q2d."""
    return SIDES if direction == "q2d" else SIDES[::-1]


def read_policies(folder: Path | str) -> dict[str, SearchPolicy]:
    """The policies that were chosen for a model, by direction; empty where none were.

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
    return {direction: SearchPolicy.from_dict(values, str(place)) for direction, values in content.items()}


def write_policies(folder: Path | str, policies: dict[str, SearchPolicy]) -> None:
    """Keeps the policies of the given directions beside a model; those of other directions stay."""
    merged = read_policies(folder) | policies
    write_json(Path(folder) / FILE, {direction: policy.to_dict() for direction, policy in merged.items()})
