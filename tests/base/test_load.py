"""The load of the machine, from readings that are made up: no test waits for a clock."""

from __future__ import annotations

import logging
import math
import os

import pytest
import torch

from hr_search.base import load
from hr_search.base.cores import THREAD_VARIABLES
from hr_search.base.errors import InputError
from hr_search.base.load import Reading, busy_seconds, choose_threads, free, sharing, usage

STAT = """cpu  1000 0 0 9000 0 0 0 0 0 0
cpu0 300 20 100 5000 700 3 4 73 11 12
cpu1 100 0 0 9000 0 0 0 0 0 0
cpu10 7000 0 0 0 0 0 0 0 0 0
intr 12 0 0
"""


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """The threads and variables of the tests stay as they are."""
    before = torch.get_num_threads()
    for name in (*THREAD_VARIABLES, "HR_SEARCH_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    yield
    torch.set_num_threads(before)


# -- readings ------------------------------------------------------------------------------------


def test_only_cores_that_may_be_used_count_and_neither_idle_nor_waiting():
    assert busy_seconds(STAT, {0}, 100) == 5.0
    assert busy_seconds(STAT, {0, 1}, 100) == 6.0
    assert busy_seconds(STAT, {1, 10}, 1000) == 7.1
    assert busy_seconds("intr 1 2\n", {0}, 100) == 0.0


def test_the_counters_of_this_machine_go_forward():
    first = load.reading()
    sum(range(100_000))
    second = load.reading()
    assert second.wall > first.wall and second.own >= first.own
    assert math.isnan(second.busy) or second.busy >= first.busy


def test_usage_is_in_cores():
    assert usage(Reading(10, 5, 100), Reading(20, 14, 119)) == pytest.approx((0.9, 1.0))
    assert usage(Reading(10, 5, 100), Reading(20, 25, 119)) == (2.0, 0.0)  # counters of two kinds may disagree a little
    assert usage(Reading(10, 5, 100), Reading(10, 5, 100)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("own", "busy", "threads", "said"),
    [
        (9.0, 19.0, 2, "the machine is shared: this process got 0.9 of 2 cores; --threads auto takes fewer"),
        (5.0, 15.0, 1, "the machine is shared: this process got 0.5 of 1 core"),
        (14.0, 19.0, 2, ""),  # 70 %
        (9.0, 11.0, 2, ""),  # nobody else wants the cores: the work itself is slow
        (9.5, 19.0, 1, ""),
        (9.0, math.nan, 2, ""),
    ],
)
def test_a_machine_is_shared_where_others_take_what_the_threads_lack(own, busy, threads, said):
    assert sharing(Reading(0, 0, 0), Reading(10, own, busy), threads) == said


def test_a_short_stretch_says_nothing():
    assert not sharing(Reading(0, 0, 0), Reading(4.9, 1, 9), 2) and sharing(Reading(0, 0, 0), Reading(5, 1, 9), 2)


# -- choice --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granted", "others", "threads"),
    [
        (2, 0.0, 2),
        (2, 0.49, 2),
        (2, 0.5, 1),
        (2, 1.0, 1),
        (2, 2.0, 1),
        (2, 7.0, 1),
        (8, 2.6, 5),
        (1, 0.0, 1),
        (1, 1.0, 1),
    ],
)
def test_as_many_threads_as_cores_are_free_and_one_at_least(granted, others, threads):
    assert free(granted, others) == threads


def test_auto_takes_what_is_free_and_says_why(caplog):
    with caplog.at_level(logging.INFO, "hr_search"):
        assert choose_threads("Auto", lambda: 0.96) == 1
    assert caplog.messages == ["2 cores, 1.0 busy with other programs: 1 thread"]
    assert load.choice() == "auto: 2 cores, 1.0 busy with other programs: 1 thread"
    assert {os.environ[name] for name in THREAD_VARIABLES} == {"1"} and torch.get_num_threads() == 1


def test_auto_takes_no_more_than_a_variable_grants(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert choose_threads("auto", lambda: 2.2) == 4
    assert torch.get_num_threads() == 4


def test_processes_of_a_launch_share_what_is_free(monkeypatch, caplog):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with caplog.at_level(logging.INFO, "hr_search"):
        assert choose_threads("auto", lambda: 1.0) == 2
    assert "1.0 busy with other programs, 3 processes: 2 threads" in caplog.text
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the launcher has divided already
    assert choose_threads("auto", lambda: 0.0) == 2


def test_a_number_is_taken_as_it_is(caplog):
    assert choose_threads(" 2 ") == 2 and load.choice() == "--threads 2" and not caplog.text
    assert choose_threads("3") == 3 and torch.get_num_threads() == 3
    assert "3 threads on 2 cores wait for one another" in caplog.text


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "two", "1025", "9" * 5000, "٣", "automatic"])
def test_other_texts_are_refused_and_change_nothing(text):
    before = torch.get_num_threads()
    with pytest.raises(InputError, match="give auto or a whole number from 1 to 1024"):
        choose_threads(text)
    assert torch.get_num_threads() == before and "OMP_NUM_THREADS" not in os.environ and not load.choice()


def test_the_sample_leaves_out_what_this_process_computes(monkeypatch):
    readings = iter([Reading(0, 0, 50), Reading(1, 0.25, 51.5)])
    monkeypatch.setattr(load, "reading", lambda: next(readings))
    monkeypatch.setattr(load.time, "sleep", lambda _: None)
    assert choose_threads("auto") == 1  # 1.25 of 2 cores


def test_without_counters_the_load_average_serves_and_without_both_a_number_is_asked_for(monkeypatch):
    monkeypatch.setattr(load, "_busy", lambda: math.nan)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.2, 9.0, 9.0), raising=False)
    assert choose_threads("auto") == 2
    monkeypatch.delattr(os, "getloadavg")
    with pytest.raises(InputError, match="cannot see on this system how busy it is; give a number"):
        choose_threads("auto")
