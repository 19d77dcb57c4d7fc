"""Two benchmarks of others: tasks of MTEB and WorkRB become ours, and an encoder becomes a model of theirs.

Neither package is imported to read a task; what is read of one is named below. Written for mteb 2.26 and workrb 0.6,
whose numbers were equal to ours on a task of 40 queries. hr_search/commands/README.md has an example of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hr_search.base.choices import DIRECTIONS
from hr_search.base.errors import InputError, one_line, shown, suggestion
from hr_search.data.counts import Counts
from hr_search.data.qrels import judged_tasks
from hr_search.data.tasks import Task
from hr_search.encoder import Encoder
from hr_search.search.identity import fingerprint
from hr_search.search.policy import sides_of

Judged = tuple[dict[str, Task], Counts]  # what `qrels.read_folder` returns, too
_ELSEWHERE = {  # what MTEB may do with a ranking and `rank_all` does not
    "ignore_identical_ids": "leaves the document with the query's own id out",
    "skip_first_result": "leaves the first document of each ranking out",
}


def from_mteb(task: Any, split: str = "test", subset: str = "", relevantfrom: float = 0.0) -> Judged:
    """The search tasks of a retrieval task of MTEB, with its grades.

    A document is its title and text, a query its text and instruction, as MTEB joins them. Its nDCG@10 is ours where no
    documents tie and each query has a right one.

    Args:
        task: what `mteb.get_task` returns. Read are `metadata.name`, `data_loaded` and `load_data()`, and
            `dataset[subset][split]` with its `queries`, `corpus` and `relevant_docs`.
        split: its name there.
        subset: such as a language; empty = the only one.
        relevantfrom: the grade from which a document counts as right for all metrics but nDCG; 0 = any above 0.

    Returns:
        The tasks "q2d" and "d2q", and the counts `rows`, `empty`, `unknown`, `unanswered` and `distractors`.

    Raises:
        InputError: it is no retrieval task of texts, has no such split or subset, ranks otherwise than `rank_all`, or
            no query has a right document.
    """
    name = f"the MTEB task {shown(getattr(getattr(task, 'metadata', None), 'name', type(task).__name__))}"
    if not getattr(task, "data_loaded", True):
        task.load_data()
    if convert := getattr(task, "convert_v1_dataset_format_to_v2", None):
        convert(num_proc=None)  # the older layout, as `mteb.evaluate` does
    data = _part(getattr(task, "dataset", None), split, subset, name)
    if data.get("top_ranked"):
        raise InputError(f"{name} ranks given documents again; take a retrieval task.")
    if changed := [words for attribute, words in _ELSEWHERE.items() if getattr(task, attribute, False)]:
        raise InputError(f"{name} {changed[0]}, and its numbers would not be comparable; measure it with as_model.")
    queries, corpus = data["queries"], data["corpus"]
    texts = _joined(_column(queries, "text", name), _column(queries, "instruction", name, False))
    documents = _joined(_column(corpus, "title", name, False), _column(corpus, "text", name))
    ids = [{str(key): at for at, key in enumerate(_column(part, "id", name))} for part in (queries, corpus)]
    found, unknown = [], 0
    for query, judged in data["relevant_docs"].items():
        for document, grade in judged.items():
            pair = ids[0].get(str(query)), ids[1].get(str(document))
            unknown += None in pair
            if None not in pair and grade > 0:
                found.append((*pair, float(grade)))
    tasks, counts = judged_tasks(texts, documents, *_columns(found), relevantfrom, name)
    return tasks, counts + Counts(unknown=unknown)


def from_workrb(task: Any, dataset: str = "", relevantfrom: float | None = None) -> Judged:
    """The search tasks of a ranking task of WorkRB, with its grades.

    Args:
        task: an object of one of its classes. Read are `name`, `binary_relevance_threshold` and `datasets[dataset]`
            with its `query_texts`, `target_space`, `target_indices` and `target_relevance`.
        dataset: mostly a language, such as "en"; empty = the only one.
        relevantfrom: as in `from_mteb`; None = the task's own.

    Returns:
        As `from_mteb`; its MAP and MRR are ours where no targets tie.

    Raises:
        InputError: it is no ranking task, has no such dataset, or no query has a right target.
    """
    name = f"the WorkRB task {shown(getattr(task, 'name', type(task).__name__))}"
    datasets = getattr(task, "datasets", None)
    if not isinstance(datasets, Mapping):
        raise InputError(f"{name} has no datasets; give an object of one of WorkRB's ranking tasks.")
    part = datasets[_chosen(dataset, datasets, name, "dataset")]
    fields = ("query_texts", "target_space", "target_indices")
    if missing := [field for field in fields if not hasattr(part, field)]:
        raise InputError(f"{name} has no {missing[0]}; give a ranking task.")
    queries, targets, places = (getattr(part, field) for field in fields)
    grades = getattr(part, "target_relevance", None)
    if relevantfrom is None:
        relevantfrom = 0.0 if grades is None else float(getattr(task, "binary_relevance_threshold", 0.0))
    found = [
        (query, at, 1.0 if grades is None else float(grades[query][number]))
        for query, row in enumerate(places)
        for number, at in enumerate(row)
    ]
    return judged_tasks(queries, targets, *_columns([each for each in found if each[2] > 0]), relevantfrom, name)


def as_model(encoder: Encoder, direction: str = "q2d", name: str = "") -> BenchmarkModel:
    """The encoder as a model for `mteb.evaluate` and `workrb.evaluate`: with its prompts, condenser and length.

    A saved folder that does not condense documents can be given to MTEB as it is: `mteb.evaluate(
    SentenceTransformer(folder), tasks, cache=None)`. MTEB keeps results by a model's name and revision, which a folder
    has not, so with a cache a second model would get the results of the first. WorkRB's own `BiEncoderModel(folder)`
    leaves out the prompts of both sides.

    Args:
        encoder: with its whole vocabulary, as `load_encoder` returns it.
        direction: "q2d": their queries are our queries; "d2q": they are our documents, such as sentences whose skills
            are sought with a model that was trained on skill -> description.
        name: in their results; empty = the last part of the encoder's name.

    Raises:
        InputError: the direction is none.
    """
    if direction not in DIRECTIONS:
        raise InputError(f'a direction is q2d or d2q, not "{direction}"; {suggestion(direction, DIRECTIONS)}')
    return BenchmarkModel(encoder, direction, name or encoder.name.rstrip("/\\").replace("\\", "/").split("/")[-1])


class BenchmarkModel:
    """What `as_model` returns: an encoder by MTEB's `EncoderProtocol` and a model by WorkRB's `ModelInterface`."""

    citation = None
    classification_label_space = None

    def __init__(self, encoder: Encoder, direction: str, name: str) -> None:
        self.encoder, self.name = encoder, name
        self.description = f"{name}, a sentence encoder read with hr_search, {direction}"
        self.sides = dict(zip(("query", "document"), sides_of(direction), strict=True))

    @property
    def mteb_model_meta(self) -> Any:
        """MTEB's record of the model. Results are kept by its name and revision, so the revision is the fingerprint."""
        from mteb.models import ModelMeta

        return ModelMeta.create_empty({"name": f"hr_search/{self.name}", "revision": fingerprint(self.encoder)})

    def encode(
        self, inputs: Iterable[Mapping[str, Sequence[str]]], *, prompt_type: Any = None, **given: Any
    ) -> np.ndarray:
        """Embeddings of batches of texts, (N, D) float32; without a `prompt_type` they are queries."""
        texts = [text for batch in inputs for text in batch["text"]]
        return self.encoder.encode(texts, self.sides[str(getattr(prompt_type, "value", prompt_type) or "query")])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines of all pairs of embeddings, (A, B)."""
        return torch.atleast_2d(_unit(embeddings1)) @ torch.atleast_2d(_unit(embeddings2)).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines of embeddings row by row, (N,)."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=-1)

    def compute_rankings(
        self, queries: Sequence[str], targets: Sequence[str], *types: Any, **named: Any
    ) -> torch.Tensor:
        """Cosines of queries and targets, (Q, N)."""
        left, right = (
            self.encoder.encode(each, self.sides[side]) for each, side in ((queries, "query"), (targets, "document"))
        )
        return self.similarity(left, right)

    def compute_classification(
        self, texts: Sequence[str], targets: Sequence[str], *types: Any, **named: Any
    ) -> torch.Tensor:
        """Cosines of texts and the names of classes, (N, C)."""
        return self.compute_rankings(texts, targets)


def _part(dataset: Any, split: str, subset: str, name: str) -> Mapping[str, Any]:
    """The queries, corpus and judgements of one split of one subset."""
    if not isinstance(dataset, Mapping) or not dataset:
        raise InputError(f"{name} has no dataset; give a retrieval task of MTEB.")
    splits = dataset[_chosen(subset, dataset, name, "subset")]
    part = splits[_chosen(split, splits, name, "split")]
    if missing := [field for field in ("queries", "corpus", "relevant_docs") if field not in part]:
        raise InputError(f"{name} has no {missing[0]}; give a retrieval task of MTEB.")
    return part


def _chosen(wanted: str, among: Mapping[str, Any], name: str, what: str) -> str:
    """The key that is wanted, or the only one."""
    if not wanted and len(among) == 1:
        return next(iter(among))
    if wanted in among:
        return wanted
    had = f"has no {what} {shown(wanted)}" if wanted else f"has several {what}s"
    raise InputError(f"{name} {had}; it has {one_line(', '.join(map(str, among)), 200)}.")


def _column(table: Any, column: str, name: str, needed: bool = True) -> list[Any]:
    """A column of a data set, or of a mapping to lists; empty where it is not needed and not there."""
    names = getattr(table, "column_names", None) or list(table)
    if column in names:
        return list(table[column])
    if needed:
        raise InputError(f"{name} has no column {column}; only tasks of texts can be read.")
    return []


def _joined(first: Sequence[Any], second: Sequence[Any]) -> list[str]:
    """Two columns of texts joined row by row; an empty one adds nothing."""
    columns = [column for column in (first, second) if len(column)]
    rows = [[text for text in row if text is not None] for row in zip(*columns, strict=True)]
    if wrong := next((text for row in rows for text in row if not isinstance(text, str)), None):
        raise InputError(f"a text of the task is {one_line(repr(wrong), 60)}; only tasks of single texts can be read.")
    return [" ".join(text.strip() for text in row if text.strip()) for row in rows]


def _columns(found: Sequence[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, documents and grades of judgements, (P,) each."""
    rows, columns, grades = zip(*found, strict=True) if found else ((), (), ())
    return np.array(rows, np.int64), np.array(columns, np.int64), np.array(grades, np.float64)


def _unit(embeddings: Any) -> torch.Tensor:
    """Embeddings as a tensor of rows of length 1."""
    return torch.nn.functional.normalize(torch.as_tensor(embeddings).float(), dim=-1)
