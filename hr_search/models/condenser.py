"""Long texts condensed to what they say about the job: the sentences whose words tell the query.

Vacancies open with a page about the employer, and an encoder reads the first hundred or two hundred tokens
only. The train rows tell which words of a vacancy come back in its title; a sentence counts by the share of
such words. Nothing is rewritten: whole sentences stay, in their order.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hr_search.base.errors import InputError

# Behind a stop, at bullets and dashes, and where scraping has glued two sentences together.
_BREAKS = re.compile(r"(?<=[.!?;:•·\n])\s+|\s[-–—•·]\s|(?<=[a-zа-яё])(?=[A-ZА-ЯЁ])")
_BULLETS = " \n\t-–—•·"
_WORDS = re.compile(r"[^\W_]{3,}")
_STEM = 6  # first letters that the forms of a word share, in Russian as in English
_LEAST = 2  # rows in which a word must come back: one is chance
_DOUBT = 5  # rows added to those that have a word, for the same reason
_SHORT, _POWER = 3, 0.7  # what a sentence is divided by: (words + 3)^0.7, so that long ones are not punished in full


@dataclasses.dataclass(frozen=True)
class Condenser:
    """Condenses texts; learnt by `learn`, kept in the model's folder.

    Attributes:
        characters: a text keeps about so many; shorter ones stay as they are.
        weights: stem of a word to the share of documents with it whose query has it too.
    """

    characters: int
    weights: Mapping[str, float]

    def __call__(self, text: str) -> str:
        """The text, or its best sentences in their order with the last one taken whole."""
        if len(text) <= self.characters:
            return text
        parts = sentences(text)
        chosen, left = [], self.characters
        for at in np.argsort([-self.score(part) for part in parts], kind="stable"):
            if left <= 0:
                break
            chosen.append(at)
            left -= len(parts[at]) + 1
        return " ".join(parts[at] for at in sorted(chosen))

    def scaled(self, share: float) -> Condenser:
        """A condenser that keeps `share` as many characters."""
        return dataclasses.replace(self, characters=max(1, round(self.characters * share)))

    def score(self, sentence: str) -> float:
        """How much a sentence says about the job: the weights of its different words, over its length."""
        found = stems(sentence)
        return sum(self.weights.get(stem, 0.0) for stem in set(found)) / (len(found) + _SHORT) ** _POWER

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"characters": self.characters, "weights": dict(self.weights)}

    @classmethod
    def from_dict(cls, values: Any) -> Condenser:
        """The condenser that `to_dict` described.

        Raises:
            InputError: it is something else.
        """
        try:
            weights = {str(stem): float(weight) for stem, weight in values["weights"].items()}
            return cls(int(values["characters"]), weights)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError("the model's condenser.json is damaged; train or copy the model again.") from error


def learn(queries: Sequence[str], documents: Sequence[str], characters: int) -> Condenser:
    """A condenser learnt from train rows: a word counts by how often it is in the query of the documents that have it.

    Args:
        queries: of the rows, such as job titles, (N,).
        documents: of the same rows, (N,).
        characters: of a text that are kept.
    """
    said: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for query, document in zip(queries, documents, strict=True):
        words = set(stems(document))
        said.update(words)
        named.update(words.intersection(stems(query)))
    weights = {
        stem: round(count / (said[stem] + _DOUBT), 5) for stem, count in sorted(named.items()) if count >= _LEAST
    }
    return Condenser(characters, weights)


def sentences(text: str) -> list[str]:
    """The sentences and bullets of a text, without the bullets."""
    parts = (part.strip(_BULLETS) for part in _BREAKS.split(text))
    return [part for part in parts if part]


def stems(text: str) -> list[str]:
    """The words of three letters and more, each by its first letters."""
    return [word[:_STEM] for word in _WORDS.findall(text.lower().replace("ё", "е"))]
