"""The traits that parts declare and learners inherit, once: what is joined, what is reported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trait:
    """How a boolean trait of `Part` is passed on.

    Args:
        joined: a learner has it as soon as one of its parts has it.
        reported: it stands in each row of results, as a protocol or a reader may depend on it.
    """

    joined: bool
    reported: bool


# In the order in which they are listed; what each means stands beside its default in `Part`.
TRAITS = {
    "transductive": Trait(joined=False, reported=True),
    "per_query": Trait(joined=False, reported=False),
    "uses_unlabeled": Trait(joined=True, reported=True),
    "asks": Trait(joined=True, reported=True),
    "needs_balance": Trait(joined=True, reported=True),
    "needs_balanced_pool": Trait(joined=True, reported=True),
    "needs_nonnegative": Trait(joined=True, reported=True),
    "order_sensitive": Trait(joined=True, reported=False),
    "class_order_sensitive": Trait(joined=True, reported=False),
    "wants_maps": Trait(joined=False, reported=False),
    "wants_base": Trait(joined=True, reported=False),
    "uses_class_names": Trait(joined=True, reported=True),
}
JOINED = tuple(name for name, trait in TRAITS.items() if trait.joined)
REPORTED = tuple(name for name, trait in TRAITS.items() if trait.reported)
