"""The verb `publish`: a saved model and its card on the Hugging Face Hub.

Heavy modules are imported inside the function, so that `--help` and a mistyped flag are answered at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hr_search.base import paths
from hr_search.commands.output import say


def add_publish(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `publish`."""
    verb = verbs.add_parser(
        "publish",
        help="put a saved model and its card on the Hugging Face Hub",
        epilog="The card has the figures of the run that saved the model. Needs a token: `hf auth login`, or HF_TOKEN.",
    )
    verb.add_argument("--model", required=True, help="folder that a training has saved (--outputpath)")
    verb.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository; made if it is missing")
    verb.add_argument("--licence", default="", help="of the model (default mit where all it was made of is bundled)")
    verb.add_argument("--private", action="store_true", help="make a new repository private")
    verb.add_argument("--overwrite", action="store_true", help="replace all files of a repository that holds some")
    verb.add_argument(
        "--withmemory",
        action="store_true",
        help="also publish search.json and memory/ of `tune`, which holds embeddings of train texts",
    )
    verb.add_argument("--dry", metavar="FOLDER", help="write what would be published to a folder; needs no network")
    verb.set_defaults(run=publish)


def publish(arguments: argparse.Namespace) -> int:
    """`publish`: sends the files in one commit, or writes them to a folder."""
    from hr_search.base import hub_upload
    from hr_search.export import publication
    from hr_search.settings import Settings

    name = hub_upload.checked_name(arguments.repo)
    folder = paths.resolve(arguments.model)
    run = publication.run_of(folder)
    settings = Settings.from_mapping(run.config, f"the run {run.id}")
    licence = publication.checked_licence(arguments.licence, settings)
    files = publication.files_of(folder, arguments.withmemory)
    omitted = [] if arguments.withmemory else publication.left_out(folder)
    card = publication.card_of(run, name, licence, omitted)
    content: dict[str, Path | bytes] = {publication.CARD: card.encode(), **files}
    if arguments.dry:
        out = paths.resolve(arguments.dry)
        publication.write_folder(content, out)
        say(f"{len(content)} files, with the figures of {run.id}: {out}")
    else:
        message = f"{settings.projectname}, the model of the run {run.id}"
        place = hub_upload.upload(content, name, message, arguments.private, arguments.overwrite)
        say(f"{len(content)} files, with the figures of {run.id}: {place}")
    if omitted:
        say(f"left out: {', '.join(omitted)} (the memory holds embeddings of train texts; --withmemory publishes it)")
    return 0
