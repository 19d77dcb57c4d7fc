"""The verb `tune`: the stages of a search fitted on validation rows and kept beside the model."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from hr_search.base import choices, paths
from hr_search.base.errors import InputError
from hr_search.commands.flags import PARTS, READ, add_settings, given, settings_from
from hr_search.commands.knobs import (
    add_knobs,
    exact_precision,
    given_knobs,
    memory_from,
    own_folder,
    reader_for,
    require_stages,
)
from hr_search.commands.output import fixed, print_json, records, say
from hr_search.commands.searching import encode_as

if TYPE_CHECKING:
    from hr_search.data.loading import Data
    from hr_search.encoder import Encoder
    from hr_search.search.memory import Memory
    from hr_search.search.policy import SearchPolicy
    from hr_search.search.tuning import Tuned
    from hr_search.settings import Settings

TUNED = (*READ, *PARTS, "negativecolumn", "condense", "precision", "goal")
_FITTED = ("centre", "searchmixing", "k", "temperature", "weight", "fusion", "words", "rerankweight", "plain")


def add_tune(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `tune`."""
    verb = verbs.add_parser(
        "tune",
        help="choose centring, mixing, words and second stage on validation rows, and keep them beside the model",
        epilog="Give the recipe of the training, and those of its flags that are listed here, so that the same rows "
        "are train and validation rows: train rows become the memory, validation rows choose. Test rows are not "
        "looked at.",
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
    """`tune`: fits the stages of each direction, prints them and writes the memory and `search.json`."""
    values = given(arguments, TUNED)
    settings = settings_from(arguments.recipe, values)
    start, folder = _start(arguments), _folder(arguments)
    from hr_search.data.loading import load_data
    from hr_search.search import memory, policy

    data = load_data(settings)
    if not len(data.validation):
        raise InputError(f"{settings.datapath} has no validation rows to choose by; give a --validationshare above 0.")
    length = settings.maxlength if arguments.recipe or "maxlength" in values else 0
    encoder = _encoder(arguments, settings, data, length)
    known = _memory(arguments, settings, data, encoder)
    found = _fitted(arguments, settings, data, encoder, known, start)
    _keep(arguments, folder, encoder, known, {name: tuned.policy for name, tuned in found.items()})
    if arguments.json:
        chosen = {name: {"policy": each.policy.to_dict(), "steps": records(each.steps)} for name, each in found.items()}
        print_json(chosen)
        return 0
    for direction, tuned in found.items():
        knobs = [", ".join(f"{name} {value}" for name, value in row.items()) for row in tuned.steps["knobs"]]
        queries, table = len(data.tasks("validation")[direction].queries), fixed(tuned.steps.assign(knobs=knobs))
        say(f"\n{direction}, {settings.goal} on {queries} validation queries\n{table}")
    say(f"\nwritten: {folder / policy.FILE} and {folder / memory.FOLDER}")
    return 0


def _start(arguments: argparse.Namespace) -> SearchPolicy:
    """The knobs that are given and not fitted."""
    from hr_search.search.policy import SearchPolicy

    knobs = given_knobs(arguments)
    start = SearchPolicy().replace(**knobs)
    require_stages(knobs, [start.replace(mixing="both", fusion=1.0)])  # these two will be tried
    return start


def _folder(arguments: argparse.Namespace) -> Path:
    """Where the choice is written.

    Raises:
        InputError: the model has no folder of its own and there is no `--out`, or the place cannot be written to.
    """
    from hr_search.models.embedded import NAME
    from hr_search.models.requirements import place_of
    from hr_search.release import require_output, require_place
    from hr_search.search.policy import FILE

    own = own_folder(arguments.model)
    if arguments.out and (folder := paths.resolve(arguments.out)) != own:
        require_output(str(folder))
        return folder
    if arguments.model != NAME:
        place_of(arguments.model)
    if own is None:
        raise InputError(f"{arguments.model} has no folder of yours; give --out, a folder for a copy of the model.")
    require_place(own / FILE)
    return own


def _encoder(arguments: argparse.Namespace, settings: Settings, data: Data, length: int) -> Encoder:
    """The model, with a condenser learnt from the train rows where one is wanted and it has none of its own.

    Raises:
        InputError: without a copy, `maxlength` or `condense` differ from what the model's folder says: whoever opens
            the folder later would get other embeddings than those of the memory.
    """
    from hr_search.encoder import load_encoder
    from hr_search.models import condenser
    from hr_search.search.identity import fingerprint

    precision = exact_precision(settings)
    encoder = load_encoder(arguments.model, length, precision)
    if settings.condense and encoder.condenser is None:
        encoder.condenser = condenser.learn(data.train["query"], data.train["positive"], settings.condense)
    if not arguments.out and (length or settings.condense):
        kept = load_encoder(arguments.model, 0, precision)
        if fingerprint(kept) != fingerprint(encoder):
            raise InputError(
                f"{arguments.model} reads texts with maxlength {kept.maxlength} and "
                f"{'its own' if kept.condenser else 'no'} condenser, not as these settings say; leave out --maxlength "
                "and --condense, or give --out for a copy that keeps them."
            )
    encode_as(settings, encoder)
    return encoder


def _memory(arguments: argparse.Namespace, settings: Settings, data: Data, encoder: Encoder) -> Memory:
    """The pairs of `--memory`, or the train rows.

    Raises:
        InputError: `--memory` has documents of validation or test rows, or train rows have some of validation rows.
    """
    from hr_search.search.memory import build_memory, kept_memory, refuse_known

    if not arguments.memory:
        named, kept = f"the memory (train rows of {data.name})", kept_memory(encoder)
        known = build_memory(encoder, data.train, named, progress=True, kept=kept)
        advice = "leave --allowleaks out, or give other rows as --memory"
        refuse_known(known, data.tasks("validation")["q2d"].documents, advice)
        return known
    known = memory_from(arguments.memory, encoder, settings)
    for part in ("validation", "test"):
        if tasks := data.tasks(part):
            refuse_known(known, tasks["q2d"].documents, f"take rows as --memory that are not {part} rows")
    return known


def _fitted(
    arguments: argparse.Namespace,
    settings: Settings,
    data: Data,
    encoder: Encoder,
    known: Memory,
    start: SearchPolicy,
) -> dict[str, Tuned]:
    """What was chosen for each direction that is wanted."""
    from hr_search.evaluation import scoring
    from hr_search.search.tuning import tune as fit

    reads, tasks = reader_for(start, settings), data.tasks("validation")
    sides = scoring.embed_sides(encoder, scoring.token_tables(encoder, tasks), progress=True)
    wanted = choices.DIRECTIONS if arguments.direction == "both" else (arguments.direction,)
    return {name: fit(tasks[name], sides, known, settings.goal, reads, start) for name in wanted}


def _keep(
    arguments: argparse.Namespace, folder: Path, encoder: Encoder, known: Memory, policies: dict[str, SearchPolicy]
) -> None:
    """Writes the copy of the model, if one is wanted, the memory, and last what makes a search use it.

    A copy of the same model that lies there already is made anew and keeps what was chosen for the other direction.
    """
    from hr_search.search.identity import fingerprint
    from hr_search.search.memory import FOLDER, open_memory, save_memory
    from hr_search.search.policy import read_policies, write_policies

    own = own_folder(arguments.model)
    if folder != own:
        with contextlib.suppress(InputError):  # another model's memory, none, or a damaged file
            open_memory(folder / FOLDER, fingerprint(encoder))
            policies = read_policies(folder) | policies
        card = own / "README.md" if own else None
        text = card.read_text(encoding="utf-8") if card and card.is_file() else _CARD
        if encoder.engine is None:
            encoder.save(folder, text)
        else:  # int8 has taken the place of the layers that are to be saved
            from hr_search.export.int8 import exactly

            with exactly(encoder):
                encoder.save(folder, text)
    save_memory(known, folder / FOLDER, fingerprint(encoder))
    write_policies(folder, policies)


_CARD = "A copy of a model, made by `hr_search tune`; search.json says how it is searched with.\n"
