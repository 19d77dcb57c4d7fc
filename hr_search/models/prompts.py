"""Which of a model's stored prompts stand before queries and documents, and what to say where none fits."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from hr_search.base.errors import InputError, shown

log = logging.getLogger(__name__)

# Names that models store them under, the most common first. sentence-transformers knows the first one of queries
# and the first three of documents.
_NAMES = {
    "query": ("query", "search_query", "retrieval_query", "retrieval.query", "s2p_query", "web_search_query"),
    "document": ("document", "passage", "corpus", "search_document", "search_passage", "retrieval_document",
                 "retrieval_passage", "retrieval.passage"),
}  # fmt: skip
# Families whose models were trained with prompts and often store none.
_FAMILIES = {
    r"instruct|e5-mistral": '--queryprompt "Instruct: WHAT TO FIND\\nQuery: "',
    r"(^|[-_])e5[-_]": '--queryprompt "query: " --documentprompt "passage: "',
    r"nomic-embed|frida": '--queryprompt "search_query: " --documentprompt "search_document: "',
}


def side_prompts(stored: Mapping[str, str | None], given: Mapping[str, str], name: str) -> dict[str, str]:
    """The prompts of a model with those of both sides under "query" and "document", where every reader looks first.

    Args:
        stored: name to prompt, as the model keeps them.
        given: side to prompt, as the user wants them; an empty one leaves the model's own.
        name: of the model, for the log.

    Raises:
        InputError: a stored prompt is not text.
    """
    for key, text in stored.items():
        if text is not None and not isinstance(text, str):
            raise InputError(f"the prompt {shown(key)} of the model {name} is not text; correct its {_FILE}.")
    used, found = {}, {}
    for side, names in _NAMES.items():
        used[side] = next((key for key in names if stored.get(key)), "")
        found[side] = given.get(side) or stored.get(used[side]) or ""
        if used[side] not in ("", side) and not given.get(side):
            log.info('%s texts get the prompt that the model calls "%s": %r', side, used[side], found[side])
    others = [key for key, text in stored.items() if text and key not in used.values()]
    if not found["query"] and others:
        log.warning(
            "%s has prompts that are not used here (%s); --queryprompt and --documentprompt set one for each side",
            name, ", ".join(shown(key) for key in others[:10]),
        )  # fmt: skip
    elif not any(found.values()):
        base = re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()
        if flags := next((flags for pattern, flags in _FAMILIES.items() if re.search(pattern, base)), ""):
            log.warning("%s stores no prompts, and models of its family were trained with some: %s", name, flags)
    return {**{key: text or "" for key, text in stored.items()}, **found}


_FILE = "config_sentence_transformers.json"
