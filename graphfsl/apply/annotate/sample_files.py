"""The files of a pool's samples: what is in them, and what became of those that were answered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from graphfsl.apply.annotate.answer_store import Mark
from graphfsl.apply.annotate.answers import Answer, Answers
from graphfsl.apply.label.pool_files import Pool
from graphfsl.io.errors import InputError
from graphfsl.io.files import read_regular

NAMED = 3  # files that a line names
GONE = "gone"  # the version of a file that is not there
UNKNOWN = ""  # in place of the digest of such a file, which can be skipped


class SampleFiles:
    """The files of a pool.

    Args:
        pool: of images.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._place = {name: n for n, name in enumerate(pool.names)}
        self._content: dict[int, tuple[str, str, int]] = {}  # version, SHA-256, bytes
        self._changed: set[str] = set()

    def version(self, n: int) -> str:
        """What is another when the file is: its time and size; "gone" where it went away."""
        try:
            facts = self._pool.images[n].stat()
        except OSError:
            return GONE
        return f"{facts.st_mtime_ns:x}-{facts.st_size:x}"

    def is_gone(self, n: int) -> bool:
        """Whether a file is not there any more."""
        return self.version(n) == GONE

    def content(self, n: int) -> tuple[str, int]:
        """SHA-256 of a file's bytes, and how many they are.

        Raises:
            InputError: where it cannot be read any more.
        """
        version = self.version(n)
        known = self._content.get(n)
        if known is not None and known[0] == version:
            return known[1], known[2]
        try:
            data = read_regular(self._pool.images[n])
        except OSError as error:
            raise InputError(
                f"{self._pool.names[n]} cannot be read any more ({error.strerror}); nothing is "
                "kept of this answer"
            ) from None
        digest = hashlib.sha256(data).hexdigest()
        self._content[n] = (version, digest, len(data))
        return digest, len(data)

    def holds(self, name: str) -> bool:
        """Whether a file is as it was when it was answered."""
        return name not in self._changed

    def answered(self, mark: Mark) -> None:
        """An answer to the file as it is now."""
        self._changed.discard(mark.sample)

    def moved(self, answers: Answers) -> dict[str, str]:
        """Old path -> new path of answered files that stand elsewhere with the same content."""
        lost = {name: _newest(answers, name) for name in answers.latest if name not in self._place}
        sizes = {answer.size for answer in lost.values()}
        at: dict[str, str] = {}
        for name, n in self._place.items() if lost else ():
            if name in answers.latest or self._size(n) not in sizes:
                continue
            content = self._content_or_none(n)
            if content is not None:
                at.setdefault(content, name)
        found: dict[str, str] = {}
        for name, answer in lost.items():
            new = at.pop(answer.content, None)
            if new is not None:
                found[name] = new
        return found

    def compare(self, answers: Answers) -> list[str]:
        """What became of the files that have answers, in lines; changed ones need new answers."""
        gone, changed = [], []
        for name in answers.latest:
            n = self._place.get(name)
            if n is None:
                gone.append(name)
            elif _newest(answers, name).content not in (UNKNOWN, self._content_or_none(n)):
                changed.append(name)
        self._changed = set(changed)
        lines = []
        if gone:
            lines.append(
                f"{in_words(len(gone))} with answers cannot be found or read; what was answered is "
                f"kept, and counts again when the image is back: {_some(gone)}"
            )
        if changed:
            lines.append(
                f"{in_words(len(changed))} changed after an answer, which does not count until "
                f"it is given again: {_some(changed)}"
            )
        return lines

    def _size(self, n: int) -> int:
        try:
            return self._pool.images[n].stat().st_size
        except OSError:
            return -1

    def _content_or_none(self, n: int) -> str | None:
        try:
            return self.content(n)[0]
        except InputError:
            return None


def in_words(files: int) -> str:
    """A number of files."""
    return "1 file" if files == 1 else f"{files:,} files"


def _newest(answers: Answers, name: str) -> Answer:
    return max(answers.latest[name].values(), key=lambda answer: answer.event)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
