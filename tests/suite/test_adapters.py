"""Tasks of MTEB and WorkRB as ours, and an encoder as a model of theirs; neither package is needed."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from hr_search import evaluate, load_encoder
from hr_search.base import paths
from hr_search.base.errors import InputError
from hr_search.data.counts import Counts
from hr_search.suite.adapters import as_model, from_mteb, from_workrb


class Mteb:
    """What is read of a retrieval task of MTEB 2.26."""

    metadata = types.SimpleNamespace(name="Jobs")

    def __init__(self, **changes):
        self.data_loaded = False
        self.split = {
            "queries": {"id": ["q1", "q2", "q3"], "text": ["welder", "baker", "nurse "], "instruction": [None, "find", ""]},
            "corpus": {
                "id": ["d1", "d2", "d3"],
                "title": ["", "bakery ", None],
                "text": ["bakes bread", "kneads dough", "joins metal parts"],
            },
            "relevant_docs": {"q1": {"d3": 2, "d9": 1}, "q2": {"d2": 2, "d1": 1, "d3": 0}, "q3": {"d1": 1}},
            "top_ranked": None,
        } | changes  # fmt: skip

    def load_data(self):
        self.dataset, self.data_loaded = {"default": {"test": self.split}}, True


class WorkRB:
    """What is read of a ranking task of WorkRB 0.6."""

    name = "Jobs"
    binary_relevance_threshold = 2.0

    def __init__(self, relevance=((2.0,), (1.0, 2.0), (1.0,))):
        self.datasets = {
            "en": types.SimpleNamespace(
                query_texts=["welder", "baker", "nurse"],
                target_space=["bakes bread", "kneads dough", "joins metal parts"],
                target_indices=[[2], [0, 1], [0]],
                target_relevance=relevance,
            )
        }


def shape(task) -> tuple[list[str], list[str], list[list[int]], list[list[float]] | None]:
    grades = None if task.grades is None else [row.tolist() for row in task.grades]
    return task.queries, task.documents, [row.tolist() for row in task.relevant], grades


def test_a_task_of_mteb():
    tasks, counts = from_mteb(Mteb())
    queries, documents = ["welder", "baker find", "nurse"], ["bakes bread", "bakery kneads dough", "joins metal parts"]
    assert shape(tasks["q2d"]) == (queries, documents, [[2], [0, 1], [0]], [[2], [1, 2], [1]])
    assert shape(tasks["d2q"]) == (documents, queries, [[1, 2], [1], [0]], [[1, 1], [2], [2]])
    assert counts == Counts(rows=4, empty=0, unanswered=0, distractors=0, unknown=1)
    tasks, counts = from_mteb(Mteb(), relevantfrom=2)
    assert tasks["q2d"].queries == ["welder", "baker find"] and tasks["q2d"].documents[2] == "bakes bread"
    assert counts.unanswered == 1 and counts.distractors == 1


def test_a_task_of_mteb_in_its_older_layout():
    class Older(Mteb):
        def load_data(self):
            self.data_loaded = True

        def convert_v1_dataset_format_to_v2(self, num_proc):
            self.dataset = {"ru": {"dev": self.split}, "en": {"dev": {}}}

    tasks, _ = from_mteb(Older(), "dev", "ru")
    assert tasks["q2d"].queries == ["welder", "baker find", "nurse"]
    with pytest.raises(InputError, match="the MTEB task Jobs has several subsets; it has ru, en."):
        from_mteb(Older(), "dev")
    with pytest.raises(InputError, match="has no split test; it has dev"):
        from_mteb(Older(), subset="ru")


def test_a_task_of_workrb():
    tasks, counts = from_workrb(WorkRB())
    task = tasks["q2d"]
    assert task.relevantfrom == 2 and task.queries == ["welder", "baker"] and counts.unanswered == 1
    assert task.documents == ["kneads dough", "joins metal parts", "bakes bread"]
    assert [task.right(query).tolist() for query in (0, 1)] == [[1], [0]]
    tasks, _ = from_workrb(WorkRB(), "en", relevantfrom=0)
    assert shape(tasks["q2d"])[2:] == ([[2], [0, 1], [0]], [[2], [1, 2], [1]])
    tasks, _ = from_workrb(WorkRB(relevance=None))
    assert tasks["q2d"].relevantfrom == 0 and shape(tasks["q2d"])[2:] == ([[2], [0, 1], [0]], None)
    tasks, _ = from_workrb(WorkRB(relevance=((1.0,), (0.0, 1.0), (0.0,))), relevantfrom=0)
    assert tasks["q2d"].queries == ["welder", "baker"] and tasks["q2d"].grades is None  # a grade of 0 is not relevant


class Ignoring(Mteb):
    ignore_identical_ids = True


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: from_mteb(object()), "the MTEB task object has no dataset"),
        (lambda: from_mteb(Mteb(), subset="fr"), "has no subset fr; it has default"),
        (lambda: from_mteb(Mteb(top_ranked={"q1": ["d1"]})), "ranks given documents again; take a retrieval task"),
        (lambda: from_mteb(Ignoring()), "leaves the document with the query's own id out"),
        (lambda: from_mteb(Mteb(queries={"id": ["q1"], "image": [0]})), "has no column text; only tasks of texts"),
        (lambda: from_mteb(Mteb(queries={"id": ["q1"], "text": [["a", "b"]]})), r"is \['a', 'b'\]; only .* single texts"),
        (lambda: from_mteb(Mteb(relevant_docs={})), "Jobs marks no document as relevant to a query"),
        (lambda: from_workrb(object()), "the WorkRB task object has no datasets"),
        (lambda: from_workrb(WorkRB(), "de"), "has no dataset de; it has en"),
        (lambda: from_workrb(types.SimpleNamespace(datasets={"en": 1})), "has no query_texts; give a ranking task"),
        (lambda: as_model(None, "both"), 'a direction is q2d or d2q, not "both"'),
    ],
)  # fmt: skip
def test_what_is_no_task(read, message):
    with pytest.raises(InputError, match=message):
        read()


def test_a_model_for_both(tiny_model, monkeypatch):
    encoder = load_encoder(str(tiny_model), precision="fp32", prompts={"query": "welder ", "document": "baker "})
    texts = ["joins metal parts", "bakes bread"]
    sides = {side: encoder.encode(texts, side) for side in ("query", "document")}
    assert not np.allclose(sides["query"], sides["document"])
    there, back = as_model(encoder), as_model(encoder, "d2q", "ours")
    for model, query, document in ((there, "query", "document"), (back, "document", "query")):
        given = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "batch_size": 8}
        batches = [{"text": texts[:1]}, {"text": texts[1:]}]
        for wanted, side in ((None, query), ("query", query), (types.SimpleNamespace(value="document"), document)):
            np.testing.assert_allclose(model.encode(batches, prompt_type=wanted, **given), sides[side], atol=1e-6)
        ranked = model.compute_rankings(queries=texts, targets=texts, query_input_type="a", target_input_type="b")
        np.testing.assert_allclose(ranked, sides[query] @ sides[document].T, atol=1e-5)
        assert torch.equal(model.compute_classification(texts, texts, "a", None), ranked)
    found = there.similarity(2 * sides["query"], torch.from_numpy(sides["document"]))
    np.testing.assert_allclose(found, sides["query"] @ sides["document"].T, atol=1e-6)
    np.testing.assert_allclose(
        there.similarity_pairwise(3 * sides["query"], sides["document"]), found.diagonal(), atol=1e-6
    )
    assert (there.name, back.name, there.citation, there.classification_label_space) == (
        Path(tiny_model).name, "ours", None, None,
    )  # fmt: skip
    meta = types.SimpleNamespace(create_empty=lambda overwrites: overwrites)
    monkeypatch.setitem(sys.modules, "mteb", types.ModuleType("mteb"))
    monkeypatch.setitem(sys.modules, "mteb.models", types.SimpleNamespace(ModelMeta=meta))
    first, other = there.mteb_model_meta, as_model(load_encoder(str(tiny_model), precision="fp32")).mteb_model_meta
    assert first["name"] == other["name"] == f"hr_search/{Path(tiny_model).name}"
    assert first["revision"] != other["revision"]  # by which MTEB keeps results: the prompts differ


@pytest.mark.parametrize("guide", ["README.md", "README.ru.md"])
@pytest.mark.parametrize("package", ["mteb", "workrb"])
def test_the_examples_of_the_guide(guide, package, tiny_model, tmp_path, monkeypatch, capsys):
    text = (paths.checkout() / "hr_search" / "commands" / guide).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (code,) = [block for block in blocks if f"import {package}" in block]
    task, encoder = (Mteb() if package == "mteb" else WorkRB()), load_encoder(str(tiny_model))
    fake = types.ModuleType(package)

    def measured(model, tasks, **given):
        (their,) = tasks
        return "their table", model.name, their is task

    fake.evaluate, fake.get_task = measured, lambda name: task
    fake.tasks = types.SimpleNamespace(JobTitleSimilarityRanking=lambda languages, split: task)
    monkeypatch.setitem(sys.modules, package, fake)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paraphrasemodel").symlink_to(tiny_model)
    exec(code, {})
    tasks, metric = (from_mteb(task)[0], "ndcg@10") if package == "mteb" else (from_workrb(task)[0], "map")
    printed = capsys.readouterr().out
    assert str(evaluate(encoder, tasks)["q2d"][metric].mean()) in printed
    assert "('their table', 'paraphrasemodel', True)" in printed
