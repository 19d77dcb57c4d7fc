"""Figures of one training step: who is a negative of whom, where mixing moves queries, which parts learn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle
from torch import nn

from hr_search.base.plots import BLUE, GREY, ORANGE, PINK, SKY, finish, new_axis
from hr_search.batches import Batch

ROLES = {"not used": "white", "negative": ORANGE, "other positive": SKY, "own positive": BLUE}


def roles(batch: Batch, negatives: np.ndarray) -> np.ndarray:
    """What each document is to each row of a batch, (B, M) integers: places in `ROLES`.

    Args:
        batch: B rows over M distinct documents.
        negatives: (B, M), which documents are negatives.
    """
    found = np.where(negatives, 1, np.where(batch.relevant, 2, 0))
    found[np.arange(len(found)), batch.positive] = 3
    return found


def role_matrix(batch: Batch, negatives: np.ndarray, queries: Sequence[str], ax: Axes | None = None) -> Axes:
    """The batch as a table: rows are training pairs, columns documents, colours what one is to the other.

    Args:
        batch: B rows over M distinct documents.
        negatives: (B, M), which documents are negatives.
        queries: the query of each row.
        ax: where to draw; None = a new figure.
    """
    found = roles(batch, negatives)
    ax = new_axis(ax, (8, 1.2 + 0.32 * len(found)))
    ax.imshow(found, cmap=ListedColormap(list(ROLES.values())), vmin=0, vmax=len(ROLES) - 1, aspect="auto")
    _grid(ax, queries, found.shape[1])
    handles = [Patch(facecolor=colour, edgecolor=GREY, label=role) for role, colour in ROLES.items()]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    counts = (found == 1).sum(axis=1)
    title = f"{len(found)} pairs, {found.shape[1]} documents: {counts.min()} to {counts.max()} negatives a row"
    return finish(ax, title, "Document of the batch", "")


def cosine_matrix(scores: np.ndarray, batch: Batch, queries: Sequence[str], ax: Axes | None = None) -> Axes:
    """The cosines (B, M) of the batch's queries and documents; a frame marks each row's own positive."""
    ax = new_axis(ax, (8, 1.2 + 0.32 * len(scores)))
    picture = ax.imshow(scores, cmap="cividis", aspect="auto")
    _grid(ax, queries, scores.shape[1])
    for row, column in enumerate(batch.positive):
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=PINK, linewidth=2.5))
    ax.figure.colorbar(picture, ax=ax, label="Cosine")
    first = int((scores.argmax(axis=1) == batch.positive).sum())
    return finish(ax, f"{first} of {len(scores)} own positives are the nearest document", "Document of the batch", "")


def mixing_plane(queries: np.ndarray, mixed: np.ndarray, documents: np.ndarray, ax: Axes | None = None) -> Axes:
    """Where mixing moves the queries of a batch, on the plane of the two directions in which its texts differ most.

    Args:
        queries: (B, D) before mixing.
        mixed: (B, D) after it.
        documents: (M, D).
        ax: where to draw; None = a new figure.
    """
    everything = np.concatenate([queries, documents])
    centre = everything.mean(axis=0)
    axes = np.linalg.svd(everything - centre, full_matrices=False)[2][:2]
    before, after, others = ((points - centre) @ axes.T for points in (queries, mixed, documents))
    ax = new_axis(ax, (7, 5))
    ax.scatter(*others.T, color=ORANGE, marker="^", s=40, label="document")
    ax.scatter(*before.T, color="black", s=30, label="query", zorder=3)
    ax.scatter(*after.T, color=PINK, marker="*", s=90, label="mixed query", zorder=4)
    for start, end in zip(before, after, strict=True):
        ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": PINK})
    moved = 1 - (queries * mixed).sum(axis=1)
    title = f"Mixing moves the queries by a cosine distance of {moved.min():.3f} to {moved.max():.3f}"
    return finish(ax, title, "First principal component", "Second principal component", legend=True)


def gradient_norms(parameters: Iterable[tuple[str, nn.Parameter]]) -> pd.DataFrame:
    """The norm of the gradient of each part of a transformer, in the order of its layers: part, norm.

    Args:
        parameters: names and parameters, as `named_parameters()` gives them, after `backward()`.
    """
    squares: dict[str, float] = {}
    for name, parameter in parameters:
        if parameter.grad is not None:
            part = _part(name)
            squares[part] = squares.get(part, 0.0) + float(parameter.grad.double().square().sum())
    return pd.DataFrame({"part": list(squares), "norm": np.sqrt(list(squares.values()))})


def gradient_bars(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The gradient norms of `gradient_norms` as bars, first layer on top."""
    ax = new_axis(ax, (7, 1 + 0.22 * len(table)))
    ax.barh(table["part"], table["norm"], color=BLUE)
    ax.invert_yaxis()
    total = float(np.sqrt((table["norm"] ** 2).sum()))
    largest = table.loc[table["norm"].idxmax(), "part"]
    return finish(ax, f"The gradient's norm is {total:.2f}, most of it in: {largest}", "Norm of the gradient", "")


def _part(name: str) -> str:
    """`encoder.layer.3.attention.self.query.weight` as "layer 4, attention"."""
    layer = re.search(r"layers?\.(\d+)\.(\w+)", name)
    if layer is None:
        return "token embeddings" if "word_embeddings" in name or "embed_tokens" in name else "other"
    kind = "attention" if "att" in layer[2].lower() else "feed-forward"
    return f"layer {int(layer[1]) + 1}, {kind}"


def _grid(ax: Axes, queries: Sequence[str], columns: int) -> None:
    """Query texts as row labels, document numbers as column labels, thin lines between the cells."""
    short = [text if len(text) <= 32 else text[:31] + "…" for text in queries]
    ax.set_yticks(range(len(short)), short, parse_math=False)
    ax.set_xticks(range(columns), range(1, columns + 1))
    ax.set_xticks(np.arange(-0.5, columns), minor=True)
    ax.set_yticks(np.arange(-0.5, len(short)), minor=True)
    ax.grid(which="minor", color=GREY, linewidth=0.5)
    ax.tick_params(which="minor", length=0)
