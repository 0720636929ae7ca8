"""Which parts may share a pipeline.

One that would change nothing, though a results row lists it, is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import nn

from graphfsl.core.arguments import described
from graphfsl.io.errors import InputError, require


class Combines:
    """What a part declares of itself about others.

    A pipeline in which it would change nothing is refused.
    """

    # whose scores, of the part before it, a refiner depends on: all, those of the pool, or none
    reads: str = "all"
    changes: str = "all"  # whose scores a refiner changes: all, or those of queries
    # of a refiner: all it does is to ask the head again with label weights on the pool
    relabels: bool = False
    trusts_probabilities: bool = False  # of a refiner: those weights are the head's probabilities
    # of a head: its own probabilities as label weights leave it as it is
    fits_probabilities: bool = False
    compares_queries: bool = False  # of a refiner: a query alone it leaves as it is
    # of an augment part: it works on images, before the encoder, and `fit_base` shows it images
    of_images: bool = False


def parts_of(slot: str, given: Any) -> nn.ModuleList:
    """The modules that fill a slot, from one part or several.

    Raises:
        InputError: for a name, a class, or a part of another slot.
    """
    parts: list[Any] = [given] if isinstance(given, (nn.Module, str, type)) else list(given or [])
    for part in parts:
        _check_part(part, slot)
        if hasattr(part, "score"):
            raise InputError(
                f"{_name(part)} is a head, not a part for the slot {slot}; give it as head=…"
            )
    return nn.ModuleList(parts)


def checked_head(head: Any) -> Any:
    """Refuse what cannot be a head, or give it back.

    Raises:
        InputError: where there is none, or it gives no scores.
    """
    require(head is not None, "a pipeline needs a head; see `graphfsl methods`")
    _check_part(head, "head")
    require(
        hasattr(head, "score"),
        f"{_name(head)} is no head, as it has no `score`; give it to its own slot, such as refine",
    )
    return head


def _check_part(part: Any, slot: str) -> None:
    if isinstance(part, Combines):
        return
    if isinstance(part, type):
        hint = f"make one, such as {part.__name__}()"
    elif isinstance(part, str):
        hint = f"gf.build({{'{slot}': {part!r}, …}}, shape, way) builds parts by their names"
    else:
        hint = f"`graphfsl methods {slot}` lists them"
    raise InputError(f"the slot {slot} takes parts of graphfsl, not {described(part)}; {hint}")


def check_parts(
    augment: Sequence[Any], graph: Sequence[Any], head: Any, refine: Sequence[Any]
) -> None:
    """Refuse parts that do not work together in a pipeline.

    Raises:
        InputError: where parts read different features, or one discards what another does.
    """
    _check_features([*augment, *graph, head, *refine])
    if idle := [part for part in (*augment, *refine) if part.answers != head.answers]:
        raise InputError(
            f"{_name(idle[0])} works on {idle[0].answers}, but {_name(head)} answers with "
            f"{head.answers}: leave it out, or take another head"
        )
    for earlier, later in itertools.pairwise(refine):
        silent = later.reads == "none" or not later.reads_scores
        if silent or (later.reads == "pool" and earlier.changes == "queries"):
            a, b = _name(earlier), _name(later)
            raise InputError(
                f"{b} would discard what {a} before it does, as it does not read the scores of "
                f"{'other parts' if silent else 'queries'}: leave one of them out, or put {b} first"
            )
    # images that a part generates are seen by the inner loop that such a head needs
    of_features = [part for part in augment if not part.of_images]
    if not head.reads_support and (idle := [*of_features, *(r for r in refine if r.relabels)]):
        names = ", ".join(_name(part) for part in idle)
        raise InputError(
            f"{_name(head)} does not read label weights, so that {names} would change nothing: "
            f"leave it out"
        )
    if head.fits_probabilities and (idle := [r for r in refine if r.trusts_probabilities]):
        raise InputError(
            f"{_name(head)} fits the probabilities that {_name(idle[0])} would give it as labels "
            f"already, so that it "
            f"would change nothing: take another refiner, such as pseudo_label, or another head"
        )


def check_acquire(acquire: Sequence[Any], head: Any) -> None:
    """Refuse rules that ask for labels where these would change nothing, or would be no classes.

    Raises:
        InputError: names the part.
    """
    if not acquire:
        return
    require(
        len(acquire) == 1,
        "the slot acquire takes one rule, by which all labels are asked for, not "
        f"{len(acquire)}: leave out {', '.join(map(_name, acquire[1:]))}",
    )
    require(
        head.answers == acquire[0].answers,
        f"{_name(acquire[0])} asks for {acquire[0].answers}, but {_name(head)} answers with "
        f"{head.answers}: leave it out, or take another head",
    )
    require(
        head.reads_support,
        f"{_name(head)} does not read label weights, so that those which {_name(acquire[0])} asks "
        "for would change nothing: leave it out",
    )


def check_drawn(augment: Sequence[Any], shots: int | None, head: Any) -> None:
    """Refuse generated images where the number of support images is fixed.

    Raises:
        InputError: names the part.
    """
    if shots is not None and (drawing := [part for part in augment if part.of_images]):
        raise InputError(
            f"{_name(head)} is tied to {shots}-shot episodes, so that it cannot take the images "
            f"that {_name(drawing[0])} adds: leave it out, or take another head"
        )


def check_company(parts: Sequence[Any], per_query: bool) -> None:
    """Refuse a part that only compares queries where these are answered alone.

    Raises:
        InputError: names it.
    """
    if per_query and (idle := [part for part in parts if part.compares_queries]):
        asking = ", ".join(_name(part) for part in parts if part.per_query)
        why = f"{asking} answers every query alone" if asking else "per_query=true"
        raise InputError(
            f"{_name(idle[0])} compares queries, but {why}, so that it would change "
            f"nothing: leave it out"
        )


def _check_features(parts: Sequence[Any]) -> None:
    wants = {_name(part): part.wants_maps for part in parts if part.wants_maps is not None}
    if len(set(wants.values())) > 1:
        maps = ", ".join(name for name, yes in wants.items() if yes)
        vectors = ", ".join(name for name, yes in wants.items() if not yes)
        raise InputError(
            f"{maps} read feature maps but {vectors} read vectors: they cannot share a pipeline"
        )


def _name(part: Any) -> str:
    return type(part).__name__
