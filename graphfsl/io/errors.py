"""The one exception that a user's mistake raises.

The command line prints it as one line and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_LISTED = 30  # names in a message: there are 1,200 models in timm


class InputError(ValueError):
    """Bad input: the message is one line that says what was wrong and what would be right."""


def require(condition: object, message: str) -> None:
    """Refuse, with this message, where a condition does not hold.

    Raises:
        InputError: with the message.
    """
    if not condition:
        raise InputError(message)


def unknown(what: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not in `known`, with the nearest one as a suggestion."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    listed = ", ".join(known[:MOST_LISTED]) + f", … ({len(known)})" * (len(known) > MOST_LISTED)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {listed or 'none'}"
    return InputError(f"unknown {what} {name!r}; {hint}")
