"""Figures of a training step on texts that look like markup."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import drawn
from matplotlib.axes import Axes

from hr_search.batches import Batch
from hr_search.reports import step_figures

QUERIES = ["net $3.000 % bonus $", "a_b^c $x", "<b>cook</b>"]


BATCH = Batch(
    queries=np.arange(3),
    documents=np.arange(3),
    query=np.arange(3),
    positive=np.arange(3),
    relevant=np.eye(3, dtype=bool),
    given=np.zeros((3, 3), dtype=bool),
    same=np.eye(3, dtype=bool),
    further=np.arange(0),
    wrong=np.zeros((3, 0), dtype=bool),
)
pytestmark = pytest.mark.usefixtures("closed")


def labels(ax: Axes) -> list[str]:
    return [label.get_text() for label in drawn(ax).get_yticklabels()]


def test_queries_are_labels_as_they_are():
    assert labels(step_figures.role_matrix(BATCH, ~BATCH.relevant, QUERIES)) == QUERIES
    assert labels(step_figures.cosine_matrix(np.eye(3), BATCH, QUERIES)) == QUERIES
