"""What tasks share that ask for a way, a shot and a number of queries, and for something more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphfsl.core.arguments import whole_number
from graphfsl.core.task import Caption, Task
from graphfsl.data.split import Split
from graphfsl.data.tasks._class_sampler import Draw
from graphfsl.data.tasks.classes import Setting


@dataclass(frozen=True)
class PlainClasses(Task):
    """Episodes of classes that are all of one size; a subclass adds what is asked beside.

    Args:
        way: classes of an episode.
        shot: labeled samples of each.
        query: queries of each.
    """

    always_shown: ClassVar[tuple[str, ...]] = ("way", "shot", "query")
    shared: ClassVar = {"query": " queries per class"}
    curves: ClassVar = {"shot": ("shots", "labeled samples per class")}
    captions: ClassVar = {
        "way": Caption("{}-way", always=True),
        "shot": Caption("{}-shot"),
        "query": Caption("{} queries per class"),
    }
    draw_type: ClassVar = Draw

    way: int = 5
    shot: int = 1
    query: int = 15

    def __post_init__(self) -> None:
        for name, least in (("way", 2), ("shot", 1), ("query", 1)):
            number = whole_number(getattr(self, name), f"episode.{name}", least)
            object.__setattr__(self, name, number)

    def __str__(self) -> str:
        """In words: "5-way 1-shot, 5 queries of a class", and what it asks beside."""
        return ", ".join([self.title, f"{self.query} queries of a class", *self.details])

    @property
    def title(self) -> str:
        """Its name for people: "5-way 1-shot"."""
        return f"{self.way}-way {self.shot}-shot"

    @property
    def plain(self) -> Setting:
        """The episodes of classes that they are without what is asked beside."""
        return Setting(way=self.way, shot=self.shot, query=self.query)

    def check_draw(self, draw: Any, split: Split) -> None:
        """Refuse a list that contradicts itself or the labels of the split.

        Raises:
            ValueError: says how.
        """
        self.plain.check_draw(draw, split)
