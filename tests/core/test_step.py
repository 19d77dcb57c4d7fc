"""One step: gradient caching gives the same gradients, and out of memory leads to smaller parts."""

from __future__ import annotations

import pytest
import torch
from test_train import run, weights

from hr_search import step
from hr_search.base.errors import InputError
from hr_search.encoder import Encoder


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.2}, {"loss": "infonce", "mixing": "weighted"}])
def test_gradient_caching_trains_the_same_model(tiny_model, jobs, changes):
    # Parts of the same 40 tokens, so that dropout draws alike; only the second run encodes twice.
    whole, _ = run(tiny_model, jobs, epochs=2, learningrate=1e-3, chunktokens=40, **changes)
    parts, _ = run(tiny_model, jobs, epochs=2, learningrate=1e-3, chunktokens=40, gradcache=True, **changes)
    assert torch.allclose(weights(whole), weights(parts), atol=2e-5)


def limited(monkeypatch, tokens):
    """An encoder whose device has memory for so many tokens of one graph only."""
    original = Encoder.forward

    def forward(self, rows, budget=0):
        if torch.is_grad_enabled() and sum(len(row) for row in rows) > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, rows, budget)

    monkeypatch.setattr(Encoder, "forward", forward)


def test_out_of_memory_encodes_in_parts_and_changes_nothing_else(tiny_model, jobs, monkeypatch, caplog, home):
    whole, _ = run(tiny_model, jobs, epochs=2, learningrate=1e-3)
    limited(monkeypatch, 60)
    parts, progress = run(tiny_model, jobs, epochs=2, learningrate=1e-3)
    assert "out of GPU memory" in caplog.text
    assert progress.step == 6
    assert torch.allclose(weights(whole), weights(parts), atol=2e-5)


def test_no_memory_for_one_text_names_the_knobs(tiny_model, jobs, monkeypatch):
    limited(monkeypatch, 3)
    with pytest.raises(InputError, match=r"memory is too small for a batch .* at step 1; lower --maxlength"):
        run(tiny_model, jobs)


def test_memory_starts_from_the_settings(tiny_model, jobs, monkeypatch):
    seen = []
    original = step.cached_backward
    monkeypatch.setattr(step, "cached_backward", lambda *a: (seen.append(a[3]), original(*a))[1])
    run(tiny_model, jobs, epochs=1, gradcache=True, chunktokens=50)
    assert seen == [50, 50, 50]
