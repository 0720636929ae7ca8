"""Which methods export, and the table of docs/howto/export.md that says so.

python -m tests.support.exports    fills the page
"""

from __future__ import annotations

import functools
import re
from typing import Any

import torch

from graphfsl import testing
from graphfsl.apply.export.graphs import why_not_exported
from graphfsl.core import registry
from graphfsl.core.pipeline import Pipeline
from tests.support import ROOT
from tests.support.methods import METHODS

PAGE = ROOT / "docs" / "howto" / "export.md"
BLOCK = re.compile(r"(?<=<!-- exports -->\n).*?(?=<!-- end of exports -->)", re.DOTALL)
MAPS = (testing.DIM, 2, 2)  # of `testing.TinyEncoder`
LONGEST = 24  # a feature of maps; others are shorter
# A part's own training on base features is not what is tested.
SHORT: dict[str, dict[str, int]] = {
    "f_clswgan": {"steps": 2},
    "feature_diffusion": {"steps": 2},
    "prototype_vae": {"base_steps": 2},
}


@functools.cache
def exports() -> dict[tuple[str, str], tuple[Any, str]]:
    """(slot, name) -> a learner of images with this method, and why it does not export."""
    found = {}
    for slot, name in METHODS:
        if slot == "pretrain":
            continue
        learner: Any = testing.around(slot, name, options=SHORT.get(name)).eval()
        if isinstance(learner, Pipeline):
            learner.maps = MAPS
            fit(learner)
        found[slot, name] = learner, why_not_exported(learner)
    return found


def fit(learner: Pipeline) -> None:
    """Show base features to the parts that learn from them, where the learner may export."""
    if any(part.cannot_export for part in learner.parts):
        return
    if any(part.wants_base and not part.of_images for part in learner.parts):
        labels = torch.arange(4).repeat_interleave(8)
        learner.fit_base(torch.rand(len(labels), testing.DIM), labels)


def table() -> str:
    """The table of the page: methods that export, and why the others do not."""
    rows: dict[str, list[str]] = {}
    for (slot, name), (_, why) in exports().items():
        own = registry.get(slot, name).__name__
        rows.setdefault(why.removeprefix(f"{own} ") or "yes", []).append(f"`{name}`")
    lines = ["| exports | methods |", "|---|---|"]
    for why in sorted(rows, key=lambda why: (why != "yes", why)):
        answer = why if why == "yes" else f"no: {why}"
        lines.append(f"| {answer} | {', '.join(rows[why])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: table(), PAGE.read_text("utf-8")), "utf-8")
