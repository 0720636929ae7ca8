"""Numbers, p-values and tables look alike wherever people meet them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from graphfsl.core.task import Metric
from graphfsl.loops.progress_bar import training_bar
from graphfsl.loops.row import p_is, p_text
from graphfsl.report.html import html_table, words_first


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.0014, "0.001"), (0.0996, "0.100"), (0.34, "0.34")],
)
def test_p_values(p: float, text: str) -> None:
    assert p_text(p) == text
    assert p_is(p, "corrected p") == f"corrected p {text if text[0] == '<' else f'= {text}'}"


@pytest.mark.parametrize(
    ("metric", "shown"),
    [(None, "61.25%"), (Metric(lambda *_: None, "mm"), "0.6125mm")],  # type: ignore[arg-type]
)
def test_the_bar_shows_a_metric_as_tables_do(metric: Metric | None, shown: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    with training_bar(console, "training", 10, 2, "episodes", metric) as log:
        log({"step": 5, "loss": 0.5, "episodes_per_s": 3.0, "val": 0.61249})
    assert f"step 5: loss 0.500, validation {shown}" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_table_of_html() -> None:
    heads = ["class", "found"]
    made = "".join(html_table(heads, [["a", "1"], ["b", "2"]], words_first(heads, 1), ["new", ""]))
    assert made == (
        '<div class="scroll" tabindex="0"><table>'
        '<tr><th class="text">class</th><th>found</th></tr>'
        '<tr class="new"><td class="text">a</td><td>1</td></tr>'
        '<tr><td class="text">b</td><td>2</td></tr></table></div>'
    )
