"""The command line: thin verbs over the package. `python -m hr_search VERB --help` explains each."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from hr_search import __version__
from hr_search import settings as config
from hr_search.base import choices
from hr_search.base.errors import InputError, guarded, one_line, shown, suggestion
from hr_search.commands import verbs
from hr_search.settings import FIELDS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code (2 with one sentence for a user's mistake)."""
    words = [_plain_flag(word) for word in (sys.argv[1:] if argv is None else argv)]
    return guarded(lambda: _dispatch(words))


def _dispatch(words: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a letter that the terminal lacks must not end a run
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(words)
    from hr_search.base.progress import show_log

    show_log(sys.stderr)  # standard output is for results
    return arguments.run(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all verbs; flags of settings come from the settings dataclass."""
    parser = Parser(
        prog="python -m hr_search", description="Train search encoders for HR and prove that they are better."
    )
    parser.add_argument("--version", action="version", version=f"hr_search {__version__}")
    commands = parser.add_subparsers(dest="verb", required=True, parser_class=Parser, metavar="VERB")

    verb = commands.add_parser(
        "train", help="train a model and test it", epilog="Any flag may be spelled with - or _ inside."
    )
    verb.add_argument("--recipe", help="YAML file of settings; flags win over it")
    verb.add_argument("--runid", default="", help="name of the run's folder; default: project name and time")
    _add_settings(verb, FIELDS)
    verb.set_defaults(run=verbs.train)

    verb = commands.add_parser("evaluate", help="print the metrics of a model on a table")
    verb.add_argument("--model", default="embedded", help="embedded, a folder or a Hub name")
    verb.add_argument(
        "--split",
        default="all",
        choices=("all", "validation", "test"),
        help="rows to use: all, or those a run with these shares and splitseed holds out",
    )
    verb.add_argument("--nofloors", action="store_true", help="leave out BM25 and TF-IDF")
    verb.add_argument(
        "--dropidentical",
        action="store_true",
        help="leave documents that say the same as the query out of its ranking, unless they are marked as right",
    )
    verb.add_argument("--json", action="store_true", help="print JSON for machines")
    _add_settings(verb, verbs.EVALUATED, maxlength="the model's own")
    verb.set_defaults(run=verbs.evaluate)

    verb = commands.add_parser("search", help="print the documents nearest to a query")
    verb.add_argument("query", help="what to search for, such as a job title")
    verb.add_argument("--model", default="embedded", help="embedded, a folder or a Hub name")
    verb.add_argument(
        "--corpus", required=True, help="table (its document column is searched) or .txt file with one document a line"
    )
    verb.add_argument("--column", default="", help="column to search in; default: found by name")
    verb.add_argument("--top", type=int, default=5, help="how many to print (default 5)")
    verb.add_argument("--json", action="store_true", help="print JSON for machines")
    _add_settings(verb, ("maxlength", "precision"), maxlength="the model's own")
    verb.set_defaults(run=verbs.search)

    verb = commands.add_parser("compare", help="say whether the difference between finished runs is real")
    verb.add_argument("runs", nargs="+", metavar="RUN", help="run ids; each is compared with the first")
    verb.add_argument("--direction", default="q2d", choices=choices.DIRECTIONS, help="q2d = query to document")
    verb.add_argument("--metric", default="mrr", choices=choices.METRICS, help="metric compared (default mrr)")
    verb.set_defaults(run=verbs.compare)

    verb = commands.add_parser("grid", help="run every cell of a grid file and sum them up in a page")
    verb.add_argument("file", help="YAML file of a grid, such as data/grids/losses.yaml")
    verb.add_argument("--workers", type=int, default=1, help="processes side by side (default 1)")
    verb.add_argument("--retry", action="store_true", help="run cells again that failed before")
    verb.add_argument("--scheduler", default="", help="Dask cluster that runs the cells, tcp://HOST:PORT")
    verb.set_defaults(run=verbs.grid)

    verb = commands.add_parser("benchmark", help="measure our speed against the installed sentence-transformers")
    verb.add_argument("--case", default="", help="one case; default: all that this machine can run")
    verb.add_argument("--runs", type=int, default=5, help="runs of each side, in turn (default 5)")
    verb.add_argument(
        "--steps",
        type=int,
        default=0,
        help="training steps measured (default 8; 16 with --proof, 20 with --costs and --scaletable)",
    )
    verb.add_argument("--datapath", default="", help="table of a race or of train-infonce-...; default: ESCO")
    verb.add_argument(
        "--threads", type=int, default=0, help="processor threads of both sides, not of a race; 0 = as torch chooses"
    )
    verb.add_argument("--scale", type=float, default=1.0, help="share of the texts of evaluate and mine (default 1)")
    verb.add_argument("--out", default="", help="the table to write; default: metrics/speed.csv and its neighbours")
    verb.add_argument("--proof", action="store_true", help="show instead that both sides train alike, step by step")
    verb.add_argument("--race", action="store_true", help="train both sides for --minutes and test them on --testpath")
    verb.add_argument("--minutes", type=float, default=10.0, help="of training for each run of a race (default 10)")
    verb.add_argument("--workers", type=int, default=1, help="runs of a race side by side (default 1)")
    verb.add_argument("--recipe", help="YAML file of our settings in a race")
    verb.add_argument("--testpath", default="", help="table or folder of the race's test; default: the recipe's")
    verb.add_argument("--scaletable", action="store_true", help="measure instead what 10,000 to 1,000,000 rows cost")
    verb.add_argument("--costs", action="store_true", help="measure instead what mixing and mining add to a step")
    verb.set_defaults(run=verbs.benchmark)

    verb = commands.add_parser("report", help="run the four notebooks and write reports/index.html")
    verb.add_argument("--recipe", help="YAML file of settings")
    verb.add_argument("--runid", default="", help="name of the run; default: project name and time")
    verb.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting or notebook parameter; may be repeated",
    )
    verb.set_defaults(run=verbs.report)
    return parser


class Parser(argparse.ArgumentParser):
    """argparse that words its complaints as one sentence and names the nearest flag."""

    def __init__(self, **settings: Any) -> None:
        # An abbreviation that is taken silently is a typo that is taken silently.
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises the complaint as an InputError."""
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        if message.startswith("unrecognized arguments: "):
            word = message.split(": ", 1)[1].split(" ")[0].split("=")[0]
            raise InputError(f"there is no flag {shown(word) or 'without a name'}; {suggestion(word, flags)}")
        raise InputError(f"{one_line(message)}; see `{self.prog} --help`.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """As argparse; a verb's own parser answers for flags that it does not know."""
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return known, rest


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str] | dict, **defaults: str) -> None:
    """A flag for each setting; `defaults` are told instead of the setting's own."""
    group = parser.add_argument_group("settings")
    for name in names:
        field = FIELDS[name]
        flag: dict[str, Any] = {"nargs": "?", "const": "true"} if config.TYPES[name] is bool else {}
        choices = f" [{', '.join(field.metadata['choices'])}]" if field.metadata["choices"] else ""
        default = defaults.get(name, repr(field.default))
        text = f"{field.metadata['help']}{choices} (default {default})".replace("%", "%%")
        group.add_argument(f"--{name}", help=text, metavar=config.TYPES[name].__name__.upper(), **flag)


def _plain_flag(word: str) -> str:
    """`--learning_rate=3` and `--learning-rate=3` as `--learningrate=3`."""
    if not word.startswith("--") or len(word) == 2:
        return word
    name, mark, value = word[2:].partition("=")
    return "--" + name.replace("-", "").replace("_", "").lower() + mark + value
