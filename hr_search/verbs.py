"""What each verb of the command line does; `cli` reads the flags.

Imports of the heavy modules stand inside the functions, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hr_search import config, paths
from hr_search.config import FIELDS, Settings
from hr_search.errors import InputError

EVALUATED = (
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
    given = _given(arguments, EVALUATED)
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


def benchmark(arguments: argparse.Namespace) -> int:
    """`benchmark`: speeds, proof of equal training, or growth; code 1 where the training is not equal."""
    from hr_search.benchmark import proof
    from hr_search.benchmark.table import run_benchmark

    wide = {"index": False, "float_format": lambda value: f"{value:.4g}"}
    if arguments.proof:
        losses, metrics = proof.proof(arguments.steps or 16, threads=arguments.threads, out=arguments.out)
        print(f"{losses.to_string(**wide)}\n\n{metrics.to_string(**wide)}")
        return int(losses["difference"].max() > proof.SAME_LOSS)
    if arguments.scaletable:
        table = proof.scale_table(steps=arguments.steps or 20, threads=arguments.threads, out=arguments.out)
    else:
        table = run_benchmark(
            arguments.case, arguments.runs, arguments.steps or 8, arguments.datapath, arguments.threads,
            arguments.out, arguments.scale,
        ).drop(columns=["hardware", "versions", "commit"])  # fmt: skip
    print(table.to_string(**wide))
    return 0


def grid(arguments: argparse.Namespace) -> int:
    """`grid`: the cells of a file, then their page; code 1 where a cell or the page failed."""
    from hr_search.grid import read_grid
    from hr_search.study import run_grid

    cells = read_grid(paths.resolve(arguments.file))
    table = run_grid(cells, arguments.workers, arguments.retry, arguments.scheduler)
    failed = table[table["status"] == "failed"]
    for row in failed.itertuples():
        print(f"{row.run} failed: {row.error}{f'; see {paths.root() / row.notebook}' if row.notebook else ''}")
    counts = ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
    print(f"{counts}: {cells.folder / 'cells.csv'}{' (--retry runs the failed ones again)' if len(failed) else ''}")
    if (table["status"] == "finished").any():
        from hr_search.ablation import write_page
        from hr_search.notebooks import NotebookFailed

        try:
            print(write_page(cells.name))
        except NotebookFailed as error:
            print(f"hr_search: {error}", file=sys.stderr)
            return 1
    return 1 if len(failed) else 0


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


def _given(arguments: argparse.Namespace, names: Sequence[str] | dict) -> dict[str, Any]:
    values = vars(arguments)
    return {name: values[name] for name in names if values.get(name) is not None}


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
