"""The class lists of published data sets."""

from __future__ import annotations

import itertools

import pytest

from graphfsl import data
from graphfsl.data.class_lists import classes_of
from graphfsl.io.package_data import class_list
from tests.support.refusal import refused
from tests.support.set_files import SPLITS

SETS = ("cifar_fs", "fc100", "mini_imagenet", "tiered_imagenet", "cub")


@pytest.mark.parametrize(
    ("name", "classes", "groups"),
    [
        ("cifar_fs", (64, 16, 20), None),
        ("fc100", (60, 20, 20), (12, 4, 4)),
        ("mini_imagenet", (64, 16, 20), None),
        ("tiered_imagenet", (351, 97, 160), (20, 6, 8)),
        ("cub", (100, 50, 50), None),
    ],
)
def test_lists_have_the_published_sizes(
    name: str, classes: tuple[int, ...], groups: tuple[int, ...] | None
) -> None:
    parts = [classes_of(name, split) for split in SPLITS]
    assert tuple(len(own) for own, _ in parts) == classes
    assert len({c for own, _ in parts for c in own}) == sum(classes), "splits share a class"
    if groups is None:
        assert all(supers is None for _, supers in parts)
        return
    assert tuple(len(set(supers or ())) for _, supers in parts) == groups
    assert len({g for _, supers in parts for g in supers or ()}) == sum(groups), (
        "splits share a superclass"
    )
    with refused("unknown split 'valid'", "did you mean 'val'"):
        classes_of(name, "valid")


def test_cifar100_superclasses_agree_with_the_two_lists() -> None:
    supers = {g: classes for split in class_list("fc100").values() for g, classes in split.items()}
    assert len(supers) == 20 and all(len(classes) == 5 for classes in supers.values())
    of = {c: g for g, classes in supers.items() for c in classes}
    lists = class_list("cifar_fs")
    assert set(of) == {c for split in SPLITS for c in lists[split]} and len(of) == 100
    # CIFAR-FS's own list, made by others, runs through its classes superclass by superclass.
    for split in SPLITS:
        runs = [group for group, _ in itertools.groupby(lists[split], of.__getitem__)]
        assert len(runs) == len(set(runs))


def test_every_set_says_what_it_is_and_where_it_comes_from() -> None:
    for name in SETS:
        assert name in data.names()
        assert "https://" in data.about(name) and "train, val and test" in data.about(name)


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("cifar_fs", "Bertinetto et al. 2019"),
        ("cub", "Chen et al. 2019"),
        ("fc100", "Oreshkin et al. 2018"),
        ("mini_imagenet", "Ravi & Larochelle 2017"),
        ("omniglot", "Lake et al. 2015"),
        ("sinusoid", "Finn, Abbeel, Levine 2017"),
        ("tiered_imagenet", "Ren et al. 2018"),
    ],
)
def test_every_published_set_says_whose_it_is(name: str, whose: str) -> None:
    assert whose in data.about(name)


def test_what_a_set_is_ends_before_its_tables_and_equations() -> None:
    assert data.about("glyphs").endswith("nothing is downloaded.")
    assert data.about("sinusoid").endswith("section 5.1")
