"""Errors whose message is meant for the user: the command line prints it without a traceback."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """What was given cannot be used; the message says what is wrong and what to do."""


class UnknownNameError(UsageError):
    """A name that is not known; the message suggests the nearest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")
