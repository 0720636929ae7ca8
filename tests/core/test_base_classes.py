"""What parts that learn from base classes share."""

from __future__ import annotations

import pytest

from graphfsl.core.base_classes import check_base
from graphfsl.io.errors import InputError
from graphfsl.testing import DIM
from tests.support.base_classes import base_features


def test_base_features_that_teach_nothing_are_refused() -> None:
    x, y, _ = base_features(classes=2)
    with pytest.raises(InputError, match="length 5, but base features have 6"):
        check_base(x, y, 5, 1, "this")
    with pytest.raises(InputError, match="needs 3 base classes or more, but there are 2"):
        check_base(x, y, DIM, 3, "this")
    x[4, 1] = float("nan")
    with pytest.raises(InputError, match="1 of 80 base features hold NaN or infinity"):
        check_base(x, y, DIM, 1, "this")
