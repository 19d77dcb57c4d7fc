"""int8 in place of float32: an encoder whose layers are integers, and the quantised graph of an exported model."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from hr_search.base.choices import SIDES
from hr_search.base.errors import InputError
from hr_search.base.pages import MappedPages
from hr_search.encoder import Encoder
from hr_search.export.graph import write_graph
from hr_search.export.smoothing import smoothed
from hr_search.fast.integers import IntegerLayers, norm_outputs, obstacle
from hr_search.models.fidelity import TEXTS

NEAR = 0.98  # the least mean cosine between the embeddings of a model and those in int8
_LENGTHS = (1, 7, 40, 1000)  # words of further texts to compare
_SHOWING = (  # that show how large hidden states become: no text of a task, so that a model has one int8 form
    "Сварщик 5 разряда (НАКС), вахта 60/30. Обязанности: сварка трубопроводов и металлоконструкций; проживание и "
    "питание за счёт компании, зарплата от 150 000 руб.",
    "Ищем медсестру в частную клинику: инъекции, забор крови, ведение документации. Опыт от 1 года, график 2/2.",
    "Главный бухгалтер, 1С:ERP 8.3, МСФО, отчётность в ФНС и ПФР, знание английского языка – преимущество.",
    "Водитель категорий C, E; продавец-кассир; повар горячего цеха; менеджер по продажам (B2B).",
    "Senior Python developer (Django, PostgreSQL, Kubernetes). You design services, review code and mentor juniors.",
    "Warehouse workers pick, pack and load goods, drive forklifts and count the stock at the end of each shift.",
    "Registered nurse\n- cares for patients after surgery\n- keeps records\n- Requirements: licence, night shifts",
    "Accountants prepare financial statements, advise on taxes and audit the accounts of companies & public bodies.",
    "electrician", "teacher of mathematics", "дворник", "Data Scientist / ML-инженер, e-mail: hr@example.com",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Integers:
    """The layers of a transformer in both forms, and whether the exact ones multiply in bfloat16."""

    transformer: nn.Module
    bf16: bool
    exact: nn.ModuleList
    int8: nn.ModuleList


def in_int8(encoder: Encoder) -> Encoder:
    """The same encoder, embedding with int8 layers on the CPU (`fast.integers`).

    An embedding moves a little; it does not depend on the texts that it is computed with (`loss.int8_loss` measures
    what becomes of rankings).

    Args:
        encoder: as `load_encoder` returns it; changed in place.

    Raises:
        InputError: the processor has no integer products, the model has layers of another kind, or it embeds quite
            otherwise in int8.
    """
    transformer = encoder.transformer
    reason = "is for transformers, and sentence-transformers encodes this model with steps of its own"
    if not (encoder.foreign or transformer is None):
        reason = obstacle(transformer) or ("" if encoder.packs else "is for models that can be fed without padding")
    if reason:
        raise InputError(f"the model {encoder.name} cannot be encoded with int8: it {reason}; take bf16 or fp32.")
    encoder.model.to("cpu")
    encoder.eval()
    exact, bf16, before = transformer.encoder.layer, encoder.bf16, []
    encoder.bf16 = False
    inputs = norm_outputs(transformer, lambda: before.extend(_shown(encoder)))
    encoder.engine = Integers(transformer, bf16, exact, nn.ModuleList([IntegerLayers(exact, inputs)]))
    for weight in exact.parameters():  # they are read again where they are needed again
        MappedPages(weight).release()
    transformer.encoder.layer = encoder.engine.int8
    mean = float(np.mean([(old * new).sum(1) for old, new in zip(before, _shown(encoder), strict=True)]))
    if not mean >= NEAR:
        encoder.engine, encoder.bf16, transformer.encoder.layer = None, bf16, exact
        raise InputError(
            f"with int8 weights the embeddings of {encoder.name} have a mean cosine of {mean:.3f} with the original's "
            f"(less than {NEAR:g}); encode it with fp32 or bf16."
        )
    return encoder


def _shown(encoder: Encoder) -> list[np.ndarray]:
    return [encoder.encode(_SHOWING, side) for side in SIDES]


@contextlib.contextmanager
def exactly(encoder: Encoder) -> Iterator[None]:
    """A block in which an encoder embeds without int8."""
    engine = encoder.engine
    encoder.engine, encoder.bf16, engine.transformer.encoder.layer = None, engine.bf16, engine.exact
    try:
        yield
    finally:
        encoder.engine, encoder.bf16, engine.transformer.encoder.layer = engine, False, engine.int8


# -- the graph of an export ----------------------------------------------------------------------


def write_int8(encoder: Encoder, path: Path, texts: Mapping[str, Sequence[str]]) -> None:
    """Writes the graph of an encoder with int8 weights.

    Args:
        encoder: on the CPU.
        path: the file.
        texts: side to texts that show how large activations become.

    Raises:
        InputError: as `write_graph`.
    """
    from hr_search.export.quantised import quantise

    draft = path.with_name("draft.onnx")
    encoder.eval()
    with smoothed(encoder, texts):
        write_graph(encoder, draft)
    quantise(draft, path)
    draft.unlink()


def probe_texts(maxlength: int) -> list[str]:
    """Texts of several lengths, from one token to more than the model reads."""
    return [*TEXTS, *("welder 12 " * min(count, maxlength) for count in _LENGTHS)]
