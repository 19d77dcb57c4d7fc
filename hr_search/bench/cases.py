"""The cases of the speed benchmark: what each measures, what both sides are told, and the texts they get."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hr_search.base.errors import InputError, suggestion
from hr_search.data import esco, loading
from hr_search.data.duplicates import normalised
from hr_search.schedule import step_plan
from hr_search.settings import Settings

SIDES = ("ours", "peer")
HELD_OUT = 200  # pairs on which the models of the proof are compared
_DOCUMENTS, _QUERIES, _MINED = 34_000, 1_500, 12_000


@dataclasses.dataclass(frozen=True)
class Order:
    """What one process measures; both sides get the same one.

    Attributes:
        kind: train, learn (train and say every loss), race, costs, evaluate, mine, loss, start or rate.
        model: the model's folder.
        loss: triplet or infonce; batch-hard or semi-hard for the kind loss.
        precision: auto (each side as it comes), fp32 or bf16.
        dropout: while training; negative = the model's own.
        batchsize: rows a step.
        maxlength: tokens a text is cut to.
        warm: steps before the clock starts.
        steps: steps measured; one more follows, so that a batch fetched ahead is paid for on both sides.
        threads: of the processor; 0 = as torch chooses.
        defaults: each side with its own default settings in place of those above.
        seed: of order and dropout.
        learningrate: its peak.
        seconds: of training in a race.
        recipe: our settings in a race.
    """

    kind: str
    model: str = ""
    loss: str = "triplet"
    precision: str = "fp32"
    dropout: float = 0.1
    batchsize: int = 16
    maxlength: int = 128
    warm: int = 2
    steps: int = 8
    threads: int = 0
    defaults: bool = False
    seed: int = 0
    learningrate: float = 5e-5
    seconds: float = 0.0
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Training rows of the whole run."""
        return self.batchsize * (self.warm + self.steps + 1)

    @property
    def settings(self) -> Settings:
        """The settings of our side; the peer's arguments say the same in its words."""
        if self.defaults:
            return Settings(modelname=self.model)
        return Settings(
            modelname=self.model, loss=self.loss, negatives="given" if self.loss == "triplet" else "batch", margin=0.3,
            temperature=0.05, batchsize=self.batchsize, maxlength=self.maxlength, dropout=self.dropout,
            precision=self.precision, learningrate=self.learningrate, weightdecay=0.0, clip=1.0, warmup=0.0, patience=0,
            evalsteps=int(self.kind == "learn"), seed=self.seed, symmetric=False,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: rows of the table that are measured together.

    Attributes:
        about: what is compared, in a clause.
        orders: suffix of the row's name -> the order.
        gpu: whether it needs a GPU.
    """

    about: str
    orders: Mapping[str, Order]
    gpu: bool = False


def _train(loss: str, precision: str, batchsize: int, **more: Any) -> Order:
    return Order("train", loss=loss, precision=precision, batchsize=batchsize, **more)


CASES: dict[str, Case] = {
    "train-triplet-bf16": Case("triplet loss, batch 16, 128 tokens, bf16", {"": _train("triplet", "bf16", 16)}),
    "train-triplet-fp32": Case("triplet loss, batch 16, 128 tokens, fp32", {"": _train("triplet", "fp32", 16)}),
    "train-infonce-bf16": Case(
        "in-batch cross-entropy, batch 32, 128 tokens, bf16", {"": _train("infonce", "bf16", 32)}
    ),
    "train-defaults": Case(
        "each side with its defaults", {"": _train("infonce", "auto", Settings().batchsize, defaults=True)}
    ),
    "train-infonce-mpnet": Case(
        "a model of 278 million parameters, 128 and 256 tokens, bf16",
        {f"-{length}": _train("infonce", "bf16", 32, maxlength=length) for length in (128, 256)},
        gpu=True,
    ),
    "evaluate": Case(
        "1,500 queries over 34,000 texts, from texts to metrics",
        {"": Order("evaluate", precision="auto"), "-same-precision": Order("evaluate")},
    ),
    "mine": Case(
        "10 hard negatives for 12,000 queries over 12,000 texts",
        {"": Order("mine", precision="auto", maxlength=32), "-same-precision": Order("mine", maxlength=32)},
    ),
    "loss-kernels": Case(
        "losses alone, 256 embeddings of 384 dimensions, forward and backward",
        {f"-{loss}": Order("loss", loss=loss, batchsize=256) for loss in ("batch-hard", "semi-hard")},
    ),
}


def chosen(name: str) -> list[str]:
    """The cases that `name` stands for: one of them, or all where it is empty.

    Raises:
        InputError: there is no such case.
    """
    if name and name not in CASES:
        raise InputError(f'there is no case "{name}"; {suggestion(name, CASES)}')
    return [name] if name else list(CASES)


def texts(order: Order, datapath: str = "", scale: float = 1.0) -> dict[str, list]:
    """The texts of an order as JSON-ready columns, the same ones for the same arguments.

    Args:
        order: what is measured.
        datapath: table of pairs for training; empty = ESCO.
        scale: share of the corpus of the kinds evaluate and mine.

    Raises:
        InputError: the data is missing or too small.
    """
    if order.kind in ("train", "learn"):
        return training_texts(order, datapath or "esco").to_dict("list")
    if order.kind == "evaluate":
        return search_texts(max(40, round(_DOCUMENTS * scale)), max(10, round(_QUERIES * scale)))
    if order.kind == "mine":
        return mining_texts(max(40, round(_MINED * scale)))
    return {}


# -- training ------------------------------------------------------------------------------------


def training_texts(order: Order, datapath: str) -> pd.DataFrame:
    """Pairs, with one wrong document each for the triplet loss; no text and no group occurs twice.

    Without repeats nothing is masked and nothing is encoded once for two rows, so both sides do the
    same work. The rows of a run come first; for the kind "learn", HELD_OUT pairs follow.

    Returns:
        `query`, `positive`, `negatives`, `group`.

    Raises:
        InputError: the table has too few different rows.
    """
    table = _different(datapath)
    rows, held = order.rows, HELD_OUT * (order.kind == "learn")
    given = order.loss == "triplet" and not order.defaults
    if len(table) < rows * (1 + given) + held:
        raise InputError(
            f"{datapath} has {len(table)} rows without a repeated text or group, and the case needs "
            f"{rows * (1 + given) + held}; lower --steps or give a larger table."
        )
    table = table.iloc[np.random.default_rng(order.seed).permutation(len(table))]
    pairs = pd.concat([table[:rows], table[len(table) - held :]])
    wrong = table["positive"][rows : 2 * rows] if given else []
    return pairs.assign(negatives=[[text] for text in wrong] + [[]] * (len(pairs) - len(wrong))).reset_index(drop=True)


@functools.cache
def _different(datapath: str) -> pd.DataFrame:
    """The pairs of a table without those that repeat a group, a query or a document."""
    table = loading.load_all(Settings(datapath=datapath))
    for column in ("group", "query", "positive"):
        table = table[~normalised(table[column]).duplicated()]
    return table


def laid_out(pairs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The rows in the order in which `train.fit` takes them, for a peer that reads from top to bottom."""
    plan = step_plan(len(pairs), settings.batchsize, settings)
    return pairs.iloc[np.concatenate([rows for rows, _ in plan.batches()])]


def generated_pairs(rows: int) -> pd.DataFrame:
    """`rows` different short pairs (`query`, `positive`) made of ESCO's words and numbers, at once."""
    table = _jobs()
    titles, words = table["group"].unique(), " ".join(table["positive"]).split()
    # Multiples of a prime wander through the words without coming back early.
    at = np.arange(rows, dtype=np.int64)[:, None] * np.array([7919, 104_729, 1_299_709])
    snippets = [[" ".join(words[i : i + 3]) for i in column] for column in (at % (len(words) - 3)).T]
    queries = [f"{titles[row % len(titles)]} {row}" for row in range(rows)]
    positives = [f"{a} {row} {b} {c}" for row, (a, b, c) in enumerate(zip(*snippets, strict=True))]
    return pd.DataFrame({"query": queries, "positive": positives})


# -- search and mining -----------------------------------------------------------------------------


def search_texts(documents: int, queries: int) -> dict[str, list]:
    """Short texts of ESCO to search in, and skills to search for, each with its two known answers.

    Returns:
        `queries`, `documents` (all different) and `relevant`, sorted places of each query's documents.
    """
    skills = [(names, meaning) for names, meaning in _skills() if len(names) >= 6]
    asked = {" ".join(names[:4]): (" ".join(names[4:16]), " ".join(meaning[:16])) for names, meaning in skills}
    answers = dict.fromkeys(text for pair in asked.values() for text in pair)
    jobs = _jobs()
    others = [" ".join(text.split()[:16]) for column in ("group", "query", "positive") for text in jobs[column]]
    found = list(dict.fromkeys([*answers, *others]))[:documents]
    place = {text: at for at, text in enumerate(found)}
    kept = [(query, pair) for query, pair in asked.items() if all(text in place for text in pair)][:queries]
    return {
        "queries": [query for query, _ in kept],
        "documents": found,
        "relevant": [sorted({place[text] for text in pair}) for _, pair in kept],
    }


def mining_texts(count: int) -> dict[str, list]:
    """`count` skills of ESCO, `query` its names and `positive` what it means, all different."""
    meanings = {" ".join(names[:6]): " ".join(meaning) for names, meaning in _skills()}
    table = pd.DataFrame({"query": list(meanings), "positive": list(meanings.values())})
    return table.drop_duplicates("positive")[:count].to_dict("list")


@functools.cache
def _jobs() -> pd.DataFrame:
    return esco.load_esco()


@functools.cache
def _skills() -> list[tuple[list[str], list[str]]]:
    """Skills of ESCO in a fixed random order, as the words of their names and of their description."""
    esco.occupations()  # refuses in its own words where the package is missing
    package = importlib.util.find_spec(esco.PACKAGE)
    table = pd.read_csv(Path(next(iter(package.submodule_search_locations))) / "data" / "skills.csv", dtype=str)
    split = []
    for words in table["description"].str.split():
        # The description opens with the first capital after the names, near enough for a benchmark.
        start = next((at for at in range(1, len(words)) if words[at][:1].isupper() and words[at][1:].islower()), 0)
        if start and len(words) - start >= 4:
            split.append((words[:start], words[start:]))
    return [split[at] for at in np.random.default_rng(0).permutation(len(split))]
