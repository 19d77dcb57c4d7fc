"""Counts of a data set: how many rows were read, dropped, changed and held out, and how many leak."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Counts:
    """What one step, or the whole of loading, counted; None where a step does not apply, 0 where it found nothing.

    The sum of two adds field by field, so that each step returns its own counts and the caller adds them up.

    Attributes:
        rows: rows read, over all files; of judged queries, pairs of a query and a relevant document.
        empty: rows dropped because query or document holds no words; of judged queries, queries without words.
        unsplit: ESCO occupations and skills dropped because name and description cannot be separated with certainty.
        cvs: CVs in fields that became texts.
        html: texts that held HTML, which was taken out.
        emails: e-mail addresses replaced.
        phones: phone numbers replaced.
        links: links replaced.
        handles: handles, such as @name, replaced.
        duplicates: rows dropped because they repeat another one.
        placeholders: rows with a text that seems to stand for an empty cell, such as NULL; they are kept.
        groups: groups of `datapath`.
        unknown: judgements left out because the query or the document is not there.
        unanswered: judged queries dropped because they have no relevant document of a grade that counts.
        distractors: documents of judged collections that answer no query.
        table_leaks: rows dropped because another table of `datapath` holds out their document; with `stream`, because
            another part does, or one that is nearly the same.
        negative_leaks: given negatives dropped from train because they are held-out documents.
        train: train rows.
        train_groups: their groups.
        validation: validation rows.
        validation_groups: their groups.
        test: test rows.
        test_groups: their groups.
        exact_leaks: rows of validation and test whose document occurs in train.
        near_leaks: rows of validation and test most of whose document occurs in one train document.
        test_leaks: test rows whose document occurs in validation.
        seen_queries: rows of validation and test whose query occurs in train.
        seen_groups: rows of validation and test whose group occurs in train.
        near_exact: 1 where the search for near copies was exact, 0 where it had to estimate
            (`duplicates.near_copies`).
    """

    rows: int | None = None
    empty: int | None = None
    unsplit: int | None = None
    cvs: int | None = None
    html: int | None = None
    emails: int | None = None
    phones: int | None = None
    links: int | None = None
    handles: int | None = None
    duplicates: int | None = None
    placeholders: int | None = None
    groups: int | None = None
    unknown: int | None = None
    unanswered: int | None = None
    distractors: int | None = None
    table_leaks: int | None = None
    negative_leaks: int | None = None
    train: int | None = None
    train_groups: int | None = None
    validation: int | None = None
    validation_groups: int | None = None
    test: int | None = None
    test_groups: int | None = None
    exact_leaks: int | None = None
    near_leaks: int | None = None
    test_leaks: int | None = None
    seen_queries: int | None = None
    seen_groups: int | None = None
    near_exact: int | None = None

    def __add__(self, other: Counts) -> Counts:
        ours, theirs = self.to_dict(), other.to_dict()
        return Counts(**{name: ours.get(name, 0) + theirs.get(name, 0) for name in ours | theirs})

    def __str__(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in self.to_dict().items())

    def to_dict(self) -> dict[str, int]:
        """The counts by name, in the order above, without those that do not apply."""
        return {name: count for name, count in vars(self).items() if count is not None}
