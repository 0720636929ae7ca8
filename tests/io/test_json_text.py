"""JSON that people read: indented, each list of numbers on one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphfsl.io.checkpoint import json_text

NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBER | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_says_the_same(value: object) -> None:
    assert json.loads(json_text(value)) == value


def test_a_list_of_numbers_is_one_line() -> None:
    text = json_text(
        {
            "accuracies": [0.5, -1, 1e-7],
            "names": ["a", "b"],
            "text": "[\n1,\n2]",
            "spaces": "[  1,  2 ]",
        }
    )
    assert '"accuracies": [ 0.5, -1, 1e-07 ]' in text
    assert '"spaces": "[  1,  2 ]"' in text
    assert json.loads(text)["text"] == "[\n1,\n2]"


def test_numbers_that_json_has_not_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text([float("nan")])
