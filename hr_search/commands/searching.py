"""The verbs that compare: `evaluate` a model on a table, `compare` finished runs.

Heavy modules are imported inside the functions, so that `--help` and a mistyped flag are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hr_search.base import choices
from hr_search.base.errors import InputError, one_line, plain
from hr_search.commands.flags import READ, add_scheduler, add_settings, given, settings_from
from hr_search.commands.knobs import add_knobs, exact_precision, memory_for, policies_from, reader_for
from hr_search.commands.output import fixed, print_json, print_metrics, records, say

if TYPE_CHECKING:
    from hr_search.base.processes import Processes
    from hr_search.data.tasks import Task
    from hr_search.encoder import Encoder
    from hr_search.search.policy import SearchPolicy
    from hr_search.search.stages import Stage
    from hr_search.settings import Settings

EVALUATED = (*READ, "seed", "precision", "goal")


def add_evaluate(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `evaluate`."""
    verb = verbs.add_parser("evaluate", help="print the metrics of a model on a table")
    verb.add_argument(
        "--split",
        default="all",
        choices=("all", "validation", "test"),
        help="rows to use: all, or those that a run with these shares and splitseed holds out",
    )
    verb.add_argument("--nofloors", action="store_true", help="leave out BM25 and TF-IDF")
    verb.add_argument(
        "--dropidentical",
        action="store_true",
        help="leave documents with the same text as the query out of its ranking, unless they are marked as relevant",
    )
    verb.add_argument(
        "--leaveout",
        action="store_true",
        help="leave a text, and those that share a partner with it, out of its mixing; the rest of its group stays",
    )
    add_knobs(verb)
    verb.add_argument("--model", default="embedded", help="embedded, a folder or a Hub name")
    add_dimensions(verb)
    add_scheduler(verb, shards=True)
    verb.add_argument("--json", action="store_true", help="print one line of JSON")
    add_settings(verb, EVALUATED, maxlength="the model's own")
    verb.set_defaults(run=evaluate)


def evaluate(arguments: argparse.Namespace) -> int:
    """`evaluate`: metrics of a model, and of BM25 and TF-IDF, on a table."""
    values = given(arguments, EVALUATED)
    settings = settings_from(None, values)
    from hr_search.base.processes import launched
    from hr_search.data import loading
    from hr_search.evaluation import scoring
    from hr_search.search.stages import stages_table

    policies, processes = policies_from(arguments, arguments.model), launched()
    if arguments.leaveout and all(policy.mixing == "none" for policy in policies.values()):
        raise InputError(
            "--leaveout is for mixing, and nothing is mixed; give --searchmixing as well, or leave it out."
        )
    tasks = loading.search_tasks(settings, arguments.split, arguments.dropidentical)
    encoder = encoder_for(arguments.model, settings, "maxlength" in values, arguments.dimensions)
    stages = _stages(arguments, settings, policies, tasks, encoder, processes)
    results = {} if arguments.nofloors else scoring.evaluate_floors(tasks, processes)
    if processes.index:  # all of them have the same results
        return 0
    for direction, found in stages.items():
        names = [arguments.model, *(stage.name for stage in found[1:])]
        results |= {(name, direction): stage.results for name, stage in zip(names, found, strict=True)}
    table = scoring.metrics_table(results, settings.seed)
    added = {name: stages_table(found, settings.goal, settings.seed) for name, found in stages.items() if found[1:]}
    beside = _int8_loss(encoder, tasks, settings)
    if arguments.json:
        shown = {name: records(rows) for name, rows in added.items()}
        print_json(scoring.nested(table) | ({"stages": shown} if shown else {}) | ({"int8": beside} if beside else {}))
        return 0
    print_metrics(table)
    for direction, rows in added.items():
        say(f"\n{direction}: {settings.goal} with each stage added; gain over the cosine, ms a query\n{fixed(rows)}")
    if beside:
        from hr_search.export import loss

        say(f"\n{loss.sentence(beside)}")
    return 0


def _int8_loss(encoder: Encoder, tasks: dict[str, Task], settings: Settings) -> dict[str, Any]:
    """What int8 costs on a sample of q2d; empty where the encoder is exact."""
    if encoder.engine is None:
        return {}
    from hr_search.export.loss import int8_loss

    return int8_loss(encoder, tasks["q2d"], settings.seed)


def _stages(
    arguments: argparse.Namespace,
    settings: Settings,
    policies: dict[str, SearchPolicy],
    tasks: dict[str, Task],
    encoder: Encoder,
    processes: Processes,
) -> dict[str, list[Stage]]:
    """Each direction evaluated with all stages; what can be refused is refused before any text is encoded."""
    from hr_search.evaluation import scoring
    from hr_search.search.memory import refuse_known
    from hr_search.search.stages import evaluate_stages

    known = memory_for(arguments, encoder, settings, *policies.values())
    if known is not None and not arguments.leaveout and any(policy.mixing != "none" for policy in policies.values()):
        advice = "evaluate rows that were held out (--split test), give other rows as --memory, or add --leaveout"
        refuse_known(known, tasks["q2d"].documents, advice)
    named = {policy.rerank: policy for policy in policies.values()}  # one second stage may serve both directions
    readers = {folder: reader_for(policy, settings) for folder, policy in named.items()}
    with shared_out(arguments, encoder) as spread:
        sides = scoring.embed_sides(spread, scoring.token_tables(encoder, tasks), True, processes)
    return {
        name: evaluate_stages(task, sides, policies[name], known, readers[policies[name].rerank], arguments.leaveout)
        for name, task in tasks.items()
    }


def add_compare(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `compare`."""
    verb = verbs.add_parser("compare", help="say whether the difference between finished runs is real")
    verb.add_argument("runs", nargs="+", metavar="RUN", help="run ids; each is compared with the first")
    verb.add_argument("--direction", default="q2d", choices=choices.DIRECTIONS, help="q2d = query to document")
    verb.add_argument("--metric", default="mrr", choices=choices.METRICS, help="metric to compare (default mrr)")
    verb.set_defaults(run=compare)


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
    say(plain(table.drop(columns="verdict").to_string(index=False, float_format=lambda value: f"{value:.4f}")))
    say(plain("\n".join(table["verdict"])))
    return 0


def encoder_for(model: str, settings: Settings, shortened: bool, dimensions: int = 0) -> Encoder:
    """The model; it reads `maxlength` tokens of a text if `shortened`, else as many as it was saved with.

    Args:
        model: embedded, a folder or a Hub name.
        settings: length and precision.
        shortened: as above.
        dimensions: the first numbers of the embeddings that are kept; 0 = all.
    """
    from hr_search.dimensions import shorten
    from hr_search.encoder import load_encoder

    encoder = load_encoder(model, settings.maxlength if shortened else 0, exact_precision(settings))
    encode_as(settings, encoder)
    shorten(encoder, dimensions)
    return encoder


def encode_as(settings: Settings, encoder: Encoder) -> None:
    """Lets an encoder embed with int8 weights where the settings say so."""
    if settings.precision == "int8":
        from hr_search.export.int8 import in_int8

        in_int8(encoder)


@contextlib.contextmanager
def shared_out(arguments: argparse.Namespace, encoder: Encoder) -> Iterator[Any]:
    """The encoder for a block, with the cluster of `--scheduler` behind it where one is named.

    Raises:
        InputError: `--shards` without `--scheduler`, or as `shards.encoding.shared`.
    """
    if not arguments.scheduler:
        if arguments.shards:
            raise InputError("--shards keeps what a --scheduler encodes; give one, or leave --shards out.")
        yield encoder
        return
    from hr_search.shards.encoding import shared

    with shared(encoder, arguments.scheduler, arguments.shards) as spread:
        yield spread


def add_dimensions(verb: argparse.ArgumentParser) -> None:
    """Adds the flag that cuts embeddings."""
    words = "use the first numbers of the embeddings only, such as 128 (default 0: all)"
    verb.add_argument("--dimensions", type=int, default=0, help=words)
