"""Teaching: a second stage scores the train rows once, before the encoder is trained to rank as it does.

A cross-encoder is far too slow to score every batch, so it scores each row's own pair and, for each text that is
searched with, the nearest wrong texts by the base model. They are plain nearest ones: the rules that keep unmarked
positives out of mined negatives (a window of ranks, a share of the positive's score) are not needed, as the teacher
recognises those itself.
"""

from __future__ import annotations

import hashlib
import logging
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from hr_search.anchors import anchors
from hr_search.base import paths
from hr_search.base.errors import one_line
from hr_search.base.files import digest, whole_file
from hr_search.base.processes import Processes
from hr_search.base.progress import bar
from hr_search.batches import Rows
from hr_search.encoder import Encoder
from hr_search.fast import tokens as cutting
from hr_search.fast.tokens import TokenTable
from hr_search.lessons import Lessons
from hr_search.mining import MiningPolicy, mine
from hr_search.reranking.scorer import load_reranker
from hr_search.search.identity import fingerprint
from hr_search.search.policy import sides_of
from hr_search.settings import Settings

if TYPE_CHECKING:
    from hr_search.reranking.cross_encoder import Reranker

log = logging.getLogger(__name__)

VERSION = 1
DRAWN = 2  # documents that join a batch with each row where `teacherdrawn` is 0: each costs as much as a row
_BLOCK = 4096  # pairs scored between two looks at the clock

Scores = tuple[np.ndarray, np.ndarray, np.ndarray]  # candidates (A, C) int64, their scores (A, C), own scores (N,)


def make_lessons(
    settings: Settings, rows: Rows, encoder: Encoder, tokens: dict[str, TokenTable], accelerator: Accelerator
) -> Lessons:
    """The scores of the teacher that `settings` name, from the cache on disk where it gave them before.

    In direction d2q each vacancy's titles are scored, in q2d each title's vacancies. The processes of a launch share
    the work and all hold the same scores.

    Args:
        settings: teacher, `teachercandidates`, direction, seed.
        rows: the train rows.
        encoder: the base model with its whole vocabulary; it finds the candidates.
        tokens: token tables of the queries and documents of `rows`.
        accelerator: device and processes.

    Raises:
        InputError: the teacher is no cross-encoder, or gives NaN, or the cache cannot be written.
    """
    teacher = load_reranker(settings.teacher, precision=settings.precision, device=accelerator.device)
    side, count = sides_of(settings.direction)[1], settings.teachercandidates
    distinct, place, _ = anchors(rows, side)
    key = key_of(teacher, encoder, rows, settings)
    path = paths.cache() / "teaching" / f"{key}.npz"
    texts = len(rows.documents if side == "document" else rows.queries)
    found = read_scores(path, (len(distinct), count), len(rows), texts)
    if not _everywhere(np.array([found is not None]), accelerator)[0]:  # what the first process has is what counts
        candidates = nearest_wrong(encoder, rows, tokens, side, count, accelerator)
        found = score_rows(teacher, rows, side, candidates, accelerator)
        if accelerator.is_main_process:
            write_scores(path, found)
    elif accelerator.is_main_process:
        log.info("the scores of the teacher %s are in the cache", settings.teacher)
    shapes = ((len(distinct), count), np.int64), ((len(distinct), count), np.float32), ((len(rows),), np.float32)
    found = found or tuple(np.zeros(*shape) for shape in shapes)
    candidates, scores, own = (_everywhere(each, accelerator) for each in found)
    rank = 1 + ((candidates[place] >= 0) & (scores[place] >= own[:, None])).sum(axis=1)
    log.info(
        "the teacher puts the own text of %.0f%% of the train rows before all of %d others; mean reciprocal rank %.3f",
        100 * (rank == 1).mean(), count, (1 / rank).mean(),
    )  # fmt: skip
    drawn = settings.teacherdrawn or (DRAWN if side == "document" else 0)
    return Lessons(side, place, candidates, scores, own, drawn, settings.seed, key)


# -- scores --------------------------------------------------------------------------------------


def nearest_wrong(
    encoder: Encoder, rows: Rows, tokens: dict[str, TokenTable], side: str, count: int, accelerator: Accelerator
) -> np.ndarray:
    """The `count` nearest texts of `side` that are not relevant to each text searched with, (A, count) int64."""
    (distinct, _, own), processes = anchors(rows, side), Processes.of(accelerator)
    sides = {name: encoder.embed(table, progress=True, processes=processes) for name, table in tokens.items()}
    groups = {"query": rows.query_groups, "document": rows.document_groups}
    other = "query" if side == "document" else "document"
    positives = groups[other][distinct] @ groups[side].T
    policy = MiningPolicy(count=count, share=0.0)
    texts, device = (sides[other][distinct], sides[side]), accelerator.device
    return mine(*texts, positives, own, policy, device=device, processes=processes).negatives


def score_rows(teacher: Reranker, rows: Rows, side: str, candidates: np.ndarray, accelerator: Accelerator) -> Scores:
    """The candidates (A, C), the teacher's logits of them (A, C), and those of the rows' own pairs (N,), float32.

    Each distinct pair is scored once. Where there are fewer candidates (-1) the logit is 0.
    """
    distinct, place, _ = anchors(rows, side)
    own = rows.positive if side == "document" else rows.query
    kept = candidates >= 0
    pairs = np.concatenate(
        [
            np.stack([np.repeat(distinct, kept.sum(axis=1)), candidates[kept]], axis=1),
            np.stack([distinct[place], own], axis=1),
        ]
    )
    pairs, back = np.unique(pairs, axis=0, return_inverse=True)
    logits = _score_pairs(teacher, rows, pairs if side == "document" else pairs[:, ::-1], accelerator)[back.ravel()]
    scores = np.zeros(candidates.shape, np.float32)
    scores[kept] = logits[: kept.sum()]
    return candidates, scores, logits[kept.sum() :]


def _score_pairs(teacher: Reranker, rows: Rows, pairs: np.ndarray, accelerator: Accelerator) -> np.ndarray:
    """The logits (P,) float32 of pairs (P, 2) of a query and a document, each process scoring its share."""
    shares = np.array_split(pairs, accelerator.num_processes)
    share = shares[accelerator.process_index]
    log.info("the teacher scores %d pairs, once; they are kept in the cache", len(pairs))
    started, parts = time.perf_counter(), []
    blocks = range(0, len(share), _BLOCK)
    for at in bar(blocks, "teacher", "block"):
        block = share[at : at + _BLOCK]
        titles, documents = [rows.queries[i] for i in block[:, 0]], [rows.documents[i] for i in block[:, 1]]
        parts.append(teacher.score(titles, documents))
        if at == 0 and len(blocks) > 1:
            left = (time.perf_counter() - started) * (len(share) / _BLOCK - 1)
            log.info("about %.0f min to go, by the first %d pairs", max(1, left / 60), _BLOCK)
    scores = np.concatenate([*parts, np.empty(0, np.float32)]).astype(np.float32)
    log.info("scored in %.0f s", time.perf_counter() - started)
    if accelerator.num_processes == 1:
        return scores
    padded = np.zeros(len(shares[0]), np.float32)  # the first share is among the largest
    padded[: len(scores)] = scores
    gathered = accelerator.gather(torch.from_numpy(padded).to(accelerator.device)).cpu().numpy()
    return np.concatenate([gathered[at * len(padded) :][: len(each)] for at, each in enumerate(shares)])


def _everywhere(array: np.ndarray, accelerator: Accelerator) -> np.ndarray:
    """The array as the first process has it: ties may be broken differently on another machine."""
    if accelerator.num_processes == 1:
        return array
    tensor = torch.from_numpy(array.astype(np.int64) if array.dtype == bool else array)
    return broadcast(tensor.to(accelerator.device)).cpu().numpy()


# -- the cache -----------------------------------------------------------------------------------


def key_of(teacher: Reranker, encoder: Encoder, rows: Rows, settings: Settings) -> str:
    """16 hex digits of all that decides the scores: teacher, base model, texts, groups, candidates and direction."""
    groups = [array.tobytes().hex() for part in (rows.query_groups, rows.document_groups)
              for array in (part.indptr, part.indices)]  # fmt: skip
    numbers = [array.astype(np.int64).tobytes().hex() for array in (rows.query, rows.positive)]
    return digest(
        VERSION,
        identity_of(teacher),
        fingerprint(encoder),
        settings.trainlength,
        rows.queries,
        rows.documents,
        numbers,
        groups,
        settings.teachercandidates,
        settings.direction,
    )


def identity_of(teacher: Reranker) -> str:
    """A digest of everything that decides a second stage's scores."""
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(teacher.model.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    condenser = teacher.condenser.to_dict() if teacher.condenser else {}
    parts = cutting.fingerprint(teacher.tokenizer), teacher.maxlength, teacher.bf16, sorted(condenser.items())
    return digest(state.hexdigest(), *parts)


def write_scores(path: Path, scores: Scores) -> None:
    """Keeps the scores at `path`; the file is never half-written."""
    with whole_file(path, "wb") as file:
        np.savez(file, **dict(zip(("candidates", "scores", "own"), scores, strict=True)))


def read_scores(path: Path, shape: tuple[int, int], rows: int, texts: int) -> Scores | None:
    """The scores kept at `path`; None where there are none, or where they are damaged and must be made anew.

    Args:
        path: as given to `write_scores`.
        shape: (A, C) of anchors and candidates.
        rows: N.
        texts: how many texts a candidate can be.
    """
    try:
        with np.load(path, allow_pickle=False) as kept:
            candidates, scores, own = kept["candidates"], kept["scores"], kept["own"]
        if [candidates.shape, scores.shape, own.shape] != [shape, shape, (rows,)]:
            raise ValueError("it does not fit the train rows")
        if (candidates.dtype, scores.dtype, own.dtype) != (np.int64, np.float32, np.float32):
            raise ValueError("its numbers have another type")
        if not (np.isfinite(scores).all() and np.isfinite(own).all()):
            raise ValueError("it holds NaN or infinity")
        if candidates.min() < -1 or candidates.max() >= texts:
            raise ValueError("it names texts that are not there")
        return candidates, scores, own
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("the cached scores %s are damaged (%s) and are made anew", path, one_line(error))
        return None
