"""Tiny models and data that tests share; nothing here needs a network."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from hr_search.base import paths
from hr_search.models import embedded

if TYPE_CHECKING:
    from hostile import HostileReport

matplotlib.use("Agg")
if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # processes that test side by side share no caches and no results
    home = os.environ.get(paths.HOME_VARIABLE) or paths.checkout() / "build" / "test-home"
    os.environ[paths.HOME_VARIABLE] = str(Path(home) / worker)

AWKWARD = r"$\oops_ <b>$ & 100 %"  # as mathematics it cannot be drawn

JOBS = {
    "welder": "joins metal parts with an electric arc and grinds the seam",
    "baker": "kneads dough and bakes bread in a hot oven before dawn",
    "nurse": "gives medicine and watches over patients in the ward",
    "driver": "carries goods with a lorry over long roads at night",
    "teacher": "explains numbers to children and marks their tests",
    "lawyer": "writes contracts and speaks for clients in court",
    "painter": "covers walls with colour using a brush and a roller",
    "gardener": "plants trees and waters flowers in the city park",
    "cook": "prepares soup and meat in the kitchen of a restaurant",
    "tailor": "sews dresses and coats from cloth with a needle",
    "miner": "digs coal deep under the ground with a drill",
    "pilot": "flies passengers across the sea in an aeroplane",
}

ARCHITECTURES = {
    "bert": (BertConfig, BertModel, {}),
    "roberta": (RobertaConfig, RobertaModel, {"pad_token_id": 1}),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel, {"pad_token_id": 1}),
    "distilbert": (DistilBertConfig, DistilBertModel, {}),
    "mpnet": (MPNetConfig, MPNetModel, {"pad_token_id": 1}),
}


def make_model(folder: Path, architecture: str = "bert", longest: int | None = 64) -> Path:
    """A random model of 2 layers and 32 dimensions, saved by transformers, for texts of up to `longest` tokens."""
    words = sorted({word for pair in JOBS.items() for text in pair for word in text.split()})
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *words, *(f"unused{number}" for number in range(50))]
    core = Tokenizer(models.WordLevel({piece: at for at, piece in enumerate(pieces)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    marks = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    named = {f"{name}_token": mark for name, mark in marks.items()}
    limit = {"model_max_length": longest} if longest else {}
    PreTrainedTokenizerFast(tokenizer_object=core, **named, **limit).save_pretrained(folder)
    config_class, model_class, extra = ARCHITECTURES[architecture]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if architecture == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    torch.manual_seed(0)
    config = config_class(
        vocab_size=len(pieces), max_position_embeddings=16 + (longest or 64), **sizes, **{"pad_token_id": 1, **extra}
    )
    model_class(config).save_pretrained(folder)
    return folder


def title(ax: Axes) -> str:
    return ax.get_title(loc="left")


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def drawn(ax: Axes) -> Axes:
    """The axis after a full rendering without any warning, for errors in texts show only then."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax.figure.canvas.draw()
    return ax


@pytest.fixture
def closed() -> Iterator[None]:
    """No figure stays open after a test."""
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random BERT."""
    return make_model(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> HostileReport:
    """A report on hostile texts, made once for all tests that look at one."""
    from hostile import HostileReport

    return HostileReport.make(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(autouse=True)
def overheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """caplog hears the package: the command line keeps its logger to itself, and any test may have run it before."""
    monkeypatch.setattr(logging.getLogger("hr_search"), "propagate", True)


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """Ctrl-C raises, SIGTERM ends the program, however these tests were started."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of its own for everything that is written."""
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The folder of the embedded model, built once for all tests."""
    return Path(embedded.ensure_embedded())


@pytest.fixture
def stocked_home(embedded_model: Path, home: Path) -> Path:
    """A root of its own in which the embedded model is there already."""
    place = home / "data" / "models" / embedded_model.name
    place.parent.mkdir(parents=True)
    place.symlink_to(embedded_model)
    return home


def job_pairs() -> pd.DataFrame:
    """Pairs of titles and descriptions: each title with two different texts."""
    rows = []
    for title, text in JOBS.items():
        words = text.split()
        for part in (text, " ".join(reversed(words))):
            rows.append({"query": title, "positive": part, "negatives": [], "group": title})
    return pd.DataFrame(rows)


@pytest.fixture
def jobs() -> pd.DataFrame:
    """The pairs of `job_pairs`."""
    return job_pairs()


@pytest.fixture
def jobs_file(tmp_path: Path, jobs: pd.DataFrame) -> Path:
    """The same pairs as a CSV file."""
    path = tmp_path / "jobs.csv"
    jobs[["query", "positive"]].to_csv(path, index=False)
    return path
