"""Kinds of failure reasons, without names, paths and numbers: `cannot open …: no such file`."""

import re

import pandas as pd

_NAMED = re.compile(
    r"""
    '[^']*' | "[^"]*"                    # quoted text
    | (?<![\w/.])(?:\.{0,2}/|[A-Za-z]:\\)[^\s:;,'")]+   # a path
    | (?<![\w.])[-+]?\d+(?:[.,:]\d+)*(?:e[-+]?\d+)?(?![\w])   # a number, a time
    """,
    re.VERBOSE,
)
_GAPS = re.compile(r"…(?:[\s,x*]*…)+")


def kind_of_reason(reason: str | None, case_id: str) -> str:
    """Replace names, paths and numbers of a reason by `…`."""
    text = reason or "no reason was recorded"
    nameless = re.sub(rf"(?<!\w){re.escape(case_id)}(?!\w)", "…", text)
    return _GAPS.sub("…", _NAMED.sub("…", nameless))


def no_failure_sentence(pending: int) -> str:
    """Sentence for an empty list of failures, from the number of `pages.pending` scores."""
    if pending:
        return f"None so far; {pending:,} planned score{'s are' if pending > 1 else ' is'} pending."
    return "None: every planned case has a score."


def with_kinds(failures: pd.DataFrame) -> pd.DataFrame:
    """Add the column `kind` to rows of `pages.failures`; cases rejected at ingest get the label `ingest`."""
    kinds = [
        kind_of_reason(reason if isinstance(reason, str) else None, case)
        for reason, case in zip(failures["reason"], failures["case_id"], strict=True)
    ]
    return failures.assign(kind=kinds, label=failures["label"].fillna("ingest"))
