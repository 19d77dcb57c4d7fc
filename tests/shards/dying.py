"""Workers that die, which worker processes import, too."""

from __future__ import annotations

import os
from pathlib import Path

from hr_search.shards import encoding
from hr_search.shards.encoding import Shard

ENCODE = encoding.encode_shard
FLAG = "died"


def dies_once(shard: Shard, home: str, threads: int) -> float:
    """Ends the worker that is first to begin the second shard of a table."""
    flag = Path(home) / FLAG
    if shard.place.name == "000001" and not flag.exists():
        flag.parent.mkdir(parents=True, exist_ok=True)
        flag.touch()
        os._exit(9)
    return ENCODE(shard, home, threads)


def must_not_run(shard: Shard, home: str, threads: int) -> float:
    """Fails."""
    raise RuntimeError("this shard was there already")


def echo(job: int, home: str, threads: int) -> tuple[int, str, int]:
    """What a worker was given."""
    return job, home, threads
