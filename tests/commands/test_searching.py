"""`evaluate` as a user meets it."""

from __future__ import annotations

import json

from hr_search.commands import parser


def test_evaluate_prints_what_machines_can_read(home, tiny_model, jobs_file, capsys):
    assert parser.main(["evaluate", "--model", str(tiny_model), "--datapath", str(jobs_file), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert set(values) == {"bm25", "tfidf", str(tiny_model)}
    for directions in values.values():
        for metrics in directions.values():
            assert all(low <= value <= high for value, low, high in metrics.values())
