"""The command line: thin verbs over the package. `python -m hr_search VERB --help` explains each."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hr_search import __version__, config, paths
from hr_search.config import FIELDS, Settings
from hr_search.errors import InputError, guarded, nearest

_EVALUATED = (
    "datapath",
    "querycolumn",
    "positivecolumn",
    "groupcolumn",
    "validationshare",
    "testshare",
    "seed",
    "maxlength",
    "precision",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code (2 with one sentence for a user's mistake)."""
    words = [_plain_flag(word) for word in (sys.argv[1:] if argv is None else argv)]
    return guarded(lambda: _dispatch(words))


def _dispatch(words: list[str]) -> int:
    arguments = build_parser().parse_args(words)
    from hr_search.progress import show_log

    show_log(sys.stderr)  # standard output is for results
    return arguments.run(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all verbs; flags of settings come from the settings dataclass."""
    parser = Parser(
        prog="python -m hr_search", description="Train search encoders for HR and prove that they are better."
    )
    parser.add_argument("--version", action="version", version=f"hr_search {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser, metavar="VERB")

    verb = verbs.add_parser(
        "train", help="train a model and test it", epilog="Any flag may be spelled with - or _ inside."
    )
    verb.add_argument("--recipe", help="YAML file of settings; flags win over it")
    verb.add_argument("--runid", default="", help="name of the run's folder; default: project name and time")
    _add_settings(verb, FIELDS)
    verb.set_defaults(run=train)

    verb = verbs.add_parser("evaluate", help="print the metrics of a model on a table")
    verb.add_argument("--model", default="embedded", help="embedded, a folder or a Hub name")
    verb.add_argument(
        "--split",
        default="all",
        choices=("all", "validation", "test"),
        help="rows to use: all, or those a run with these shares and seed holds out",
    )
    verb.add_argument("--nofloors", action="store_true", help="leave out BM25 and TF-IDF")
    verb.add_argument("--json", action="store_true", help="print JSON for machines")
    _add_settings(verb, _EVALUATED)
    verb.set_defaults(run=evaluate)

    verb = verbs.add_parser("search", help="print the documents nearest to a query")
    verb.add_argument("query", help="what to search for, such as a job title")
    verb.add_argument("--model", default="embedded", help="embedded, a folder or a Hub name")
    verb.add_argument(
        "--corpus", required=True, help="table (its document column is searched) or .txt file with one document a line"
    )
    verb.add_argument("--column", default="", help="column to search in; default: found by name")
    verb.add_argument("--top", type=int, default=5, help="how many to print (default 5)")
    verb.add_argument("--json", action="store_true", help="print JSON for machines")
    _add_settings(verb, ("maxlength", "precision"))
    verb.set_defaults(run=search)

    verb = verbs.add_parser("compare", help="say whether the difference between finished runs is real")
    verb.add_argument("runs", nargs="+", metavar="RUN", help="run ids; each is compared with the first")
    verb.add_argument("--direction", default="q2d", choices=config.DIRECTIONS, help="q2d = query to document")
    verb.add_argument("--metric", default="mrr", choices=config.METRICS, help="metric compared (default mrr)")
    verb.set_defaults(run=compare)

    verb = verbs.add_parser("report", help="run the four notebooks and write reports/index.html")
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
    verb.set_defaults(run=report)
    return parser


def train(arguments: argparse.Namespace) -> int:
    """`train`: one experiment, with its summary printed at the end."""
    settings = settings_from(arguments.recipe, _given(arguments, FIELDS))
    from hr_search.experiment import run_experiment
    from hr_search.runs import checked_run_id

    run = run_experiment(settings, checked_run_id(arguments.runid) if arguments.runid else "")
    if run.has("metrics"):
        _print_metrics(run.table("metrics"))
    if run.folder.exists():  # only the first of several processes keeps its folder
        print(f"\ntables: {run.folder}")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """`evaluate`: metrics of a model, and of the lexical floors, on a table."""
    given = _given(arguments, _EVALUATED)
    settings = settings_from(None, given)
    from hr_search import data, evaluation
    from hr_search.encoder import load_encoder

    pairs = data.load_all(settings) if arguments.split == "all" else getattr(data.load(settings), arguments.split)
    if pairs.empty:
        raise InputError(f"{settings.datapath} has no {arguments.split} rows under these shares; take --split all.")
    tasks = data.tasks(pairs)
    encoder = load_encoder(arguments.model, settings.maxlength, settings.precision)
    results = {} if arguments.nofloors else evaluation.evaluate_floors(tasks)
    scored = evaluation.evaluate_encoder(encoder, tasks, progress=True)
    results |= {(arguments.model, direction): table for direction, table in scored.items()}
    table = evaluation.metrics_table(results, settings.seed)
    if arguments.json:
        print(json.dumps(evaluation.nested(table), ensure_ascii=False))
    else:
        _print_metrics(table)
    return 0


def search(arguments: argparse.Namespace) -> int:
    """`search`: the top documents for one query."""
    settings = settings_from(None, _given(arguments, ("maxlength", "precision")))
    if arguments.top < 1:
        raise InputError(f"--top is {arguments.top}; it must be at least 1.")
    if not arguments.query.strip():
        raise InputError("the query is empty; give a job title or another text to search for.")
    from hr_search.encoder import load_encoder
    from hr_search.tables import read_texts

    place = arguments.corpus if arguments.corpus.startswith("hf:") else paths.resolve(arguments.corpus)
    rows = [(row, text) for row, text in enumerate(read_texts(place, arguments.column), 1) if text]
    texts = [text for _, text in rows]
    encoder = load_encoder(arguments.model, settings.maxlength, settings.precision)
    documents = encoder.embed(encoder.tokens(texts, "document"), progress=True)
    scores = documents @ encoder.encode([arguments.query], "query")[0]
    best = scores.argsort(kind="stable")[::-1][: arguments.top]
    found = [{"score": round(float(scores[i]), 4), "row": rows[i][0], "text": texts[i]} for i in best]
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        for item in found:
            print(f"{item['score']:.4f}  row {item['row']}  {' '.join(item['text'].split())[:200]}")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """`compare`: paired tests between finished runs, and a sentence for each."""
    from hr_search.analysis import compare_runs
    from hr_search.runs import open_run

    table = compare_runs([open_run(name) for name in arguments.runs], arguments.direction, arguments.metric)
    print(table.drop(columns="verdict").to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    print("\n".join(table["verdict"]))
    return 0


def report(arguments: argparse.Namespace) -> int:
    """`report`: the notebooks into reports/<run_id>/; code 1 where one of them fails."""
    pairs = dict(_assignment(word) for word in arguments.parameters)
    named = {name: value for name, value in pairs.items() if _is_setting(name)}
    # Kernels start in the notebooks' folder, so a path must not depend on where the command was typed.
    settings = absolute(settings_from(arguments.recipe, named))
    from hr_search.notebooks import NotebookFailed, run_report

    extra = {name: value for name, value in pairs.items() if name not in named}
    try:
        page = run_report(settings, extra, arguments.runid)
    except NotebookFailed as error:
        print(f"hr_search: {error}", file=sys.stderr)
        return 1
    print(page)
    return 0


def absolute(settings: Settings) -> Settings:
    """The settings with paths that hold in any working directory; names such as `esco` stay."""
    read = ("datapath", "validationpath", "testpath", "modelname")
    found = {name: str(paths.resolve(getattr(settings, name))) for name in read
             if getattr(settings, name) and paths.resolve(getattr(settings, name)).exists()}  # fmt: skip
    written = {name: str(Path(getattr(settings, name)).absolute()) for name in ("outputpath", "checkpointpath")
               if getattr(settings, name)}  # fmt: skip
    return settings.replace(**found, **written)


def settings_from(recipe: str | None, given: dict[str, Any]) -> Settings:
    """Settings of a recipe file with the given ones laid over them."""
    base = config.read_recipe(paths.resolve(recipe)).to_dict() if recipe else {}
    laid_over = {config.canonical(name, "the command line"): value for name, value in given.items()}
    checked = {name: config.checked(name, value, "the command line") for name, value in laid_over.items()}
    return Settings.from_mapping({**base, **checked}, recipe or "the command line")


class Parser(argparse.ArgumentParser):
    """argparse that words its complaints as one sentence and names the nearest flag."""

    def __init__(self, **settings: Any) -> None:
        # An abbreviation that is taken silently is a typo that is taken silently.
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises the complaint as an InputError."""
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        if message.startswith("unrecognized arguments: "):
            word = message.split(": ", 1)[1].split()[0]
            raise InputError(f"there is no flag {word.split('=')[0]}; {nearest(word.split('=')[0], flags)}")
        raise InputError(f"{message}; see `{self.prog} --help`.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """As argparse; a verb's own parser answers for flags that it does not know."""
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return known, rest


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str] | dict) -> None:
    group = parser.add_argument_group("settings")
    for name in names:
        field = FIELDS[name]
        flag: dict[str, Any] = {"nargs": "?", "const": "true"} if config.TYPES[name] is bool else {}
        choices = f" [{', '.join(field.metadata['choices'])}]" if field.metadata["choices"] else ""
        text = f"{field.metadata['help']}{choices} (default {field.default!r})".replace("%", "%%")
        group.add_argument(f"--{name}", help=text, metavar=config.TYPES[name].__name__.upper(), **flag)


def _given(arguments: argparse.Namespace, names: Sequence[str] | dict) -> dict[str, Any]:
    values = vars(arguments)
    return {name: values[name] for name in names if values.get(name) is not None}


def _plain_flag(word: str) -> str:
    """`--learning_rate=3` and `--learning-rate=3` as `--learningrate=3`."""
    if not word.startswith("--") or len(word) == 2:
        return word
    name, mark, value = word[2:].partition("=")
    return "--" + name.replace("-", "").replace("_", "").lower() + mark + value


def _assignment(word: str) -> tuple[str, str]:
    name, mark, value = word.partition("=")
    if not mark or not name.strip():
        raise InputError(f"-p {word} must have the form name=value, such as -p learningrate=3e-5.")
    return name.strip(), value


def _is_setting(name: str) -> bool:
    try:
        config.canonical(name)
    except InputError:
        return False
    return True


def _print_metrics(metrics: Any) -> None:
    from hr_search.analysis import with_intervals

    for direction, words in {"q2d": "query to document", "d2q": "document to query"}.items():
        print(f"\n{direction}: {words}\n{with_intervals(metrics, direction).to_string()}")
