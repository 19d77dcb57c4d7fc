"""Figures of the speed benchmark."""

from __future__ import annotations

import numpy as np
import pytest
from speed_rows import row, table_of

from hr_search.base.errors import InputError
from hr_search.bench import figures


def test_figures_draw_the_speeds_of_one_machine(closed):
    drawn = table_of(
        row("slow", ours=(1.0,), peer=(1.0,)),
        row("other", "sundial"),
        row("fast"),
        row("evaluate-memory", unit="GB"),
        row("evaluate-mrr", unit="MRR@10"),
        row("free", limit=np.nan),
    )
    ax = figures.ratios(drawn, 2.0)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["slow", "fast", "free"]
    assert ax.get_title(loc="left") == "2 of 3 cases reach 2 times the peer's speed"
    assert [bar.get_width() for bar in ax.patches] == [1.0, 3.0, 3.0]
    shares = figures.limit_shares(drawn)
    assert [label.get_text() for label in shares.get_yticklabels()] == ["slow", "fast"]
    assert [round(bar.get_width(), 3) for bar in shares.patches] == [0.033, 0.1, 0.033, 0.033]
    assert len(figures.speeds(drawn, "sundial")) == 1


def test_figures_without_rows_are_refused():
    for draw in (figures.ratios, figures.limit_shares):
        with pytest.raises(InputError, match="no speeds to draw"):
            draw(table_of(row(unit="GB")))
    with pytest.raises(InputError, match="no speeds of sundial"):
        figures.ratios(table_of(row()), hardware="sundial")
    with pytest.raises(InputError, match="no row with a compute limit"):
        figures.limit_shares(table_of(row(limit=np.nan)))
