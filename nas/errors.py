"""The one exception for bad input."""

import difflib
from collections.abc import Iterable

LONGEST = 2000  # characters of a message


class BadInput(ValueError):
    """Input a person gave is wrong; the message is one line: what, where, what would be right.

    The command line prints it and exits with 2. What a message quotes from a file is shown as one printable line.
    """

    def __init__(self, message: object):
        line = " ".join(str(message).split())
        shown = "".join(c if c.isprintable() else "?" for c in line[:LONGEST])
        super().__init__(shown + "..." * (len(line) > LONGEST))


def suggest(name: str, known: Iterable[str]) -> str:
    """Half a sentence for an unknown name: the nearest known one, then all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(known)}"
