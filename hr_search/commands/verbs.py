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

from hr_search import settings as config
from hr_search.base import paths
from hr_search.base.choices import is_table_file
from hr_search.base.errors import InputError, escaped, one_line, plain, shown
from hr_search.settings import FIELDS, Settings

EVALUATED = (
    "datapath",
    "querycolumn",
    "positivecolumn",
    "groupcolumn",
    "redact",
    "validationshare",
    "testshare",
    "splitseed",
    "seed",
    "maxlength",
    "template",
    "documenttemplate",
    "precision",
)


def train(arguments: argparse.Namespace) -> int:
    """`train`: one experiment, with its summary printed at the end."""
    settings = settings_from(arguments.recipe, _given(arguments, FIELDS))
    from hr_search.experiment import run_experiment
    from hr_search.runs.folders import checked_run_id

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
    from hr_search.data import loading
    from hr_search.encoder import load_encoder
    from hr_search.evaluation import scoring

    tasks = loading.search_tasks(settings, arguments.split, arguments.dropidentical)
    encoder = load_encoder(arguments.model, _length(settings, given), settings.precision)
    results = {} if arguments.nofloors else scoring.evaluate_floors(tasks)
    scored = scoring.evaluate(encoder, tasks, progress=True)
    results |= {(arguments.model, direction): table for direction, table in scored.items()}
    table = scoring.metrics_table(results, settings.seed)
    if arguments.json:
        _print_json(scoring.nested(table))
    else:
        _print_metrics(table)
    return 0


def search(arguments: argparse.Namespace) -> int:
    """`search`: the top documents for one query."""
    given = _given(arguments, ("maxlength", "precision"))
    settings = settings_from(None, given)
    if arguments.top < 1:
        raise InputError(f"--top is {arguments.top}; it must be at least 1.")
    from hr_search.data.cleaning import clean

    if not (query := clean(arguments.query)):
        raise InputError("the query is empty; give a job title or another text to search for.")
    from hr_search.data.tables import read_texts
    from hr_search.encoder import load_encoder

    place = arguments.corpus if arguments.corpus.startswith("hf:") else paths.resolve(arguments.corpus)
    rows = [(row, text) for row, text in enumerate(read_texts(place, arguments.column), 1) if text]
    texts = [text for _, text in rows]
    encoder = load_encoder(arguments.model, _length(settings, given), settings.precision)
    documents = encoder.embed(encoder.tokens(texts, "document"), progress=True)
    scores = documents @ encoder.encode([query], "query")[0]
    best = scores.argsort(kind="stable")[::-1][: arguments.top]
    found = [{"score": round(float(scores[i]), 4), "row": rows[i][0], "text": texts[i]} for i in best]
    if arguments.json:
        _print_json(found)
    else:
        for item in found:
            print(f"{item['score']:.4f}  row {item['row']}  {one_line(item['text'], 200)}")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """`compare`: paired tests between finished runs, and a sentence for each."""
    from hr_search.evaluation.comparison import compare_runs
    from hr_search.runs.folders import open_run

    runs = [open_run(name) for name in arguments.runs]
    try:
        table = compare_runs(runs, arguments.direction, arguments.metric)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError) as error:  # tables that another program has changed
        names = " or ".join(run.id for run in runs)
        raise InputError(f"a file of {names} is damaged ({one_line(error, 120)}); repeat that run.") from error
    print(plain(table.drop(columns="verdict").to_string(index=False, float_format=lambda value: f"{value:.4f}")))
    print(plain("\n".join(table["verdict"])))
    return 0


def report(arguments: argparse.Namespace) -> int:
    """`report`: the notebooks into reports/<run_id>/; code 1 where one of them fails."""
    pairs: dict[str, str] = {}
    for name, value in map(_assignment, arguments.parameters):
        if name in pairs:
            raise InputError(f"-p gives {shown(name)} twice; keep one of the two.")
        pairs[name] = value
    named = {name: value for name, value in pairs.items() if _is_setting(name)}
    # Kernels start in the notebooks' folder, so a path must not depend on where the command was typed.
    settings = absolute(settings_from(arguments.recipe, named))
    require_data(settings)
    from hr_search.experiment import check
    from hr_search.models import embedded
    from hr_search.models.requirements import place_of
    from hr_search.reports.notebooks import NotebookFailed
    from hr_search.reports.report import run_report

    check(settings)
    if settings.modelname != embedded.NAME:  # which would be built now, and it is there or it can be
        place_of(settings.modelname)

    extra = {name: value for name, value in pairs.items() if name not in named}
    try:
        page = run_report(settings, extra, arguments.runid)
    except NotebookFailed as error:
        print(f"hr_search: {plain(str(error))}", file=sys.stderr)
        return 1
    print(page)
    return 0


def benchmark(arguments: argparse.Namespace) -> int:
    """`benchmark`: speeds, proof of equal training, or growth; code 1 where the training is not equal."""
    from hr_search.bench import proof
    from hr_search.bench.costs import cost_table
    from hr_search.bench.table import run_benchmark

    wide = {"index": False, "float_format": lambda value: f"{value:.4g}"}
    if arguments.proof:
        losses, metrics = proof.proof(arguments.steps or 16, threads=arguments.threads, out=arguments.out)
        print(f"{losses.to_string(**wide)}\n\n{metrics.to_string(**wide)}")
        return int(losses["difference"].max() > proof.SAME_LOSS)
    if arguments.race:
        from hr_search.bench.race import race

        given = {name: getattr(arguments, name) for name in ("datapath", "testpath") if getattr(arguments, name)}
        runs, effects = race(absolute(settings_from(arguments.recipe, given)), arguments.minutes, out=arguments.out,
                             workers=arguments.workers)  # fmt: skip
        print(f"{runs.to_string(**wide)}\n\n{effects.to_string(**wide)}")
        return 0
    if arguments.costs:
        table = cost_table(arguments.steps or 20, arguments.threads, arguments.out)
    elif arguments.scaletable:
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
    from hr_search.grids.grid_file import read_grid
    from hr_search.grids.runner import run_grid

    cells = read_grid(paths.resolve(arguments.file))
    table = run_grid(cells, arguments.workers, arguments.retry, arguments.scheduler)
    failed = table[table["status"] == "failed"]
    for row in failed.itertuples():
        print(plain(f"{row.run} failed: {row.error}{f'; see {paths.root() / row.notebook}' if row.notebook else ''}"))
    counts = ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
    print(f"{counts}: {cells.folder / 'cells.csv'}{' (--retry runs the failed ones again)' if len(failed) else ''}")
    if (table["status"] == "finished").any():
        from hr_search.grids.effects import write_page
        from hr_search.reports.notebooks import NotebookFailed

        try:
            print(write_page(cells.name))
        except NotebookFailed as error:
            print(f"hr_search: {plain(str(error))}", file=sys.stderr)
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


def require_data(settings: Settings) -> None:
    """Returns if the tables of `settings` are there: the first notebook would else stop half a minute later.

    Raises:
        InputError: naming the setting and its path.
    """
    for name in ("datapath", "validationpath", "testpath"):
        path = getattr(settings, name)
        if is_table_file(path) and not paths.resolve(path).exists():
            raise InputError(f"{name} {path} does not exist; check the path.")


def settings_from(recipe: str | None, given: dict[str, Any]) -> Settings:
    """Settings of a recipe file with the given ones laid over them."""
    base = config.read_recipe(paths.resolve(recipe)).to_dict() if recipe else {}
    checked: dict[str, Any] = {}
    for name, value in given.items():
        key = config.canonical(name, "the command line")
        if key in checked:
            raise InputError(f"the command line gives {key} twice; keep one of the two.")
        checked[key] = config.checked(key, value, "the command line")
    return Settings.from_mapping({**base, **checked}, recipe or "the command line")


def _given(arguments: argparse.Namespace, names: Sequence[str] | dict) -> dict[str, Any]:
    values = vars(arguments)
    return {name: values[name] for name in names if values.get(name) is not None}


def _length(settings: Settings, given: dict[str, Any]) -> int:
    """Tokens a text is cut to: those asked for, else (0) those of the model."""
    return settings.maxlength if "maxlength" in given else 0


def _assignment(word: str) -> tuple[str, str]:
    name, mark, value = word.partition("=")
    if not mark or not name.strip():
        raise InputError(f"-p {shown(word)} must have the form name=value, such as -p learningrate=3e-5.")
    return name.strip(), value


def _is_setting(name: str) -> bool:
    try:
        config.canonical(name)
    except InputError:
        return False
    return True


def _print_json(value: Any) -> None:
    print(escaped(json.dumps(value, ensure_ascii=False)))


def _print_metrics(metrics: Any) -> None:
    from hr_search.evaluation.comparison import with_intervals

    for direction, words in {"q2d": "query to document", "d2q": "document to query"}.items():
        print(f"\n{direction}: {words}\n{with_intervals(metrics, direction).to_string()}")
