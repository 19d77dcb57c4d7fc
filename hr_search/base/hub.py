"""The Hugging Face Hub: data sets and models by name, or within seconds a sentence that says what to do instead."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from hr_search.base.errors import InputError, one_line, shown
from hr_search.base.hub_files import train_files

MODEL_TIMEOUT = 3.0  # seconds to look up a model's name: with the start of Python and torch, an answer within ten
TIMEOUT = 8.0  # seconds until the Hub counts as out of reach


def require_model(name: str) -> None:
    """Checks that the Hub model `name` is in the local cache or known to the Hub.

    Raises:
        InputError: within seconds, if it is neither.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError

    if not re.fullmatch(r"(?a:[\w.-]{1,96}/)?(?a:[\w.-]{1,96})", name):
        raise InputError(
            f'the model "{shown(name)}" is neither a local folder nor a valid name on the Hub; '
            "use --modelname embedded (no download) or the path of a local folder."
        )
    names = [name] if "/" in name else [name, f"sentence-transformers/{name}"]
    try:
        if any(isinstance(try_to_load_from_cache(candidate, "config.json"), str) for candidate in names):
            return
    except ValueError as error:  # the Hub's own rules for names; it forbids two dots in a row, for example
        raise InputError(
            f"the model {name} is neither a local folder nor a valid name on the Hub ({one_line(error, 120)}); "
            "use --modelname embedded (no download) or the path of a local folder."
        ) from error

    def ask() -> None:
        try:
            HfApi().model_info(names[0], timeout=MODEL_TIMEOUT)
        except RepositoryNotFoundError:
            HfApi().model_info(names[-1], timeout=MODEL_TIMEOUT)

    try:
        within(MODEL_TIMEOUT, ask)
    except Exception as error:
        why = one_line(error, 120) if str(error) else f"silent for {MODEL_TIMEOUT:.0f} s"
        raise InputError(
            f"the model {name} is neither a local folder nor in the cache, and the Hub gave no answer for it ({why}); "
            "use --modelname embedded (no download) or the path of a local folder."
        ) from error


def files_of(place: str) -> list[tuple[str, Path]]:
    """Names and local copies of the files of a Hub data set: its train split, or what the place names besides.

    Args:
        place: `hf:OWNER/NAME`, or `hf:OWNER/NAME/WHICH` for a configuration, a split, a folder or a file of it.

    Raises:
        InputError: the name is invalid, the Hub cannot be reached, the data set has no readable file, or it has
            several configurations or no train split and the place does not say which.
    """
    found = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:/(.+?)/?)?", place)
    if not found or ".." in place:
        raise InputError(f"{shown(place)} is not the name of a data set; write hf:OWNER/NAME.")
    name, which = found[1], found[2] or ""
    import huggingface_hub

    try:
        info = within(TIMEOUT, lambda: huggingface_hub.HfApi().dataset_info(name, timeout=TIMEOUT))
        fixed = {"repo_id": name, "repo_type": "dataset", "revision": info.sha, "etag_timeout": TIMEOUT}
        card = info.card_data.to_dict() if getattr(info, "card_data", None) else {}
        wanted = train_files([file.rfilename for file in info.siblings or []], which, card, place)
        files = [(file, Path(huggingface_hub.hf_hub_download(filename=file, **fixed))) for file in wanted]
    except InputError:
        raise
    except Exception as error:  # errors of the client, of its transport or of the system
        advice = "download its files on a machine with a network and give the path of one."
        raise InputError(f"{place} cannot be fetched ({one_line(error, 120)}); {advice}") from error
    if not files:
        raise InputError(f"{place} has no .parquet, .jsonl, .csv, .tsv, .json or .pkl file; convert and download it.")
    return files


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """The result of `work`, or TimeoutError; unlike a socket's timeout this covers silent name servers."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(timeout=seconds)
