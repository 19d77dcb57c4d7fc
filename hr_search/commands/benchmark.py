"""The verb `benchmark`: speeds by default, or one of five other measurements, each with flags of its own.

Heavy modules are imported inside the functions, so that `--help` and a mistyped flag are answered at once.
"""

from __future__ import annotations

import argparse
from typing import Any

from hr_search.base.errors import InputError
from hr_search.commands.flags import given, settings_from
from hr_search.commands.output import say
from hr_search.places import absolute

# The flags of each kind; "" are the speeds, the other kinds are flags themselves.
FLAGS = {
    "": ("case", "runs", "steps", "datapath", "threads", "scale", "out"),
    "proof": ("steps", "threads", "out"),
    "race": ("minutes", "workers", "recipe", "datapath", "testpath", "out"),
    "scaletable": ("steps", "threads", "rows", "stream", "out"),
    "costs": ("steps", "threads", "out"),
    "gpu": ("case", "dry", "out"),
}


def add_benchmark(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `benchmark`; its flags have no defaults here, so that those that do not apply are noticed."""
    verb = verbs.add_parser("benchmark", help="measure our speed against the installed sentence-transformers")
    kinds = verb.add_argument_group("what to measure", "speeds, or one of:").add_mutually_exclusive_group()
    for kind, text in (
        ("proof", "whether both sides train alike, step by step"),
        ("race", "how good both sides get in the same --minutes of training, on --testpath"),
        ("scaletable", "what 10,000 to 1,000,000 rows cost"),
        ("costs", "what mixing and mining add to a training step"),
        ("gpu", "all that needs a GPU: equal numbers, no waits, memory, speed, resuming; in 8 minutes at most"),
    ):
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, default="", help=text)
    verb.add_argument("--out", help="the table to write; default: metrics/speed.csv or that of the measurement")
    several = verb.add_argument_group("all but a race and the check of a GPU")
    several.add_argument(
        "--steps",
        type=int,
        help="training steps measured (default 8; 16 with --proof, 20 with --costs and --scaletable)",
    )
    several.add_argument("--threads", type=int, help="processor threads of both sides; 0 = torch's default (default 0)")
    scale = verb.add_argument_group("what rows cost")
    scale.add_argument("--rows", type=int, help="a single number of rows; default: 10,000, 100,000 and 1,000,000")
    words = "read a JSONL file in blocks, as for tables larger than memory"
    scale.add_argument("--stream", action="store_const", const=True, help=words)
    speeds = verb.add_argument_group("speeds")
    speeds.add_argument(
        "--case", help="a single case; default: all that this machine can run; with --gpu a single check; default: all"
    )
    speeds.add_argument("--runs", type=int, help="runs of each side, taking turns (default 5)")
    speeds.add_argument("--scale", type=float, help="share of the texts of evaluate and mine (default 1)")
    speeds.add_argument("--datapath", help="table of train-infonce-... or of a race; default: ESCO")
    race = verb.add_argument_group("a race")
    race.add_argument("--minutes", type=float, help="of training for each run (default 10)")
    race.add_argument("--workers", type=int, help="runs side by side (default 1)")
    race.add_argument("--recipe", help="YAML file of our settings")
    race.add_argument("--testpath", help="table or folder to test on; default: the recipe's")
    check = verb.add_argument_group("the check of a GPU")
    check.add_argument(
        "--dry",
        action="store_const",
        const=True,
        help="run its lines with a tiny model, with or without a GPU; the figures mean nothing",
    )
    verb.set_defaults(run=benchmark)


def benchmark(arguments: argparse.Namespace) -> int:
    """`benchmark`: prints one or two tables; exit code 1 if --proof finds the training unequal, or --gpu a failure."""
    kind, known = arguments.kind, dict.fromkeys(name for names in FLAGS.values() for name in names)
    values = given(arguments, known)
    if wrong := [name for name in values if name not in FLAGS[kind]]:
        owners = " or ".join(f"--{owner}" if owner else "speeds" for owner, names in FLAGS.items() if wrong[0] in names)
        measured = f"--{kind}" if kind else "speeds"
        raise InputError(f"--{wrong[0]} does not apply to {measured}, only to {owners}; leave it out.")
    measures = {"": _speeds, "proof": _proof, "race": _race, "scaletable": _scale_table, "costs": _costs, "gpu": _gpu}
    return measures[kind](**values)


def _speeds(**values: Any) -> int:
    from hr_search.bench.speeds import run_benchmark

    _print_tables(run_benchmark(**values).drop(columns=["hardware", "versions", "commit"]))
    return 0


def _proof(**values: Any) -> int:
    from hr_search.bench.proof import SAME_LOSS, proof

    losses, metrics = proof(**values)
    _print_tables(losses, metrics)
    return int(losses["difference"].max() > SAME_LOSS)


def _race(recipe: str | None = None, datapath: str = "", testpath: str = "", **values: Any) -> int:
    from hr_search.bench.race import race

    tables = {name: path for name, path in (("datapath", datapath), ("testpath", testpath)) if path}
    _print_tables(*race(absolute(settings_from(recipe, tables)), **values))
    return 0


def _scale_table(**values: Any) -> int:
    from hr_search.bench.proof import scale_table

    _print_tables(scale_table(**values))
    return 0


def _costs(**values: Any) -> int:
    from hr_search.bench.costs import cost_table

    _print_tables(cost_table(**values))
    return 0


def _gpu(**values: Any) -> int:
    from hr_search.bench.meters import require_gpu

    if not values.get("dry"):
        require_gpu()  # before the models' libraries are loaded, which takes longer than to find out
    from hr_search.bench.gpu import run_gpu, verdict

    table, path = run_gpu(**values, tell=say)
    say(f"\n{verdict(table)}\n{path}\n{path.with_suffix('.html')}")
    return int((table["passed"] == "no").any())


def _print_tables(*tables: Any) -> None:
    say("\n\n".join(table.to_string(index=False, float_format=lambda value: f"{value:.4g}") for table in tables))
