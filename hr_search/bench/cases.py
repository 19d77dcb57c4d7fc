"""The cases of the speed benchmark, and the orders that both contenders get."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hr_search.base.errors import InputError, suggestion
from hr_search.settings import Settings

CONTENDERS = ("ours", "peer")


@dataclasses.dataclass(frozen=True)
class Order:
    """What one process measures; both contenders get the same order.

    Attributes:
        kind: train, learn (training that also reports the loss of every step), evaluate, mine, race, costs, start, or
            rate (of matrix products, without a model).
        model: the model's folder.
        loss: triplet or infonce.
        precision: auto (the contender's own choice), fp32 or bf16; int8 is ours alone, the peer's is then auto.
        dropout: in training; negative = the model's own.
        batchsize: rows per step.
        maxlength: tokens after which a text is cut.
        warm: steps before the measurement starts.
        steps: steps measured. One more follows, so that both contenders pay for a batch that is fetched ahead.
        threads: of the processor; 0 = torch decides.
        defaults: each contender trains with its own default settings instead of those above.
        seed: of the order of rows and of dropout.
        learningrate: the peak learning rate.
        seconds: training time in a race.
        recipe: our settings in a race; in a start those that differ from the order's.
        attention: of the peer's model, as transformers calls it; empty = its default.
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
    attention: str = ""

    @property
    def rows(self) -> int:
        """Training rows of the whole run."""
        return self.batchsize * (self.warm + self.steps + 1)

    @property
    def needs_negatives(self) -> bool:
        """Whether every training row comes with a negative."""
        return self.loss == "triplet" and not self.defaults

    @property
    def settings(self) -> Settings:
        """Our settings; the peer's training arguments say the same in its own words."""
        if self.defaults:
            return Settings(modelname=self.model)
        return Settings(
            modelname=self.model,
            loss=self.loss,
            negatives="given" if self.loss == "triplet" else "batch",
            margin=0.3,
            temperature=0.05,
            symmetric=False,
            batchsize=self.batchsize,
            maxlength=self.maxlength,
            precision=self.precision,
            dropout=self.dropout,
            learningrate=self.learningrate,
            weightdecay=0.0,
            clip=1.0,
            warmup=0.0,
            patience=0,
            evalsteps=int(self.kind == "learn"),
            seed=self.seed,
        )


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: the rows of the table that are measured together.

    Attributes:
        about: what is compared, in a clause.
        orders: suffix of the row's name -> the order.
        gpu: whether it needs a GPU.
        large: whether a large random model takes the place of the embedded one.
    """

    about: str
    orders: Mapping[str, Order]
    gpu: bool = False
    large: bool = False

    @property
    def int8(self) -> bool:
        """Whether ours encodes in int8."""
        return any(order.precision == "int8" for order in self.orders.values())


def _train(loss: str, precision: str, batchsize: int, **more: Any) -> Order:
    return Order("train", loss=loss, precision=precision, batchsize=batchsize, **more)


CASES: dict[str, Case] = {
    "train-triplet-bf16": Case("triplet loss, batch 16, 128 tokens, bf16", {"": _train("triplet", "bf16", 16)}),
    "train-triplet-fp32": Case("triplet loss, batch 16, 128 tokens, fp32", {"": _train("triplet", "fp32", 16)}),
    "train-infonce-bf16": Case(
        "in-batch cross-entropy, batch 32, 128 tokens, bf16", {"": _train("infonce", "bf16", 32)}
    ),
    "train-defaults": Case(
        "each contender with its defaults", {"": _train("infonce", "auto", Settings().batchsize, defaults=True)}
    ),
    "train-infonce-mpnet": Case(
        "a model of 278 million parameters, 128 and 256 tokens, bf16",
        {f"-{length}": _train("infonce", "bf16", 32, maxlength=length) for length in (128, 256)},
        gpu=True,
        large=True,
    ),
    "evaluate": Case(
        "1,500 queries over 34,000 texts, from texts to metrics",
        {"": Order("evaluate", precision="auto"), "-same-precision": Order("evaluate")},
    ),
    "evaluate-int8": Case(
        "the same with our layers in int8",
        {"": Order("evaluate", precision="int8")},
    ),
    "mine": Case(
        "10 hard negatives for each of 12,000 queries over 12,000 texts",
        {"": Order("mine", precision="auto", maxlength=32), "-same-precision": Order("mine", maxlength=32)},
    ),
    "mine-int8": Case(
        "the same with our layers in int8",
        {"": Order("mine", precision="int8", maxlength=32)},
    ),
}


def chosen(name: str) -> list[str]:
    """The case called `name`, or all cases if it is empty.

    Raises:
        InputError: there is no such case.
    """
    if name and name not in CASES:
        raise InputError(f'there is no case "{name}"; {suggestion(name, CASES)}')
    return [name] if name else list(CASES)


def check_numbers(numbers: Mapping[str, tuple[int, int]]) -> None:
    """Checks that no flag (name -> value and smallest allowed value) is too small.

    Raises:
        InputError: naming the flag.
    """
    for name, (value, least) in numbers.items():
        if value < least:
            raise InputError(f"--{name} is {value}; it must be at least {least}.")
