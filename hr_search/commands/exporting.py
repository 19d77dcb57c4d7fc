"""The verb `export`: a model in another form, and what that costs.

Heavy modules are imported inside the functions, so that `--help` and a mistyped flag are answered at once.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from hr_search.base.errors import InputError
from hr_search.commands.flags import PARTS, READ, add_settings, given, settings_from
from hr_search.commands.output import fixed, print_json, records, say

if TYPE_CHECKING:
    from hr_search.settings import Settings

EXPORTED = (*READ, *PARTS, "seed")
_FORMS = "onnx = one graph for onnxruntime; int8 = the same with int8 weights; openvino; static = a table of tokens"


def add_export(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `export`."""
    verb = verbs.add_parser(
        "export",
        help="write a model for onnxruntime, OpenVINO or as a static table",
        epilog="With --datapath, give the splits of the training: train rows teach principal directions, token "
        "frequencies and the range of activations, the rows of --split compare the export with the original.",
    )
    verb.add_argument("--model", default="embedded", help="embedded, a folder or a Hub name")
    verb.add_argument("--format", required=True, choices=("onnx", "openvino", "int8", "static"), help=_FORMS)
    verb.add_argument("--out", required=True, help="folder to write")
    verb.add_argument("--dimensions", type=int, default=0, help="numbers of an embedding (default the model's)")
    verb.add_argument(
        "--reduction",
        default="",
        choices=("leading", "pca"),
        help="how --dimensions shortens (default leading where the model's card names leading sizes, else pca)",
    )
    verb.add_argument("--split", default="test", choices=("all", "validation", "test"), help="rows to compare on")
    verb.add_argument("--threads", type=int, default=1, help="of the timing (default 1)")
    verb.add_argument("--json", action="store_true", help="print one line of JSON")
    add_settings(verb, EXPORTED, maxlength="the model's own", datapath="no comparison")
    verb.set_defaults(run=export)


def export(arguments: argparse.Namespace) -> int:
    """`export`: writes the folder and prints how far it is from the original."""
    values = given(arguments, EXPORTED)
    settings = settings_from(None, values)
    _require_words(arguments, values)
    from hr_search.encoder import load_encoder
    from hr_search.export import folder, reduction, requirements
    from hr_search.models.requirements import place_of

    requirements.require_packages(arguments.format)
    source = place_of(arguments.model)
    out = requirements.require_out(arguments.out, source)
    trained = reduction.trained_sizes(source)
    chosen = ""
    if arguments.format != "static":
        chosen = reduction.chosen(arguments.reduction, arguments.dimensions, trained, "datapath" in values)
    length = settings.maxlength if "maxlength" in values else 0
    encoder = load_encoder(arguments.model, length, "fp32", device="cpu")
    requirements.require_model(encoder)
    reduction.require_size(encoder, arguments.dimensions)
    texts, tasks = _rows(settings, arguments, chosen) if "datapath" in values else (None, None)
    plan = folder.Plan(arguments.format, arguments.dimensions, chosen, texts, tasks, arguments.threads, settings.seed)
    manifest, table = folder.export(encoder, source, out, plan)
    if arguments.json:
        print_json(manifest | {"folder": str(out)} | ({"table": records(table)} if table is not None else {}))
        return 0
    say(_sentence(manifest, str(out)))
    if table is not None:
        say(f"\n{arguments.split} rows, {arguments.threads} thread(s) in the timing\n{fixed(table)}")
    return 0


def _require_words(arguments: argparse.Namespace, values: dict[str, Any]) -> None:
    """Checks the flags that depend on each other."""
    if arguments.dimensions < 0:
        raise InputError(f"--dimensions is {arguments.dimensions}; give at least 1, or leave it out.")
    if arguments.threads < 1:
        raise InputError(f"--threads is {arguments.threads}; it must be at least 1.")
    if arguments.reduction and not arguments.dimensions:
        raise InputError("--reduction says how --dimensions shortens embeddings; give --dimensions, too.")
    if arguments.reduction and arguments.format == "static":
        raise InputError("--reduction does not apply to --format static, whose vectors have principal directions.")
    if arguments.reduction == "pca" and "datapath" not in values:
        raise InputError("--reduction pca learns from train rows; give --datapath.")


def _rows(settings: Settings, arguments: argparse.Namespace, chosen: str) -> tuple[dict[str, list[str]] | None, Any]:
    """Train texts of each side, where they are needed, and the tasks to compare on."""
    from hr_search.data import loading

    texts = None
    if chosen == "pca" or arguments.format in ("static", "int8"):
        train = loading.load_data(settings).train
        texts = {"query": train["query"].tolist(), "document": train["positive"].tolist()}
    return texts, loading.search_tasks(settings, arguments.split)


def _sentence(manifest: dict[str, Any], out: str) -> str:
    """What was written, and how far it is from the original."""
    how = f", {manifest['reduction']}" if manifest["reduction"] else ""
    words = f"{manifest['format']}, {manifest['dimensions']} dimensions{how}: {out}"
    if manifest["format"] == "int8":
        least = f"{manifest['cosine_least']:.4f}"
        return f"{words}\ncosine with the original's embeddings: mean {manifest['cosine_mean']:.4f}, least {least}"
    if "deviation" in manifest:
        return f"{words}\nlargest difference from the original's numbers: {manifest['deviation']:.2g}"
    return words
