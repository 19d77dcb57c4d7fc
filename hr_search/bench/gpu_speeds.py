"""How fast a GPU is used: training beside sentence-transformers, its floating-point operations, search in a million.

Both contenders train the same random XLM-R base on the same texts in the same order, in bf16 and without dropout,
through their own loops. Ours runs texts without padding and a vocabulary cut down to the words that occur.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from hr_search.base.arrays import incidence
from hr_search.base.devices import hardware
from hr_search.base.errors import one_line
from hr_search.base.files import read_json
from hr_search.base.peak import forget_peak, peak_memory
from hr_search.bench import ours, peer
from hr_search.bench.cases import Order
from hr_search.bench.gpu_scene import Finding, Scene, at_least, at_most, fresh, left_out, matrix_limit
from hr_search.mining import MiningPolicy, mine
from hr_search.nearest import nearest

# Dense bf16 products with sums in float32, FLOP/s, by the makers' data sheets; the first name that occurs counts.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
RATIO = 1.0  # demanded: at least as fast as the peer
SCORES = 2e-6  # largest difference of a score from the exact one; scores are rounded to 1e-6
SAME = 0.99  # share of documents that must be the same: those that tie within a step may change places


# -- training ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Layout:
    """Texts of one kind: their most tokens, the rows of a step, and the fewest and most tokens of either side."""

    length: int
    batchsize: int
    query: tuple[int, int]
    document: tuple[int, int]

    @property
    def name(self) -> str:
        """Such as `128 tokens (queries 4 to 32, documents 16 to 128), 256 rows a step`."""
        sides = zip(("queries", "documents"), (self.query, self.document), strict=True)
        words = ", ".join(f"{side} {low} to {high}" if low < high else f"{side} {low}" for side, (low, high) in sides)
        return f"{self.length} tokens ({words}), {self.batchsize} rows a step"


# Titles beside descriptions, then texts without any padding; about as many tokens in each step.
LAYOUTS = (
    Layout(128, 256, (4, 32), (16, 128)),
    Layout(256, 128, (4, 64), (32, 256)),
    Layout(128, 128, (128, 128), (128, 128)),
    Layout(256, 64, (256, 256), (256, 256)),
)
_DRY_LAYOUTS = (Layout(16, 4, (4, 8), (8, 16)),)


def speed(scene: Scene) -> Iterator[Finding]:
    """Training of a random XLM-R base (278 million parameters) in bf16 beside sentence-transformers.

    The share of a peak that the measured steps reach (MFU) counts 6·P·T + 12·L·H·Σn² floating-point operations a row:
    P weights of the linear layers, T tokens without padding, L layers of H numbers, n tokens of each text.
    """
    jobs = [(layout, order_of(scene, layout)) for layout in scene.pick(LAYOUTS, _DRY_LAYOUTS)]
    texts = {layout: texts_of(scene, layout, order.rows) for layout, order in jobs}
    limit, peak = matrix_limit(scene.device), peak_of(hardware(scene.device))
    rates = {}
    for layout, order in jobs:
        rates[layout], seconds, memory = contender(ours, scene, order, texts[layout])
        yield Finding(f"{layout.name}: ours, peak {memory:.1f} GB", rates[layout], "rows/s")
        made = row_flops(scene.model("large"), texts[layout]) * order.batchsize * order.steps / seconds
        shares = [(limit, "of the matrix products measured here")]
        if peak:
            shares.append((PEAKS[peak], f"of the {peak}'s data sheet"))
        for most, whose in shares:
            what = f"{layout.name}: ours, {made / 1e12:.3g} of the {most / 1e12:.4g} TFLOP/s {whose}"
            yield Finding(what, made / most, "MFU")
    for attention in ("sdpa", "flash_attention_2"):
        if attention != "sdpa" and not (scene.device.type == "cuda" and importlib.util.find_spec("flash_attn")):
            yield left_out(f"sentence-transformers with {attention}: it needs a GPU and the package flash_attn")
            continue
        for layout, order in jobs:
            asked = dataclasses.replace(order, attention=attention)
            try:
                rate, _, memory = contender(peer, scene, asked, texts[layout])
            except Exception as error:  # a missing package or too little memory for one is not the end for the others
                yield Finding(f"{layout.name}: sentence-transformers, {attention}: {one_line(error)}", passed="no")
                continue
            yield Finding(f"{layout.name}: sentence-transformers, {attention}, peak {memory:.1f} GB", rate, "rows/s")
            what = f"{layout.name}: ours as a multiple of sentence-transformers, {attention}"
            yield at_least(what, rates[layout] / rate, scene.pick(RATIO, 0.0), "x")


def peak_of(name: str) -> str:
    """The GPU of PEAKS that a device's name means; empty if none."""
    return next((each for each in PEAKS if re.search(rf"\b{each}\b", name)), "")


def order_of(scene: Scene, layout: Layout) -> Order:
    """What both contenders train."""
    warm, steps = scene.pick((6, 24), (1, 2))
    return Order(
        "train",
        model=scene.model("large"),
        loss="infonce",
        precision="bf16",
        dropout=0.0,
        batchsize=layout.batchsize,
        maxlength=layout.length,
        warm=warm,
        steps=steps,
    )


def texts_of(scene: Scene, layout: Layout, rows: int) -> pd.DataFrame:
    """The pairs of a layout."""
    return scene.pairs(rows, layout.query, layout.document, layout.length)


def contender(side: Any, scene: Scene, order: Order, pairs: pd.DataFrame) -> tuple[float, float, float]:
    """Rows per second of `ours` or `peer`, the seconds of its measured steps, and its peak memory, GB."""
    fresh()
    forget_peak(scene.device)
    answer = side.measure(order, pairs.to_dict("list"))
    return answer["rows"][""]["value"], sum(answer["seconds"]), peak_memory(scene.device)


def row_flops(model: str, pairs: pd.DataFrame) -> float:
    """The floating-point operations that training cannot do without, for an average row.

    6·P·T + 12·L·H·Σn²: P weights of the linear layers, T tokens of query and document (no padding), L layers of H
    numbers, n tokens of each text. A product takes 2 operations a weight and token, its gradients twice as many;
    attention takes 4·H·n² a layer, its gradients twice as many (Kaplan et al. 2020, arXiv:2001.08361, appendix B).
    """
    config = read_json(f"{model}/config.json")
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    weights = layers * (4 * width**2 + 2 * width * config["intermediate_size"])
    lengths = np.concatenate([pairs[side].str.split().str.len().to_numpy() + 2 for side in ("query", "positive")])
    total = 6 * weights * lengths.sum() + 12 * layers * width * np.square(lengths).sum()
    return float(total) / len(pairs)


# -- search --------------------------------------------------------------------------------------


def vectors(scene: Scene) -> Iterator[Finding]:
    """Nearest documents and hard negatives among a million vectors: seconds, and equality with an exact search."""
    count, asked, size, k = scene.pick((1_000_000, 20_000, 384, 10), (3000, 50, 32, 10))
    sample = scene.pick(32, 8)
    documents, queries = random_vectors(scene, count, asked, size)
    nearest(queries[:8], documents[:5000], k, device=scene.device)  # starts the libraries
    began = time.perf_counter()
    found, scores = nearest(queries, documents, k, device=scene.device)  # waits for the GPU itself
    seconds = time.perf_counter() - began
    yield Finding(f"nearest: {asked:,} queries over {count:,} vectors of {size} numbers, k = {k}", seconds, "s")
    ids, wanted = exact(queries[:sample], documents, k)
    gap = np.abs(scores[:sample] - wanted).max()
    yield at_most(f"nearest: largest difference of a score from float64, {sample} queries", gap, SCORES)
    share = same_share(found[:sample], ids)
    yield at_least(f"nearest: documents that float64 finds, too, {sample} queries", share, SAME, "share")
    own, policy = np.arange(asked), MiningPolicy(count=k)
    relevant = incidence(own, own, (asked, count))
    began = time.perf_counter()
    mined = mine(queries, documents, relevant, own, policy, device=scene.device)
    seconds = time.perf_counter() - began
    yield Finding(f"mine: {k} hard negatives of each of {asked:,} queries over {count:,} vectors", seconds, "s")
    again = mine(queries[:sample], documents, relevant[:sample], own[:sample], policy, device="cpu")
    share = same_share(mined.negatives[:sample], again.negatives)
    yield at_least(f"mine: negatives that the processor finds, too, {sample} queries", share, SAME, "share")


def random_vectors(scene: Scene, count: int, asked: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (count, size), and queries (asked, size) that each lie near the vector of their number."""
    generator = torch.Generator(scene.device).manual_seed(0)
    documents = torch.randn(count, size, generator=generator, device=scene.device)
    noise = torch.randn(asked, size, generator=generator, device=scene.device)
    return documents.cpu().numpy(), (documents[:asked] + noise).cpu().numpy()


def exact(queries: np.ndarray, documents: np.ndarray, k: int, chunk: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest documents of each query by cosine in float64: indices and scores (Q, k), best first."""

    def unit(part: np.ndarray) -> np.ndarray:
        part = part.astype(np.float64)
        return part / np.linalg.norm(part, axis=1, keepdims=True)

    left = unit(queries)
    scores = np.concatenate([left @ unit(documents[at : at + chunk]).T for at in range(0, len(documents), chunk)], 1)
    ids = np.argpartition(scores, -k, axis=1)[:, -k:]  # sorting a million numbers for ten takes seconds
    order = np.argsort(-np.take_along_axis(scores, ids, axis=1), axis=1)
    ids = np.take_along_axis(ids, order, axis=1)
    return ids, np.take_along_axis(scores, ids, axis=1)


def same_share(found: np.ndarray, wanted: np.ndarray) -> float:
    """The share of the wanted indices (Q, k) that were found (Q, k) for the same query; empty places are -1."""
    shares = [len(set(a[a >= 0]) & set(b[b >= 0])) / max(1, len(b[b >= 0])) for a, b in zip(found, wanted, strict=True)]
    return float(np.mean(shares))
