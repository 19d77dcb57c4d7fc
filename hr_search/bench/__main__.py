"""The process of one measurement: `python -m hr_search.bench QUESTION ANSWER`.

Imports are inside the functions, so that a process loads only what its order needs.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import torch

from hr_search.base import files
from hr_search.base.errors import guarded
from hr_search.bench.cases import Order


def end_with_parent() -> None:
    """Ends this process when its parent has ended: nobody waits for the measurement then."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def answer_order(question: str, answer: str) -> None:
    """Reads the order in the file `question` and writes what was measured to the file `answer`."""
    asked = files.read_json(question)
    order = Order(**asked["order"])
    if order.threads:
        torch.set_num_threads(order.threads)
    torch.manual_seed(order.seed)
    files.write_json(answer, answer_of(asked["contender"], order, asked["texts"]))


def answer_of(contender: str, order: Order, texts: dict[str, list]) -> dict[str, Any]:
    """What a contender ("ours" or "peer") answers to an order, JSON-ready."""
    if order.kind == "rate":
        from hr_search.bench import meters

        return {"rate": meters.matrix_rate(order.precision, meters.best_device())}
    if order.kind == "costs":
        from hr_search.bench import costs

        return costs.run_costs(order, texts)
    if order.kind == "race":
        from hr_search.bench import racers

        return racers.run_ours(order) if contender == "ours" else racers.run_peer(order)
    from hr_search.bench import ours, peer

    return ours.measure(order, texts) if contender == "ours" else peer.measure(order, texts)


if __name__ == "__main__":
    end_with_parent()
    sys.exit(guarded(lambda: answer_order(*sys.argv[1:])))
