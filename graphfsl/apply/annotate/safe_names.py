"""Names for files and folders that any system takes, each only once."""

from __future__ import annotations

import re
import unicodedata

FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+')
# Of Windows, and the folder beside class folders that holds images without a class.
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|unlabeled", re.IGNORECASE)
FORMULA = re.compile(r"^[=+\-@'\s.~]+")  # what a name must not begin with
LONGEST = 120  # bytes of a name in UTF-8, of the 255 that file systems take


class SafeNames:
    """Gives names within one folder."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, text: str, suffix: str = "") -> str:
        """A name for a text, which neither climbs nor begins a formula nor is another's.

        Two names are one where they differ only in case or in how letters are composed.

        Args:
            text: of a class, or a path.
            suffix: of the file, such as ".png".
        """
        name = unicodedata.normalize("NFC", text)
        name = FORBIDDEN.sub("_", name)
        name = FORMULA.sub("_", name).rstrip(" .")
        suffix = FORBIDDEN.sub("_", unicodedata.normalize("NFC", suffix))
        name = _cut(name) or "_"
        if RESERVED.fullmatch(name):
            name = f"_{name}"
        chosen, number = name + suffix, 2
        while _alike(chosen) in self._taken:
            chosen = f"{name}-{number}{suffix}"
            number += 1
        self._taken.add(_alike(chosen))
        return chosen


def _cut(name: str) -> str:
    """At most LONGEST bytes, no letter cut in two."""
    return name.encode()[:LONGEST].decode(errors="ignore").rstrip(" .")


def _alike(name: str) -> str:
    """What names are compared by; some file systems fold case, some compose letters."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return unicodedata.normalize("NFKC", folded)
