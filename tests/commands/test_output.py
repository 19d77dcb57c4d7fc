"""What verbs print, where nobody can read it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from hr_search.base.errors import guarded
from hr_search.commands.output import print_json
sys.exit(guarded(lambda: print_json([1, 2])))
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_an_output_on_a_full_disk_is_named():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", SCRIPT], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("hr_search: standard output cannot be written ([Errno 28] No space left on device)")
    assert line.endswith("Files that this command had written by then are kept.")


def test_an_output_that_nobody_reads_is_named():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", SCRIPT], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 2 and "standard output cannot be written ([Errno 32] Broken pipe)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
