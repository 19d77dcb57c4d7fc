"""The parser of the command line, and its entry point; `python -m hr_search VERB --help` explains each verb."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from hr_search import __version__
from hr_search.base.errors import InputError, guarded, one_line, shown, suggestion
from hr_search.commands import (
    benchmark,
    cvs,
    exporting,
    indexing,
    mining,
    publishing,
    searching,
    suites,
    titles,
    training,
    tuning,
)
from hr_search.commands.flags import add_threads, plain_flag

# Verbs that compute.
THREADED = ("train", "evaluate", "tune", "index", "search", "mine", "cvs", "suite", "grid", "report")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code (2 with one sentence for a user's mistake)."""
    words = [plain_flag(word) for word in (sys.argv[1:] if argv is None else argv)]
    return guarded(lambda: _dispatch(words))


def _dispatch(words: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a letter that the terminal lacks must not end a run
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(words)
    from hr_search.base.load import choose_threads
    from hr_search.base.progress import show_log

    show_log(sys.stderr)  # standard output is for results
    if arguments.verb in THREADED and arguments.threads is not None:
        choose_threads(arguments.threads)
    return arguments.run(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all verbs; each verb's function is its default for `run`."""
    parser = Parser(
        prog="python -m hr_search", description="Train search encoders for HR and prove that they are better."
    )
    parser.add_argument("--version", action="version", version=f"hr_search {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser, metavar="VERB")
    training.add_train(verbs)
    searching.add_evaluate(verbs)
    tuning.add_tune(verbs)
    indexing.add_index(verbs)
    indexing.add_search(verbs)
    mining.add_mine(verbs)
    exporting.add_export(verbs)
    publishing.add_publish(verbs)
    cvs.add_cvs(verbs)
    searching.add_compare(verbs)
    suites.add_suite(verbs)
    titles.add_titles(verbs)
    training.add_grid(verbs)
    benchmark.add_benchmark(verbs)
    training.add_report(verbs)
    for verb in THREADED:
        add_threads(verbs.choices[verb])
    return parser


class Parser(argparse.ArgumentParser):
    """argparse with its complaints in one sentence that names the closest flag."""

    def __init__(self, **options: Any) -> None:
        # An abbreviation that is accepted silently is a typo that is accepted silently.
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises argparse's complaint as an InputError."""
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        if message.startswith("unrecognized arguments: "):
            word = message.split(": ", 1)[1].split(" ")[0].split("=")[0]
            raise InputError(f"there is no flag {shown(word) or 'without a name'}; {suggestion(word, flags)}")
        raise InputError(f"{one_line(message)}; see `{self.prog} --help`.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """As argparse, except that a verb's own parser refuses the flags that it does not know."""
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return known, rest
