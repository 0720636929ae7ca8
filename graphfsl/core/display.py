"""What a value is, on a screen of 24 lines of 80 columns: the `repr` of data and learners."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

WIDTH = 79
PLAIN = (bool, int, float, str, type(None), list, tuple)
# Where a learner holds its parts.
SLOTS = (
    "encoder",
    "augment",
    "graph",
    "acquire",
    "head",
    "refine",
    "novelty",
    "objective",
    "rule",
    "net",
)
MOST_PARTS = 8
MOST_LINES = 5  # of a call
TOLD = ("way", "per_query", "batch_norm")  # of a learner, in lines of their own


def block(title: str, facts: Mapping[str, object]) -> str:
    """A title and a line for each fact that there is, none wider than a screen."""
    width = max(map(len, facts), default=0)
    lines = [
        title,
        *(
            f"  {name:<{width}}  {value}"
            for name, value in facts.items()
            if value not in (None, "")
        ),
    ]
    return "\n".join(cut(line) for line in lines)


def cut(line: str, width: int = WIDTH) -> str:
    """One line of at most `width` columns."""
    line = line.replace("\n", " ")
    return line if len(line) <= width else f"{line[: width - 1]}…"


def first_of(names: Sequence[object], most: int = 5) -> str:
    """How many there are, and the first of them: "20: a, b, c, d, e, …"."""
    return (f"{len(names):,}: {', '.join(map(str, names[:most]))}") + (
        ", …" if len(names) > most else ""
    )


def kind_of(x: Any, shape: Sequence[int] | None = None) -> str:
    """The type and shape of a tensor or an array, and where a tensor lies.

    Args:
        x: the tensor or array.
        shape: to be named in place of its own.
    """
    where = f" on {x.device}" if isinstance(x, Tensor) else ""
    return (
        f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape if shape is None else shape)}{where}"
    )


def call_of(value: Any, always: Sequence[str] = (), never: Sequence[str] = ()) -> str:
    """The call that makes a value: its class and options.

    Left out are options that are as they are by default, unless they are `always` told, and those
    `never` told.
    """
    options = []
    for name, parameter in inspect.signature(type(value).__init__).parameters.items():
        own, default = getattr(value, name, parameter.default), parameter.default
        as_it_is = type(own) is type(default) and own == default
        if (
            name not in ("self", *never)
            and isinstance(own, PLAIN)
            and (name in always or not as_it_is)
        ):
            options.append(f"{name}={own!r}")
    return cut(f"{type(value).__name__}({', '.join(options)})", MOST_LINES * WIDTH)


class Shown:
    """How a part is shown: in one line, or a learner with a line for each of its parts.

    `torch.nn.Module.__repr__(part)` shows every layer.
    """

    def __repr__(self: Any) -> str:
        inside = list(_inside(self))
        if not inside:
            return _line(self)
        traits = ["transductive" if self.transductive else "inductive"]
        traits += ["each query alone"] if self.per_query else []
        traits += ["takes unlabeled nodes"] if self.uses_unlabeled else []
        left = f", and {len(inside) - MOST_PARTS} more" if len(inside) > MOST_PARTS else ""
        facts = {"parts": f"{len(inside)}{left}"} if left else {}
        facts |= {"tied to": f"{self.way} classes"} if self.way is not None else {}
        facts |= {
            "answers": ", ".join(traits),
            "BatchNorm": f"statistics by the policy `{self.batch_norm}`",
        }
        return "\n".join(
            [_line(self), *map(_indented, inside[:MOST_PARTS]), *block("", facts).splitlines()[1:]]
        )


def _inside(part: Any) -> Iterator[tuple[str, Any]]:
    """(slot, part) of what a learner is made of."""
    for slot in SLOTS:
        held = getattr(part, slot, None)
        for one in held if isinstance(held, nn.ModuleList) else [held]:
            # of a learner within a learner
            parts = list(_inside(one)) if isinstance(one, Shown) else []
            if parts:
                yield from parts
            elif isinstance(one, nn.Module) and not isinstance(one, nn.Identity):
                yield slot, one


def _indented(entry: tuple[str, Any]) -> str:
    slot, part = entry
    return cut(f"  {slot:<9}  {_line(part)}")


def _line(part: Any) -> str:
    """A part in one line: its options, and how many parameters it has, and where."""
    name = call_of(part, never=TOLD) if isinstance(part, Shown) else type(part).__name__
    parameters = list(part.parameters())
    if not parameters:
        return cut(name)
    count = sum(p.numel() for p in parameters if not nn.parameter.is_lazy(p))
    learns = "" if any(p.requires_grad for p in parameters) else ", frozen"
    told = f"{count:,} parameters{learns} on {parameters[0].device}"
    return f"{cut(name, WIDTH - len(told) - 15)}: {told}"
