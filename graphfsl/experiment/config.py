"""One YAML -> checked options -> built parts. Names instead of import paths; defaults only in
`__init__`.

data:          {name: omniglot, root: …, augment: {rotate: 10}, …}   options of the data set's
`load`
learner:       {encoder: conv4, head: {name: protonet, distance: cosine}, refine: [...], adapt: …}
episode:       fields of `Setting`, for validation and evaluation
train_episode: what differs while training
trainer:       options of `Trainer`
pretrain:      {objective: cross_entropy, trainer: {steps: 3000, …}}   fields of `Pretraining`:
before any episode
evaluation:    {episodes: 600, split: test, settings: [{way: 5, shot: 5}, …]}, each on top of
`episode` seed, seeds (how many runs, with seed, seed + 1, …), paper, published, deviations
"""

from __future__ import annotations

import hashlib
import io
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from graphfsl import data
from graphfsl.core.schema import check_options, make, signature
from graphfsl.data.sampler import Setting
from graphfsl.data.transforms import Transform
from graphfsl.experiment.builder import build_pretrainer, check_learner
from graphfsl.experiment.overrides import apply, parted, text_value
from graphfsl.io.errors import InputError, unknown
from graphfsl.io.files import read_regular
from graphfsl.io.limits import LARGEST
from graphfsl.io.package_data import find_experiment
from graphfsl.loops.trainer import Trainer
from graphfsl.nn.weights import file_digest

SECTIONS = (
    "data",
    "learner",
    "episode",
    "train_episode",
    "trainer",
    "pretrain",
    "evaluation",
    "seed",
    "seeds",
)
NOTES = ("paper", "published", "deviations")
MOST_VALUES = 100_000
LONGEST = 2**24  # bytes of a file
AUGMENT = ("rotate", "translate", "scale", "shear", "flip", "color")


@dataclass(frozen=True)
class Evaluation:
    """The options of the `evaluation` section.

    unbalanced: measure a learner that assumes as many queries, or unlabeled images, of every class
        on Dirichlet episodes, too.
    """

    episodes: int = 600
    split: str = "test"
    settings: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    seed: int = 0
    block: int | None = None
    unbalanced: bool = False

    def __post_init__(self) -> None:
        if self.episodes < 1 or (self.block is not None and self.block < 1):
            raise InputError(
                f"evaluation.episodes and block must be 1 or more, not "
                f"{self.episodes} and {self.block}"
            )
        if not self.settings:
            raise InputError(
                "evaluation.settings is empty; list at least one setting, or leave it out"
            )


@dataclass(frozen=True)
class Pretraining:
    """The options of the `pretrain` section.

    objective: a name of the slot `pretrain`, or a mapping with its options. generations: how often
        it is trained, each time with the one before as teacher (`distillation`). trainer: options
        of `Trainer`; its `batch` counts images, 128 where it is not given, and device, precision
        and logger are those of the run. augment: in place of data.augment.
    """

    objective: str | Mapping[str, Any]
    generations: int = 1
    trainer: Mapping[str, Any] = field(default_factory=dict)
    augment: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.generations < 1:
            raise InputError(f"pretrain.generations must be 1 or more, not {self.generations}")


def read(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """An experiment with checked overrides; one of `data.name` leaves behind what the file's own
    set alone takes.
    """
    config, given = load_yaml(find_experiment(path)), dict(map(parted, overrides))
    name = text_value(given.get("data.name", ""))
    if name in data.names() and isinstance(section := config.get("data"), Mapping):
        known = {*signature(data.loader(name)), "name", *OURS}
        config = {**config, "data": {k: v for k, v in section.items() if k in known}}
    return merge(config, overrides)


def load_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        text = read_regular(file, LONGEST).decode()
        size = _written_out(yaml.compose(text, yaml.SafeLoader), {})
        if size > MOST_VALUES:
            raise InputError(
                f"{file} stands for {size} values; an experiment file holds at most {MOST_VALUES}"
            )
        config = OmegaConf.load(io.StringIO(text))
        if not OmegaConf.is_dict(config):
            raise InputError(f"{file} must hold a mapping of sections")
        return OmegaConf.to_container(config)  # type: ignore[return-value]
    except InputError:
        raise
    # what is wrong with a file makes PyYAML and OmegaConf raise almost anything
    except Exception as error:
        raise InputError(f"{file} is not readable YAML: {_line(error)}") from None


def _written_out(node: Any, sizes: dict[int, int]) -> int:
    """How many values a YAML node stands for when each alias is written out: a file of a page can
    hold billions.
    """
    if id(node) not in sizes:
        sizes[id(node)] = 0  # for a node that holds itself
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [n for entry in inside for n in (entry if isinstance(entry, tuple) else [entry])]
        sizes[id(node)] = 1 + sum(_written_out(n, sizes) for n in parts)
    return sizes[id(node)]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def merge(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A configuration with `key=value` overrides on top, interpolations resolved and every key
    checked.

    A value is YAML; for an option of type text it is the text as it stands, see
    `overrides.text_value`.
    """
    for item in overrides:
        parted(item)
    try:
        tree = OmegaConf.create(dict(config))
        apply(tree, overrides, {"evaluation": Evaluation, "pretrain": Pretraining})
        result: dict[str, Any] = OmegaConf.to_container(tree, resolve=True)  # type: ignore[assignment]
    except Exception as error:  # as in `load_yaml`
        raise InputError(f"configuration: {_line(error)}") from None
    check(result)
    return result


def check(config: Mapping[str, Any]) -> None:
    """InputError, one line, for the first key or name that means nothing, or value of the wrong
    kind.
    """
    for key in config:
        if key not in (*SECTIONS, *NOTES):
            raise unknown("section", key, (*SECTIONS, *NOTES))
    for key in ("data", "learner"):
        if not isinstance(config.get(key), Mapping):
            raise InputError(
                f"the configuration needs a section {key!r}, such as {key}: {{{_EXAMPLE[key]}}}"
            )
    for key, least in (("seed", 0), ("seeds", 1)):
        value = config.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
            raise InputError(
                f"{key} must be a whole number of at least {least} and at most "
                f"2^53, not {value!r:.50}"
            )
    data_options(config["data"])
    settings = evaluation(config).settings
    for s in settings:
        setting(config, s)
    setting(config, config.get("train_episode"), "train_episode")
    make(Trainer, config.get("trainer") or {}, "trainer")
    _check_notes(config)
    check_learner(config["learner"])
    if (first := pretraining(config)) is not None:
        pretrainer(config)
        transform(pretraining_data(config))
        build_pretrainer(
            config["learner"].get("encoder"), first.objective, (3, 84, 84), 5, device="meta"
        )
    try:
        json.dumps(config, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the configuration must be of text, numbers, lists and mappings: {error}"
        ) from None


def _check_notes(config: Mapping[str, Any]) -> None:
    kinds = {
        "paper": Mapping[str, Any],
        "published": list[Mapping[str, Any]],
        "deviations": list[str],
    }
    given = {k: config[k] for k in NOTES if config.get(k) is not None}
    check_options({k: (kind, False) for k, kind in kinds.items()}, given, "configuration")
    known = {k: (kind, False) for k, (kind, _) in signature(Setting).items()}
    for entry in config.get("published") or []:
        own = {"accuracy": (float, True), "source": (str, False), "setting": (str, False)}
        check_options(known | own, entry, "published")


_EXAMPLE = {"data": "name: glyphs", "learner": "encoder: conv4, head: protonet"}


def setting(config: Mapping[str, Any], changes: Any = None, where: str = "episode") -> Setting:
    """The `episode` section with changes on top."""
    both: dict[str, Any] = {}
    for options in (config.get("episode"), changes):
        check_options(signature(Setting), options or {}, where)
        both |= options or {}
    return Setting(**both)


def evaluation(config: Mapping[str, Any]) -> Evaluation:
    return typing.cast(Evaluation, make(Evaluation, config.get("evaluation") or {}, "evaluation"))


def pretraining(config: Mapping[str, Any]) -> Pretraining | None:
    """The `pretrain` section; None where there is none."""
    section = config.get("pretrain")
    return (
        None
        if section is None
        else typing.cast(Pretraining, make(Pretraining, section, "pretrain"))
    )


SHARED = ("device", "precision", "logger")  # options of `trainer` that pretraining takes too


def pretrainer(config: Mapping[str, Any]) -> Trainer:
    """The trainer of the pretraining."""
    section = config["pretrain"].get("trainer") or {}
    for key in SHARED:
        if key in section:
            raise InputError(f"pretrain.trainer.{key} is that of the whole run; set trainer.{key}")
    run = {k: v for k, v in (config.get("trainer") or {}).items() if k in SHARED}
    return typing.cast(Trainer, make(Trainer, {"batch": 128, **section, **run}, "pretrain.trainer"))


def pretraining_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """The data section as pretraining sees it."""
    own = config["pretrain"].get("augment")
    return {**config["data"], **({"augment": own} if own is not None else {})}


# of the data section, not of its loader
OURS = ("base", "base_classes", "min_samples", "mean", "std", "augment")


def data_options(section: Mapping[str, Any]) -> dict[str, Any]:
    """The options for `data.load`; the rest of the section is about normalisation and
    augmentation.
    """
    options = {k: v for k, v in section.items() if k not in ("name", *OURS)}
    if "name" not in section:
        raise InputError(f"data needs a name, one of {', '.join(data.names())}")
    # A learner that was saved by itself has no data set, and answers without one.
    known = {} if section["name"] is None else signature(data.loader(section["name"]))
    known.pop("split", None)
    needs = dict(known) | {k: (v, False) for k, (v, _) in known.items() if k == "root"}
    check_options(needs | {k: (Any, False) for k in OURS}, options, "data")
    transform(section)
    base_split(section)
    for key, least in (("base_classes", 2), ("min_samples", 1)):
        n = section.get(key)
        if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < least):
            raise InputError(
                f"data.{key} must be a whole number of at least {least}, or be null, not {n!r:.50}"
            )
    return options


def rootless(section: Mapping[str, Any]) -> dict[str, Any]:
    """A data section without what says where the files come from."""
    return {k: v for k, v in section.items() if k not in ("root", "download")}


def load_split(section: Mapping[str, Any], split: str) -> data.Split:
    """One split of the configured data set; "trainval" is train and val together.

    data.min_samples leaves out the classes of fewer labeled samples, of every split, with a
    warning; data.base_classes leaves so many classes of the split that is trained on, the same ones
    in every run.
    """
    if section.get("name", "") is None:
        raise InputError(
            "this learner was saved without a data set; set data.name=…, and "
            "data.root=… where it has one"
        )
    options, few = data_options(section), section.get("base_classes")
    if split == "trainval":
        found = data.join(*(data.load(section["name"], s, **options) for s in ("train", "val")))
    else:
        found = data.load(section["name"], split, **options)
    if (least := section.get("min_samples")) is not None:
        found = data.large_classes(found, least)
    return found if few is None or split != base_split(section) else data.few_classes(found, few)


def base_split(section: Mapping[str, Any]) -> str:
    """The split that is trained on: "train", or "trainval" for a last training that nothing is
    selected in.
    """
    base: str = section.get("base", "train")
    if base not in ("train", "trainval"):
        raise unknown("data.base", base, ("train", "trainval"))
    return base


def transform(section: Mapping[str, Any]) -> Transform:
    """Normalisation and training augmentation as the data section names them."""
    augment = section.get("augment") or {}
    known = {k: v for k, v in signature(Transform).items() if k in AUGMENT}
    check_options(known, augment, "data.augment")
    check_options(
        signature(Transform), {k: section[k] for k in ("mean", "std") if k in section}, "data"
    )
    return Transform(section.get("mean"), section.get("std"), **augment)


def weights_of(config: Mapping[str, Any]) -> str | None:
    """A digest of the file that the encoder's weights come from; None where the configuration names
    none.
    """
    entry = config["learner"].get("encoder")
    file = entry.get("weights") if isinstance(entry, Mapping) else None
    return None if file is None else file_digest(file)


def digest(config: Mapping[str, Any]) -> str:
    """Eight characters that change with any option."""
    section = {k: v for k, v in config.get("data", {}).items() if k != "download"}
    plain = {**config, "data": section} if section else config
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
