"""What leaves a run: the card of a saved model."""

from __future__ import annotations

from hr_search.release import model_card
from hr_search.settings import Settings

SUMMARY = {
    "data": {"name": "jobs.csv", "fingerprint": "0a1b", "train": 8, "test": 0},
    "metrics": {},
    "verdict": "",
    "steps": 2,
    "best_step": 1,
    "command": "python3 train.py",
}


def test_a_card_says_which_version_reads_the_model():
    card = model_card(Settings(), SUMMARY)
    assert "sentence-transformers 5 or later" in card and "condenser" not in card.split("## Test results")[0]
    assert "from hr_search.models.condenser import Condenser" in model_card(Settings(condense=300), SUMMARY)
