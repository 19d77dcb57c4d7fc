"""One step: gradient caching gives the same gradients, and out of memory leads to smaller parts."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_train import run, weights

from hr_search import step
from hr_search.base.errors import InputError
from hr_search.base.processes import Processes
from hr_search.batches import index_rows, make_batch
from hr_search.encoder import Encoder, load_encoder
from hr_search.mixing import MixingPolicy


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


# -- several processes -----------------------------------------------------------------------------


def gradients(model, jobs, chosen, count, monkeypatch, **changes):
    """The gradients of one step by `count` processes, which threads stand for, and the tokens each of them counts."""
    rows, meeting, sums = index_rows(jobs), threading.Barrier(count, timeout=60), []

    def summed(self, tensor):
        sums.append(tensor.clone())
        meeting.wait()
        total = torch.stack(sums).sum(dim=0)
        if meeting.wait() == 0:
            sums.clear()
        meeting.wait()
        return tensor.copy_(total)

    monkeypatch.setattr(Processes, "summed", summed)
    encoders = [load_encoder(str(model), precision="fp32") for _ in range(count)]

    def one(index):
        encoder, batch = encoders[index].train(), make_batch(rows, np.array(chosen))
        tables = {side: encoder.tokens(getattr(rows, name), side) for side, name in SIDES}
        accelerator = SimpleNamespace(
            process_index=index, num_processes=count, device=torch.device("cpu"), unwrap_model=lambda model: model,
            no_sync=lambda model: contextlib.nullcontext(), backward=lambda loss: loss.backward(),
        )  # fmt: skip
        policy = step.LossPolicy("infonce", negatives="given")
        context = step.Context(rows, tables, policy, MixingPolicy(), 0, 1, **changes)
        try:
            _, tokens = step.run_step(encoder, accelerator, batch, context, 0)
        except Exception:
            meeting.abort()
            raise
        grads = [parameter.grad for parameter in encoder.parameters()]
        return tokens, grads

    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(one, range(count)))
    means = [
        torch.stack([torch.zeros_like(own) if grad is None else grad for grad in each]).mean(dim=0)
        for own, *each in zip(encoders[0].parameters(), *(grads for _, grads in found), strict=True)
    ]
    # Where one has no gradient at all, the others would wait for it.
    assert all(len({grad is None for grad in each}) == 1 for each in zip(*(grads for _, grads in found), strict=True))
    return means, {tokens for tokens, _ in found}


SIDES = (("query", "queries"), ("document", "documents"))


@pytest.mark.parametrize("changes", [{}, {"cached": True, "budget": 8}])
def test_more_processes_than_texts_train_as_one(tiny_model, jobs, monkeypatch, changes):
    given = jobs.assign(negatives=[[text] for text in jobs["positive"].iloc[::-1]])
    whole, tokens = gradients(tiny_model, given, [0], 1, monkeypatch)
    many, counted = gradients(tiny_model, given, [0], 5, monkeypatch, **changes)  # three texts
    assert tokens == counted and any(grad.any() for grad in whole)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(whole, many, strict=True))
