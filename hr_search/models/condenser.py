"""Long documents condensed to what they say about the job: the sentences whose words predict the query.

Vacancies open with a page about the employer, and an encoder reads only the first hundred or two hundred
tokens. Train rows show which words of a vacancy occur in its title too; a sentence is scored by such words.
Nothing is rewritten: whole sentences stay, in their order.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hr_search.base.errors import InputError

# After a full stop, at bullets and dashes, and where scraping has joined two sentences.
_BREAKS = re.compile(r"(?<=[.!?;:•·\n])\s+|\s[-–—•·]\s|(?<=[a-zа-яё])(?=[A-ZА-ЯЁ])")
_BULLETS = " \n\t-–—•·"
_WORDS = re.compile(r"[^\W_]{3,}")
CONDENSER_FILE = "condenser.json"  # in a model's folder, where documents were condensed in training
_STEM = 6  # first letters, which the forms of a word share in Russian as in English
_LEAST = 2  # rows in which a word must occur on both sides: one may be chance
_DOUBT = 5  # rows added to those that hold a word, which lowers the weight of rare words
_OFFSET, _POWER = 3, 0.7  # a score is divided by (words + 3)^0.7: less than in proportion, to favour long sentences


@dataclasses.dataclass(frozen=True)
class Condenser:
    """Condenses texts; made by `learn` and saved in the model's folder.

    Attributes:
        characters: about how many characters a text keeps; shorter texts stay unchanged.
        weights: for the stem of a word, the share of documents holding it whose query holds it too.
    """

    characters: int
    weights: Mapping[str, float]

    def __call__(self, text: str) -> str:
        """The text, or its best sentences in their order; the last one chosen is kept whole."""
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
        """A condenser that keeps `share` times as many characters."""
        return dataclasses.replace(self, characters=max(1, round(self.characters * share)))

    def score(self, sentence: str) -> float:
        """How much a sentence says about the job: the summed weights of its distinct words, over its length."""
        found = stems(sentence)
        # Sorted, because the order of a set, and with it the last bit of the sum, changes from process to process.
        return sum(self.weights.get(stem, 0.0) for stem in sorted(set(found))) / (len(found) + _OFFSET) ** _POWER

    def to_dict(self) -> dict[str, Any]:
        """The attributes, ready for JSON."""
        return {"characters": self.characters, "weights": dict(self.weights)}

    @classmethod
    def from_dict(cls, values: Any) -> Condenser:
        """The condenser that `to_dict` wrote.

        Raises:
            InputError: `values` is not what `to_dict` writes.
        """
        try:
            weights = {str(stem): float(weight) for stem, weight in values["weights"].items()}
            return cls(int(values["characters"]), weights)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError("the model's condenser.json is damaged; train or copy the model again.") from error


def learn(queries: Sequence[str], documents: Sequence[str], characters: int) -> Condenser:
    """A condenser learnt from train rows: a word's weight is how often the query of a document with it has it too.

    Args:
        queries: queries of the rows, such as job titles, (N,).
        documents: documents of the same rows, (N,).
        characters: about how many characters a text keeps.
    """
    holding: Counter[str] = Counter()  # documents that hold the word
    shared: Counter[str] = Counter()  # those of them whose query holds it too
    for query, document in zip(queries, documents, strict=True):
        words = set(stems(document))
        holding.update(words)
        shared.update(words.intersection(stems(query)))
    frequent = {stem: count for stem, count in sorted(shared.items()) if count >= _LEAST}
    return Condenser(characters, {stem: round(n / (holding[stem] + _DOUBT), 5) for stem, n in frequent.items()})


def sentences(text: str) -> list[str]:
    """The sentences and list items of a text, without bullets."""
    parts = (part.strip(_BULLETS) for part in _BREAKS.split(text))
    return [part for part in parts if part]


def stems(text: str) -> list[str]:
    """The words of three letters or more, each cut to its first six letters."""
    return [word[:_STEM] for word in _WORDS.findall(text.lower().replace("ё", "е"))]
