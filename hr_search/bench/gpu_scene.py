"""What the GPU check works with: a device, invented models and texts, and the calls that only a GPU has.

Nothing is downloaded: models have random weights, words are numbers. A dry run takes tiny sizes and runs the same lines
on whatever is here; what a processor lacks has a stand-in in the last part of this module and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate.state import AcceleratorState
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from hr_search.base.files import whole_folder
from hr_search.batches import Rows, index_rows
from hr_search.bench.meters import best_device, matrix_rate
from hr_search.bench.model_folders import random_model
from hr_search.bench.ours import token_tables
from hr_search.encoder import Encoder, load_encoder
from hr_search.fast.tokens import TokenTable

# Sizes that differ from those of XLM-R base.
_SIZES: dict[str, dict[str, int]] = {
    "large": {},  # 278 million parameters, 192 million of them in the vocabulary
    "small": {
        "vocab_size": 8000,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
    },
    "tiny": {
        "vocab_size": 500,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
}
_WORDS = {"large": 250_002, "small": 8000, "tiny": 500}
_MARKS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # at the places where XLM-R has its first four


# -- rows of the result --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Finding:
    """One row that a check gives.

    Attributes:
        what: was measured, or what went wrong, in a clause.
        value: NaN where there is none.
        unit: of the value.
        demanded: the bar, in words; empty = the value is only reported.
        passed: "yes", "no", "left out", or empty where nothing is demanded.
    """

    what: str
    value: float = math.nan
    unit: str = ""
    demanded: str = ""
    passed: str = ""


def at_most(what: str, value: float, bound: float, unit: str = "") -> Finding:
    """A value that must not be above a bound; NaN is."""
    return Finding(what, float(value), unit, f"at most {bound:g}", "yes" if value <= bound else "no")


def at_least(what: str, value: float, bound: float, unit: str = "") -> Finding:
    """A value that must not be below a bound; NaN is."""
    return Finding(what, float(value), unit, f"at least {bound:g}", "yes" if value >= bound else "no")


def left_out(why: str) -> Finding:
    """A measurement that was not made, and why."""
    return Finding(why, passed="left out")


# -- models and texts ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scene:
    """Where and how large a check is.

    Attributes:
        folder: for models and scratch files; all checks of a run share it.
        dry: tiny sizes, only to see every line run.
    """

    folder: Path
    dry: bool = False

    @property
    def device(self) -> torch.device:
        """The GPU; in a dry run the processor, if there is no GPU."""
        return best_device()

    def pick(self, real: Any, dry: Any) -> Any:
        """One of two values: the first, or in a dry run the second."""
        return dry if self.dry else real

    def model(self, size: str) -> str:
        """The folder of a random XLM-R, "large" (base) or "small"; in a dry run always a tiny one. Built once."""
        size = self.pick(size, "tiny")
        words = self.folder / f"{size}-words"
        if not words.is_dir():
            _write_tokenizer(words, _WORDS[size])
        return random_model(self.folder / size, str(words), **_SIZES[size])

    def pairs(self, count: int, query: tuple[int, int], document: tuple[int, int], seed: int = 0) -> pd.DataFrame:
        """Pairs of invented texts, each of a group of its own; a query shares its first words with its document.

        Args:
            count: rows.
            query: the fewest and the most tokens of a query, both of the special ones included; drawn uniformly.
            document: likewise.
            seed: of words and lengths.

        Returns:
            `query`, `positive`, `negatives` (none), `group`.
        """
        generator = np.random.default_rng(seed)
        known = _WORDS[self.pick("small", "tiny")] - len(_MARKS)  # as many words as a table of job titles has
        rows = []
        for _ in range(count):
            sizes = [int(generator.integers(low - 2, high - 1)) for low, high in (query, document)]
            words, other = ((known * generator.random(size) ** 2).astype(int) for size in (sizes[1], sizes[0]))
            shared = min(len(other) // 2, len(words))
            other[:shared] = words[:shared]
            rows.append((_text(other), _text(words)))
        table = pd.DataFrame(rows, columns=["query", "positive"])
        return table.assign(negatives=[[] for _ in rows], group=[str(row) for row in range(count)])

    def encoder(
        self, pairs: pd.DataFrame, size: str = "small", precision: str = "auto", dropout: float = 0.0, device: str = ""
    ) -> tuple[Encoder, Rows, dict[str, TokenTable]]:
        """An encoder whose vocabulary is cut down to the pairs, as in a training, with their rows and token tables."""
        encoder = load_encoder(self.model(size), 512, precision, dropout, device or self.device)
        rows = index_rows(pairs)
        tables = token_tables(encoder, rows)
        encoder.compact(list(tables.values()))
        return encoder, rows, tables


def _text(words: Sequence[int]) -> str:
    return " ".join(f"w{word}" for word in words)


def _write_tokenizer(folder: Path, size: int) -> None:
    """A tokenizer of `size` tokens that takes one word for one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [*_MARKS, *(f"w{word}" for word in range(size - len(_MARKS)))]
    core = Tokenizer(models.WordLevel({piece: at for at, piece in enumerate(pieces)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    marks = {**dict(zip(names, _MARKS, strict=True)), "cls_token": "<s>", "sep_token": "</s>"}
    with whole_folder(folder) as target:
        PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=512, **marks).save_pretrained(target)


# -- what only a GPU has -------------------------------------------------------------------------


def fresh() -> None:
    """Gives memory back and forgets the launch of the contender before, whose precision may be another."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    AcceleratorState._reset_state(reset_partial_state=True)


def matrix_limit(device: torch.device) -> float:
    """The rate of bf16 matrix products that this GPU reaches, FLOP/s; of a processor a figure that means nothing."""
    return matrix_rate("bf16", device) if device.type == "cuda" else 1e12


_WARNED = "called a synchronizing CUDA operation"


def warned_waits(work: Callable[[], object], device: torch.device) -> list[str]:
    """The lines of Python at which `work` made the host wait for the GPU, one for each wait that torch warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return [f"{Path(each.filename).name}:{each.lineno}" for each in caught if _WARNED in str(each.message)]


_STEP = "hr_search.step"
_LAUNCH = re.compile(r"cu(da)?LaunchKernel")
_WAIT = re.compile(r"cu(da)?\w*Synchronize|Memcpy DtoH")


def traced_waits(work: Callable[[], object], device: torch.device) -> list[str] | None:
    """The calls in `work` that made the host wait for the GPU or copied something to it, as the profiler saw them.

    None where the profiler sees no call to the GPU at all, as without the permission to trace.
    """
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=kinds) as trace:
        with record_function(_STEP):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()  # so that the trace is complete; it lies behind the step and is not counted
    events = trace.events()
    if device.type == "cuda" and not any(_LAUNCH.match(event.name) for event in events):
        return None
    return waits_in(events)


def waits_in(events: Sequence[Any]) -> list[str]:
    """The names of the events that lie within a step and are waits of the host, or copies to it.

    Raises:
        RuntimeError: there is no step among the events.
    """
    spans = [each.time_range for each in events if each.name == _STEP and each.device_type == DeviceType.CPU]
    if not spans:
        raise RuntimeError("the profiler has recorded no step")
    return [
        each.name
        for each in events
        if _WAIT.match(each.name) and any(span.start <= each.time_range.start < span.end for span in spans)
    ]


@contextlib.contextmanager
def scarce_memory(encoder: Encoder, share: float, work: Callable[[], int]) -> Iterator[None]:
    """Memory for only a share of what `work` takes, until the block ends.

    Args:
        encoder: whose graphs take it.
        share: above 0 and below 1.
        work: a step, run once to see what it takes; returns the tokens it encoded. Run something like it before, so
            that what the libraries keep is there already.
    """
    if encoder.device.type != "cuda":
        most = int(share * work())

        def refuse(_: Any, arguments: tuple) -> None:
            if torch.is_grad_enabled() and sum(len(row) for row in arguments[0]) > most:
                raise torch.OutOfMemoryError("the processor plays a GPU without memory")

        handle = encoder.register_forward_pre_hook(refuse)
        try:
            yield
        finally:
            handle.remove()
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    work()
    torch.cuda.synchronize()
    most = before + share * (torch.cuda.max_memory_reserved() - before)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(encoder.device).total_memory
    torch.cuda.set_per_process_memory_fraction(most / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
