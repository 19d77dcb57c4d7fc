"""The verbs that search: `index` embeds a corpus and keeps it, `search` answers queries from an index or a corpus.

Heavy modules are imported inside the functions, so that `--help` and a mistyped flag are answered at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hr_search.base import choices, claims, paths
from hr_search.base.errors import InputError, one_line
from hr_search.commands import approximating
from hr_search.commands.flags import add_scheduler, add_settings, given, settings_from
from hr_search.commands.knobs import (
    add_knobs,
    exact_precision,
    given_knobs,
    memory_for,
    policies_from,
    reader_for,
    require_memory,
    require_stages,
)
from hr_search.commands.output import print_json, say
from hr_search.commands.searching import add_dimensions, encode_as, encoder_for, shared_out

if TYPE_CHECKING:
    from hr_search.encoder import Encoder
    from hr_search.index.answers import Hit, Searcher
    from hr_search.index.folder import Index
    from hr_search.search.policy import SearchPolicy
    from hr_search.settings import Settings

SEARCHED = ("maxlength", "precision", "keephtml", "encoding", "trustfile", "querycolumn", "positivecolumn")
_CORPUS = "table (its document column is searched) or .txt file with one document per line"
_LATER = ("rerank", "reranktop", "rerankweight", "scaling")  # knobs that an index does not need


def add_index(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `index`."""
    verb = verbs.add_parser("index", help="embed a corpus once and keep it for many searches")
    verb.add_argument("--corpus", help=_CORPUS)
    verb.add_argument("--out", required=True, help="folder of the index")
    verb.add_argument("--column", default="", help="column of the corpus; default: found by name")
    verb.add_argument("--direction", choices=choices.DIRECTIONS, help="d2q = the corpus holds job titles (default q2d)")
    verb.add_argument("--numbers", choices=("fp16", "fp32"), help="numbers of the embeddings (default fp16)")
    verb.add_argument("--append", action="store_true", help="embed only texts that the index does not hold yet")
    add_scheduler(verb, shards=True)
    approximating.add_building(verb)
    _add_shared(verb, *_LATER)
    verb.set_defaults(run=index)


def index(arguments: argparse.Namespace) -> int:
    """`index`: writes the index of a corpus, or adds new texts to it."""
    values = given(arguments, SEARCHED)
    settings = settings_from(None, values)
    require_memory(arguments, values)
    folder = paths.resolve(arguments.out)
    approximating.require_building(arguments)
    if not arguments.corpus and arguments.scheduler:
        raise InputError("--scheduler encodes the texts of a --corpus; give one, or leave --scheduler out.")
    write = _lists_only if not arguments.corpus else _append if arguments.append else _anew
    # What another process adds between reading and writing would be lost.
    with claims.claimed(claims.beside(folder), f"the index {folder}", "give another --out"):
        return write(arguments, settings, values)


def _anew(arguments: argparse.Namespace, settings: Settings, values: dict[str, Any]) -> int:
    """`index` of a corpus, in place of what is in the folder."""
    from hr_search.index.folder import require_place, slices, write_index
    from hr_search.index.texts import read_corpus
    from hr_search.search.policy import sides_of

    require_place(folder := paths.resolve(arguments.out))
    direction, model = arguments.direction or "q2d", arguments.model or "embedded"
    policy = _policy(arguments, model, direction)
    side = sides_of(direction)[1]
    corpus = read_corpus(arguments.corpus, arguments.column, *_reading(settings), side=side)
    queries = approximating.drawn_queries(arguments, settings, sides_of(direction)[0])
    encoder = encoder_for(model, settings, "maxlength" in values, arguments.dimensions)
    approximating.require_sizes(arguments, len(corpus.texts), encoder.dimension)
    told = {"keephtml": settings.keephtml, "tuned": not (arguments.plain or given_knobs(arguments))}
    told |= {"shortened": bool(arguments.dimensions)}
    numbers = arguments.numbers or "fp16"
    with shared_out(arguments, encoder) as spread:
        memory = memory_for(arguments, spread, settings, policy)
        if arguments.scheduler:  # the texts of all slices side by side; writing then finds them there
            tables = (encoder.tokens(part, side, cached=False) for part in slices(corpus.texts))
            spread.prepare(tables, len(corpus.texts))
        made = write_index(folder, spread, corpus, direction, policy, memory, numbers, told, progress=True)
    return _report(arguments, made, len(made), queries, encoder)


def _append(arguments: argparse.Namespace, settings: Settings, values: dict[str, Any]) -> int:
    """`index --append`."""
    fixed = {name: getattr(arguments, name) for name in ("direction", "numbers", "memory", "plain", "dimensions")}
    fixed |= {"searchmixing" if name == "mixing" else name: value for name, value in given_knobs(arguments).items()}
    if wrong := next((name for name, value in fixed.items() if value not in (None, "", False)), ""):
        raise InputError(f"--{wrong} does not apply to --append: the index keeps what it was built with; leave it out.")
    from hr_search.index.folder import open_index
    from hr_search.index.growth import append
    from hr_search.index.texts import read_corpus
    from hr_search.search.policy import sides_of

    old = open_index(paths.resolve(arguments.out))
    for name, text in (("precision", old.manifest["precision"]), ("keephtml", old.manifest.get("keephtml", False))):
        if name in values and getattr(settings, name) != text:
            raise InputError(
                f"the index {old.folder} was built with {name} {text}; leave --{name} out, or build it again."
            )
        settings = settings.replace(**{name: text})
    side = sides_of(old.direction)[1]
    corpus = read_corpus(arguments.corpus, arguments.column, *_reading(settings), side=side)
    queries = approximating.drawn_queries(arguments, settings, sides_of(old.direction)[0])
    approximating.require_sizes(arguments, len(old) + len(corpus.texts), old.vectors.shape[1])
    encoder = _encoder_of(old, arguments, settings, values)
    with shared_out(arguments, encoder) as spread:
        made, added = append(old, spread, corpus, progress=True)
    return _report(arguments, made, added, queries, encoder)


def _lists_only(arguments: argparse.Namespace, settings: Settings, values: dict[str, Any]) -> int:
    """`index --approximate` without a corpus: lists of an index that exists."""
    approximating.require_building_only(arguments, values)
    from hr_search.index.folder import open_index
    from hr_search.search.policy import sides_of

    kept = open_index(paths.resolve(arguments.out))
    settings = settings.replace(precision=kept.manifest["precision"])
    queries = approximating.drawn_queries(arguments, settings, sides_of(kept.direction)[0])
    approximating.require_sizes(arguments, *kept.vectors.shape)
    encoder = _encoder_of(kept, arguments, settings, values) if queries else None
    return _report(arguments, kept, 0, queries, encoder)


def _report(arguments: argparse.Namespace, made: Index, added: int, queries: list[str], encoder: Encoder | None) -> int:
    """Prints what an index holds, after its lists were built where they are asked for."""
    made, lists = approximating.build(arguments, made, queries, encoder) if arguments.approximate else (made, {})
    told = {"folder": str(made.folder), "texts": len(made), "added": added, "dimension": made.vectors.shape[1]}
    told |= {"numbers": made.manifest["numbers"]}
    if arguments.json:
        print_json(told | ({"approximate": lists} if lists else {}))
    else:
        say(f"{len(made)} texts ({added} new), {told['dimension']} numbers each ({told['numbers']}): {made.folder}")
        if lists:
            approximating.print_lists(lists)
    return 0


def add_search(verbs: argparse._SubParsersAction) -> None:
    """Adds the verb `search`."""
    verb = verbs.add_parser("search", help="print the documents nearest to a query")
    verb.add_argument("query", nargs="?", help="text to search for, for example a job title")
    verb.add_argument("--corpus", help=f"{_CORPUS}; with --index, checked to be the file it was built from")
    verb.add_argument("--index", help="folder that `index` has written")
    verb.add_argument("--column", default="", help="column to search in; with --index, that of --queries")
    verb.add_argument("--direction", choices=choices.DIRECTIONS, help="d2q = the corpus holds job titles (default q2d)")
    verb.add_argument("--top", type=int, default=5, help="how many to print (default 5)")
    verb.add_argument("--queries", help="table or .txt file of queries, all of which are answered")
    verb.add_argument("--out", help=".csv or .jsonl file for the answers to --queries; default: JSON is printed")
    approximating.add_searching(verb)
    _add_shared(verb)
    verb.set_defaults(run=search)


def search(arguments: argparse.Namespace) -> int:
    """`search`: the top documents for one query or for many; of equal scores, the first row comes first."""
    values = given(arguments, SEARCHED)
    settings = settings_from(None, values)
    _require_words(arguments)
    require_memory(arguments, values)
    approximating.require_searching(arguments)
    from hr_search.search.policy import sides_of

    kept = _opened(arguments) if arguments.index else None
    direction = kept.direction if kept else arguments.direction or "q2d"
    if kept and "keephtml" not in values:
        settings = settings.replace(keephtml=kept.manifest.get("keephtml", False))
    queries = _queries(arguments, settings, sides_of(direction)[0])
    searcher = _from_index(arguments, settings, values, kept) if kept else _from_corpus(arguments, settings, values)
    answers = searcher.answers([text for _, text in queries], arguments.top, progress=len(queries) > 1)
    if arguments.queries:
        _write_answers(queries, answers, arguments.out, arguments.json)
        return 0
    found = [{"score": round(hit.score, 4), "row": hit.row, "text": hit.text} for hit in next(iter(answers))]
    if arguments.json:
        print_json(found)
    else:
        for item in found:
            say(f"{item['score']:.4f}  row {item['row']}  {one_line(item['text'], 200)}")
    return 0


def _require_words(arguments: argparse.Namespace) -> None:
    """Checks the flags of `search` that depend on each other."""
    if arguments.top < 1:
        raise InputError(f"--top is {arguments.top}; it must be at least 1.")
    missing = "" if arguments.corpus or arguments.index else "--corpus or --index"
    missing = missing if arguments.query is not None or arguments.queries else "query"
    if missing:
        raise InputError(f"the following arguments are required: {missing}; see `python -m hr_search search --help`.")
    if arguments.query is not None and arguments.queries:
        raise InputError("a query and --queries are both given; leave one of them out.")
    if arguments.out and not arguments.queries:
        raise InputError("--out keeps the answers to --queries; give --queries, or leave --out out.")
    if arguments.out and paths.resolve(arguments.out).suffix.lower() not in (".csv", ".jsonl"):
        raise InputError(f"--out {arguments.out} must end in .csv or .jsonl, which decides its format.")


def _queries(arguments: argparse.Namespace, settings: Settings, side: str) -> list[tuple[int, str]]:
    """Rows, from 1, and texts of the queries."""
    from hr_search.data.cleaning import clean
    from hr_search.data.html import plain
    from hr_search.index.texts import read_corpus

    keephtml = settings.keephtml or side == "query"  # titles are searched for as they were written
    if arguments.queries:
        column = settings.querycolumn or (arguments.column if arguments.index else "")
        read = read_corpus(arguments.queries, column, settings.encoding, settings.trustfile, keephtml, side)
        return list(zip(read.rows.tolist(), read.texts, strict=True))
    query = clean(arguments.query)
    if not (query := query if keephtml else plain(query)):
        raise InputError("the query is empty; give a job title or another text to search for.")
    return [(1, query)]


def _opened(arguments: argparse.Namespace) -> Index:
    """The index that `--index` names, checked against the other flags."""
    from hr_search.index.agreement import require_corpus
    from hr_search.index.folder import open_index
    from hr_search.index.texts import file_digest

    kept = open_index(paths.resolve(arguments.index))
    if arguments.direction and arguments.direction != kept.direction:
        raise InputError(
            f"the index {kept.folder} was built for the direction {kept.direction}; leave --direction out."
        )
    if arguments.corpus:
        if arguments.corpus.startswith("hf:"):
            raise InputError("--corpus beside --index must be a file, which is compared with what was indexed.")
        require_corpus(kept, arguments.corpus, file_digest(paths.resolve(arguments.corpus)))
    return kept


def _from_index(arguments: argparse.Namespace, settings: Settings, values: dict[str, Any], kept: Index) -> Searcher:
    """What searches an index."""
    from hr_search.index.agreement import require_knobs
    from hr_search.index.answers import Searcher
    from hr_search.models.requirements import place_of

    for name in ("memory", "dimensions"):
        if getattr(arguments, name):
            raise InputError(f"--{name} does not apply to --index, which keeps its own; build the index with --{name}.")
    model = arguments.model or kept.manifest["model"]
    if kept.policy.staged:
        place_of(model)  # a folder that is gone would look like one without stages
    if arguments.plain or kept.manifest.get("tuned"):  # what was chosen for the model may have changed since
        policy = _policy(arguments, model, kept.direction)
    else:
        policy = kept.policy.replace(**given_knobs(arguments))
        require_stages(given_knobs(arguments), [policy])
    require_knobs(kept, policy)
    lists = approximating.opened_lists(arguments, kept, policy)
    words = kept.words(policy)
    encoder = _encoder_of(kept, arguments, settings, values)
    memory = kept.memory() if policy.centre or policy.mixes("queries") else None
    found = kept.vectors, kept.rows, kept.texts
    return Searcher(encoder, *found, kept.direction, policy, memory, words, reader_for(policy, settings), lists)


def _from_corpus(arguments: argparse.Namespace, settings: Settings, values: dict[str, Any]) -> Searcher:
    """What searches a corpus, which is embedded now."""
    from hr_search.index.answers import Searcher
    from hr_search.index.texts import read_corpus
    from hr_search.search.fusion import WordIndex
    from hr_search.search.policy import sides_of
    from hr_search.search.stages import placed

    direction, model = arguments.direction or "q2d", arguments.model or "embedded"
    side = sides_of(direction)[1]
    policy = _policy(arguments, model, direction)
    corpus = read_corpus(arguments.corpus, arguments.column, *_reading(settings), side=side)
    encoder = encoder_for(model, settings, "maxlength" in values, arguments.dimensions)
    memory = memory_for(arguments, encoder, settings, policy)
    vectors = placed(encoder.embed(encoder.tokens(corpus.texts, side), progress=True), side, True, memory, policy)
    background = memory.background if memory else None
    words = WordIndex.fit(corpus.texts, policy.words, background) if policy.fusion else None
    reads = reader_for(policy, settings)
    return Searcher(encoder, vectors, corpus.rows, corpus.texts, direction, policy, memory, words, reads)


def _encoder_of(kept: Index, arguments: argparse.Namespace, settings: Settings, values: dict[str, Any]) -> Any:
    """The model of an index, which may be named once more."""
    from hr_search.dimensions import shorten
    from hr_search.index.agreement import require_model
    from hr_search.index.proof import open_proven

    length = settings.maxlength if "maxlength" in values else kept.manifest["maxlength"]
    model = arguments.model or kept.manifest["model"]
    encoder, proven = open_proven(model, length, exact_precision(settings), kept.manifest["proof"])
    encode_as(settings, encoder)
    if kept.manifest.get("shortened") and kept.manifest["dimension"] <= encoder.dimension:
        shorten(encoder, kept.manifest["dimension"])
    require_model(kept, encoder, proven)
    return encoder


def _policy(arguments: argparse.Namespace, model: str, direction: str) -> SearchPolicy:
    """What was chosen for the model in this direction, overridden by the command line."""
    policy = policies_from(arguments, model)[direction]
    require_stages(given_knobs(arguments), [policy])
    return policy


def _reading(settings: Settings) -> tuple[str, bool, bool]:
    return settings.encoding, settings.trustfile, settings.keephtml


def _write_answers(
    queries: list[tuple[int, str]], answers: Iterable[list[Hit]], out: str | None, as_json: bool
) -> None:
    """Prints the answers as JSON, or writes them into a CSV or JSONL file, a row for each text found."""
    from hr_search.index.answers import answer_rows, write_rows

    rows = answer_rows(queries, answers)
    if not out:
        print_json(list(rows))
        return
    write_rows(place := paths.resolve(out), rows)
    if as_json:
        print_json({"queries": len(queries), "out": str(place)})
    else:
        say(f"answers to {len(queries)} queries: {place}")


def _add_shared(verb: argparse.ArgumentParser, *left_out: str) -> None:
    """Adds the flags that `index` and `search` share."""
    verb.add_argument("--model", help="embedded, a folder or a Hub name (default embedded, or that of the index)")
    verb.add_argument("--json", action="store_true", help="print one line of JSON")
    add_dimensions(verb)
    add_knobs(verb, *left_out)
    add_settings(verb, SEARCHED, maxlength="the model's own")
