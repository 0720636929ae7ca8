"""How a mistake is refused in Python."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from graphfsl.io.errors import InputError


@contextlib.contextmanager
def refused(*words: str) -> Iterator[None]:
    """An InputError of one line that holds these words."""
    with pytest.raises(InputError) as error:
        yield
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
