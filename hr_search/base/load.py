"""The load of the machine: threads that leave other programs their cores, and whether a process gets those it wants.

Threads of one process wait for one another many times a step. Where another program takes the core of one of them, all
wait, and a scheduler that gives each group of processes the same share takes it often. Fewer threads than cores then
do more work. The number of threads decides the last bits of a sum, so nothing here is done unless it is asked for.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hr_search.base.cores import THREAD_VARIABLES, cores
from hr_search.base.errors import InputError, shown

log = logging.getLogger(__name__)

AUTO = "auto"
MOST = 1024
_CHOICE = "HR_SEARCH_THREADS"  # how the threads were chosen, for this process and those that it starts
_SAMPLE = 1.0  # s that the cores are watched before a number is chosen
_STRETCH = 5.0  # s that a sentence about sharing needs at least: the system counts in hundredths
_ENOUGH = 0.7  # of its threads' time on the cores: with more a process is not said to share
_OTHERS = 0.25  # cores that others keep busy where a machine counts as shared; alone a process may be slow, too


@dataclasses.dataclass(frozen=True)
class Reading:
    """Seconds on three counters at one moment.

    Attributes:
        wall: of a clock.
        own: that this process has computed, all its threads together.
        busy: that the cores it may use have computed, for whatever program; NaN where the system does not say.
    """

    wall: float
    own: float
    busy: float


def reading() -> Reading:
    """The counters as of now."""
    return Reading(time.perf_counter(), time.process_time(), _busy())


def usage(before: Reading, after: Reading) -> tuple[float, float]:
    """Cores that this process, and that all other programs, kept busy on average between two readings."""
    wall, own = after.wall - before.wall, after.own - before.own
    if wall <= 0:
        return 0.0, 0.0
    return own / wall, max(0.0, (after.busy - before.busy - own) / wall)


def sharing(before: Reading, after: Reading, threads: int) -> str:
    """A sentence if this process got clearly less of the cores than its threads could use, since others took them.

    Args:
        before: at the start of a stretch of work that keeps all threads busy.
        after: at its end.
        threads: of this process.

    Returns:
        "" where it got enough, nobody else computed, the stretch was too short, or the system does not say.
    """
    own, others = usage(before, after)
    if after.wall - before.wall < _STRETCH or not others >= _OTHERS or own >= _ENOUGH * threads:
        return ""
    advice = "; --threads auto takes fewer" if threads > 1 else ""
    return f"the machine is shared: this process got {own:.1f} of {_count(threads, 'core')}{advice}"


# -- choice --------------------------------------------------------------------------------------


def choose_threads(text: str, watch: Callable[[], float] | None = None) -> int:
    """Sets the threads of this process, and of those that it starts, as `--threads` says; logs what auto found.

    It must come before numpy and torch are imported; torch alone also obeys afterwards.

    Args:
        text: a number from 1 to 1024, or "auto": as many as there are cores that other programs leave idle, one at
            least.
        watch: gives the cores that other programs keep busy; None = they are watched for a second.

    Returns:
        The number of threads.

    Raises:
        InputError: another text, or auto on a system that does not say how busy it is.
    """
    granted = cores()
    if text.strip().lower() == AUTO:
        others = (watch or _watched)()
        beside = max(1, int(_local_processes()))
        threads = max(1, free(granted, others) // beside)
        shares = f", {beside} processes" if beside > 1 else ""
        said = f"{_count(granted, 'core')}, {others:.1f} busy with other programs{shares}: {_count(threads, 'thread')}"
        log.info(said)
        choice = f"{AUTO}: {said}"
    else:
        threads, choice = _number(text), f"--threads {text.strip()}"
        if threads > granted:
            log.warning("%s on %s wait for one another", _count(threads, "thread"), _count(granted, "core"))
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    os.environ[_CHOICE] = choice
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    return threads


def choice() -> str:
    """How `--threads` chose the threads of this process, or of the one that started it; "" = it was not given."""
    return os.environ.get(_CHOICE, "")


def free(granted: int, others: float) -> int:
    """Cores that are left of `granted` where other programs keep `others` busy, one at least; half a core is one."""
    return max(1, granted - math.floor(others + 0.5))


def busy_seconds(text: str, places: set[int], ticks: int) -> float:
    """Seconds that some cores have computed since the machine was started, from Linux's `/proc/stat`.

    Args:
        text: the file.
        places: numbers of the cores that count.
        ticks: of its counters in a second.
    """
    total = 0
    for line in text.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in places:
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])  # without idle and waiting for disks
            total += user + nice + system + irq + softirq + steal
    return total / ticks


def _busy() -> float:
    try:
        text = Path("/proc/stat").read_text(encoding="ascii")
        return busy_seconds(text, os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, AttributeError):
        return math.nan


def _watched() -> float:
    """Cores that other programs keep busy, over a second; where the system does not count that, its load average."""
    before = reading()
    if math.isnan(before.busy):
        if hasattr(os, "getloadavg"):  # slower to notice a change, and it counts what has just ended
            return os.getloadavg()[0]
        raise InputError("--threads auto cannot see on this system how busy it is; give a number of threads.")
    time.sleep(_SAMPLE)
    return usage(before, reading())[1]


def _local_processes() -> str:
    """How many processes a launcher has started on this machine, each of which chooses at the same moment."""
    launched = os.environ.get("LOCAL_WORLD_SIZE", "1")
    # A launcher that has already divided the cores says so in this variable, which `cores` reads.
    return launched if launched.isdigit() and not os.environ.get("OMP_NUM_THREADS") else "1"


def _number(text: str) -> int:
    word = text.strip()
    if not (word.isascii() and word.isdigit() and len(word) < 6 and 1 <= int(word) <= MOST):
        raise InputError(f"--threads is {shown(text) or 'empty'}; give auto or a whole number from 1 to {MOST}.")
    return int(word)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
