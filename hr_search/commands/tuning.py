"""The verb `tune`: the stages of a search fitted on validation rows and kept beside the model."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hr_search.base import choices, paths
from hr_search.base.errors import InputError, plain
from hr_search.commands.flags import add_settings, given, settings_from
from hr_search.commands.knobs import add_knobs, given_knobs, memory_for, reader_for
from hr_search.commands.output import print_json, say

if TYPE_CHECKING:
    import pandas as pd

    from hr_search.encoder import Encoder
    from hr_search.settings import Settings

TUNED = (
    "datapath",
    "validationpath",
    "querycolumn",
    "positivecolumn",
    "groupcolumn",
    "template",
    "documenttemplate",
    "condense",
    "redact",
    "keephtml",
    "encoding",
    "trustfile",
    "validationshare",
    "testshare",
    "splitseed",
    "maxlength",
    "precision",
    "goal",
    "seed",
)
_FITTED = ("centre", "searchmixing", "k", "temperature", "weight", "fusion", "words", "rerankweight", "plain")


def add_tune(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `tune`."""
    verb = verbs.add_parser(
        "tune",
        help="choose centring, mixing, words and second stage on validation rows, and keep them beside the model",
        epilog="Give the recipe and the flags of the training, so that the same rows are train and validation rows: "
        "train rows become the memory, validation rows choose. Test rows are not looked at.",
    )
    verb.add_argument("--model", default="embedded", help="embedded, a folder or a Hub name")
    verb.add_argument("--recipe", help="YAML file of settings; flags override it")
    verb.add_argument(
        "--direction", default="both", choices=("both", *choices.DIRECTIONS), help="to fit (default both)"
    )
    verb.add_argument("--out", default="", help="folder for a copy of the model with what was chosen; default: --model")
    verb.add_argument("--json", action="store_true", help="print one line of JSON")
    add_knobs(verb, *_FITTED)
    add_settings(verb, TUNED, maxlength="the model's own")
    verb.set_defaults(run=tune)


def tune(arguments: argparse.Namespace) -> int:
    """`tune`: fits the stages of each direction, prints them and writes `search.json` and the memory."""
    values = given(arguments, TUNED)
    settings = settings_from(arguments.recipe, values)
    length = settings.maxlength if arguments.recipe or "maxlength" in values else 0
    folder = _folder(arguments)
    wanted = choices.DIRECTIONS if arguments.direction == "both" else (arguments.direction,)
    from hr_search.data.loading import load_data
    from hr_search.evaluation import scoring
    from hr_search.search import identity, tuning
    from hr_search.search.memory import FOLDER, build_memory, save_memory
    from hr_search.search.policy import SearchPolicy, write_policies

    data = load_data(settings)
    if not len(data.validation):
        raise InputError(f"{settings.datapath} has no validation rows to choose by; give a --validationshare above 0.")
    encoder = _encoder(arguments.model, settings, data.train, length)
    start = SearchPolicy().replace(**given_knobs(arguments))
    reads, tasks = reader_for(start, settings), data.tasks("validation")
    known = memory_for(arguments, encoder, settings, bool(arguments.memory))
    known = known or build_memory(encoder, data.train, f"the train rows of {data.name}", progress=True)
    sides = scoring.embed_sides(encoder, scoring.token_tables(encoder, tasks), progress=True)
    found = {
        direction: tuning.tune(tasks[direction], sides, known, settings.goal, reads, start) for direction in wanted
    }
    policies = {direction: tuned.policy for direction, tuned in found.items()}
    for direction, policy in policies.items():
        if policy.rerank:
            policies[direction] = policy.replace(rerank=os.path.relpath(policy.rerank, folder))
    if arguments.out:
        encoder.save(folder, "The model of hr_search with the stages of its search in search.json.\n")
    save_memory(known, folder / FOLDER, identity.fingerprint(encoder))
    write_policies(folder, policies)
    if arguments.json:
        print_json({direction: tuned.steps.to_dict("records") for direction, tuned in found.items()})
        return 0
    for direction, tuned in found.items():
        steps = tuned.steps.assign(knobs=[_shown(knobs) for knobs in tuned.steps["knobs"]])
        table = steps.to_string(index=False, float_format=lambda value: f"{value:.4f}")
        say(plain(f"\n{direction}, {settings.goal} on {len(tasks[direction].queries)} validation queries\n{table}"))
    say(plain(f"\nwritten: {folder / 'search.json'} and {folder / FOLDER}"))
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    """Where the choice is written.

    Raises:
        InputError: the model has no folder of its own, or `--out` cannot be written.
    """
    if arguments.out:
        from hr_search.release import require_output

        require_output(str(folder := paths.resolve(arguments.out)))
        return folder
    folder = Path(arguments.model).expanduser()
    if not folder.is_dir():
        raise InputError(f"{arguments.model} is not a folder of yours; give --out, a folder for a copy of the model.")
    return folder.resolve()


def _encoder(model: str, settings: Settings, train: pd.DataFrame, length: int) -> Encoder:
    """The model, with a condenser learnt from the train rows where one is wanted and it has none of its own."""
    from hr_search.encoder import load_encoder
    from hr_search.models import condenser

    own = (Path(model).expanduser() / "condenser.json").is_file()
    learns = settings.condense and not own
    rules = condenser.learn(train["query"], train["positive"], settings.condense) if learns else None
    return load_encoder(model, length, settings.precision, condenser=rules)


def _shown(knobs: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in knobs.items())
