"""One YAML -> checked options -> built parts. Names instead of import paths; defaults only in `__init__`.

data:          {name: omniglot, root: …, augment: {rotate: 10}, …}   options of the data set's `load`
learner:       {encoder: conv4, head: {name: protonet, distance: cosine}, refine: [...], adapt: …}
episode:       fields of `Setting`, for validation and evaluation
train_episode: what differs while training
trainer:       options of `Trainer`
evaluation:    {episodes: 600, split: test, settings: [{way: 5, shot: 5}, …]}, each on top of `episode`
seed, paper, published, deviations
"""

from __future__ import annotations

import hashlib
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from yaml import YAMLError

from graphfsl import data, registry
from graphfsl.data.sampler import Setting
from graphfsl.data.transforms import Transform
from graphfsl.errors import InputError, unknown
from graphfsl.learner import Learner, Pipeline
from graphfsl.nn import ENCODERS
from graphfsl.resources import experiments_dir
from graphfsl.train import Trainer

SECTIONS = ("data", "learner", "episode", "train_episode", "trainer", "evaluation", "seed")
NOTES = ("paper", "published", "deviations")
SLOTS = {"augment": "augment", "graph": "graph", "head": "heads", "refine": "refine"}
AUGMENT = ("rotate", "translate", "scale", "shear", "flip", "color")


@dataclass(frozen=True)
class Evaluation:
    """The options of the `evaluation` section."""

    episodes: int = 600
    split: str = "test"
    settings: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    seed: int = 0
    block: int | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1 or (self.block is not None and self.block < 1):
            raise InputError(f"evaluation.episodes and block must be 1 or more, not {self.episodes} and {self.block}")


def read(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The experiment file (a path, or one below experiments/) with `key=value` overrides, checked."""
    file = Path(path)
    if not file.is_file():
        shipped = experiments_dir() / str(path).removeprefix("experiments/")
        if not shipped.is_file():
            known = [p.relative_to(experiments_dir()).as_posix() for p in experiments_dir().rglob("*.yaml")]
            raise unknown("experiment file", str(path), known)
        file = shipped
    try:
        config = OmegaConf.load(file)
        if not OmegaConf.is_dict(config):
            raise InputError(f"{file} must hold a mapping with the sections {', '.join(SECTIONS)}")
        return merge(OmegaConf.to_container(config), overrides)  # type: ignore[arg-type]
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{file}: {' '.join(str(error).split())}") from None


def merge(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A configuration with `key=value` overrides on top, interpolations resolved and every key checked."""
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals or not key:
            raise InputError(f"override {item!r} is not of the form key=value, such as episode.way=20")
    try:
        tree = OmegaConf.create(dict(config))
        for item in overrides:
            key, _, value = item.partition("=")
            parent = OmegaConf.select(tree, key.rpartition(".")[0]) if "." in key else tree
            if isinstance(parent, str):  # head: protonet  +  learner.head.distance=cosine
                OmegaConf.update(tree, key.rpartition(".")[0], {"name": parent}, merge=False)
            OmegaConf.update(tree, key, OmegaConf.from_dotlist([f"v={value}"]).v, merge=False, force_add=True)
        result: dict[str, Any] = OmegaConf.to_container(tree, resolve=True)  # type: ignore[assignment]
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        raise InputError(f"configuration: {' '.join(str(error).split())}") from None
    check(result)
    return result


def check(config: Mapping[str, Any]) -> None:
    """InputError, one line, for the first key or name that means nothing, or value of the wrong kind."""
    for key in config:
        if key not in (*SECTIONS, *NOTES):
            raise unknown("section", key, (*SECTIONS, *NOTES))
    for key in ("data", "learner"):
        if not isinstance(config.get(key), Mapping):
            raise InputError(f"the configuration needs a section {key!r}, such as {key}: {{{_EXAMPLE[key]}}}")
    if not isinstance(config.get("seed", 0), int):
        raise InputError(f"seed must be a whole number, not {config['seed']!r}")
    data_options(config["data"])
    settings = evaluation(config).settings
    for s in settings:
        setting(config, s)
    setting(config, config.get("train_episode"), "train_episode")
    make(Trainer, config.get("trainer") or {}, "trainer")
    learner_options(config["learner"])


_EXAMPLE = {"data": "name: glyphs", "learner": "encoder: conv4, head: protonet"}


def make(cls: Callable[..., Any], options: Mapping[str, Any], where: str, **given: Any) -> Any:
    """cls(**options, **given), after each option was checked against the signature; InputError names the key."""
    parameters = signature(cls)
    check_options(parameters, options, where, given)
    return cls(**options, **{k: v for k, v in given.items() if k in parameters and k not in options})


def signature(cls: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    """name -> (type, required) of what can be configured."""
    function = cls.__init__ if isinstance(cls, type) else cls  # type: ignore[misc]
    hints = typing.get_type_hints(function)
    parameters = list(inspect.signature(function).parameters.values())[1 if isinstance(cls, type) else 0 :]
    options = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return {p.name: (hints.get(p.name, Any), p.default is p.empty) for p in options}


def check_options(
    parameters: Mapping[str, tuple[Any, bool]], options: Any, where: str, given: Mapping[str, Any] | None = None
) -> None:
    if not isinstance(options, Mapping):
        raise InputError(f"{where} must be a mapping of options, not {options!r}")
    for key, value in options.items():
        if key not in parameters:
            raise unknown(f"option of {where}", key, parameters)
        if not _fits(value, parameters[key][0]):
            kind = getattr(parameters[key][0], "__name__", str(parameters[key][0]))
            raise InputError(f"{where}.{key} must be {kind}, not {value!r}")
    for key, (_, required) in parameters.items():
        if required and key not in options and key not in (given or {}):
            raise InputError(f"{where} needs {key!r}")


def _fits(value: Any, kind: Any) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in args)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (str, bool, type(None)):
        return isinstance(value, kind)
    if origin in (list, tuple, Sequence) or (origin is not None and issubclass(origin, Sequence)):
        return isinstance(value, (list, tuple)) and all(_fits(v, args[0]) for v in value if args)
    return True


def setting(config: Mapping[str, Any], changes: Any = None, where: str = "episode") -> Setting:
    """The `episode` section with changes on top."""
    both: dict[str, Any] = {}
    for options in (config.get("episode"), changes):
        check_options(signature(Setting), options or {}, where)
        both |= options or {}
    return Setting(**both)


def evaluation(config: Mapping[str, Any]) -> Evaluation:
    return typing.cast(Evaluation, make(Evaluation, config.get("evaluation") or {}, "evaluation"))


def data_options(section: Mapping[str, Any]) -> dict[str, Any]:
    """The options for `data.load`; the rest of the section is about normalisation and augmentation."""
    options = {k: v for k, v in section.items() if k not in ("name", "base", "mean", "std", "augment")}
    if "name" not in section:
        raise InputError(f"data needs a name, one of {', '.join(data.names())}")
    known = signature(data.loader(section["name"]))
    known.pop("split", None)
    needs = dict(known) | {k: (v, False) for k, (v, _) in known.items() if k == "root"}
    check_options(needs | {k: (Any, False) for k in ("base", "mean", "std", "augment")}, options, "data")
    transform(section)
    base_split(section)
    return options


def load_split(section: Mapping[str, Any], split: str) -> data.Split:
    """One split of the configured data set; "trainval" is train and val together."""
    options = data_options(section)
    if split == "trainval":
        return data.join(*(data.load(section["name"], s, **options) for s in ("train", "val")))
    return data.load(section["name"], split, **options)


def base_split(section: Mapping[str, Any]) -> str:
    """The split that is trained on: "train", or "trainval" for a last training that nothing is selected in."""
    base: str = section.get("base", "train")
    if base not in ("train", "trainval"):
        raise unknown("data.base", base, ("train", "trainval"))
    return base


def transform(section: Mapping[str, Any]) -> Transform:
    """Normalisation and training augmentation as the data section names them."""
    augment = section.get("augment") or {}
    known = {k: v for k, v in signature(Transform).items() if k in AUGMENT}
    check_options(known, augment, "data.augment")
    check_options(signature(Transform), {k: section[k] for k in ("mean", "std") if k in section}, "data")
    return Transform(section.get("mean"), section.get("std"), **augment)


def named(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    """ "protonet", or {name: protonet, distance: cosine}."""
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise InputError(f"{where} must be a name or a mapping with a name, not {value!r}")
    return value["name"], {k: v for k, v in value.items() if k != "name"}


def learner_options(section: Mapping[str, Any]) -> None:
    known = ("encoder", *SLOTS, "adapt", "per_query", "batch_norm")
    for key in section:
        if key not in known:
            raise unknown("slot of learner", key, known)
    build(section, (1, 28, 28), 5, device="meta")


def build(section: Mapping[str, Any], shape: Sequence[int], way: int, device: str | None = None) -> Learner:
    """The configured learner for samples of this shape; parts that ask for `dim` or `way` in `__init__` get them.

    device: "meta" builds without memory or time, to check a configuration.
    """
    with torch.device(device or "cpu"):
        encoder, dim = _encoder(section.get("encoder"), shape)
        parts: dict[str, Any] = {}
        for slot, folder in SLOTS.items():
            value = section.get(slot)
            entries = value if isinstance(value, (list, tuple)) else [value] if value is not None else []
            built = []
            for entry in entries:
                name, options = named(entry, f"learner.{slot}")
                part = make(registry.get(folder, name), options, f"learner.{slot}", dim=dim, way=way)
                dim = getattr(part, "out_dim", dim)
                built.append(part)
            parts[slot] = built or None
        if parts["head"] is None:
            raise InputError(f"learner needs a head, one of {', '.join(registry.names('heads'))}")
        if len(parts["head"]) > 1:
            raise InputError("learner.head takes one part, not a list")
        parts["head"] = parts["head"][0]
        for key in ("per_query", "batch_norm"):
            if section.get(key) is not None:
                parts[key] = section[key]
        learner: Learner = make(Pipeline, {}, "learner", encoder=encoder, **parts)
        if section.get("adapt") is not None:
            name, options = named(section["adapt"], "learner.adapt")
            learner = make(registry.get("adapt", name), options, "learner.adapt", net=learner)
            if section.get("batch_norm") is not None:
                learner.set_batch_norm(section["batch_norm"])  # type: ignore[operator]
        elif not learner.reads_support:
            raise InputError("this head does not read the support; set learner.adapt, such as learner.adapt=maml")
    return learner


def _encoder(value: Any, shape: Sequence[int]) -> tuple[nn.Module | None, int]:
    """The encoder and the length of its vectors, found by a run on the meta device."""
    if len(shape) == 1:
        if value is not None:
            raise InputError("the samples are features already; set learner.encoder=null")
        return None, shape[0]
    name, options = named(value if value is not None else "pixels", "learner.encoder")
    if name == "pixels":
        return nn.Flatten(), int(torch.Size(shape).numel())
    if name not in ENCODERS:
        raise unknown("encoder", name, [*ENCODERS, "pixels"])
    encoder = make(ENCODERS[name], options, "learner.encoder", in_channels=shape[0])
    with torch.device("meta"), torch.no_grad():
        probe = make(ENCODERS[name], options, "learner.encoder", in_channels=shape[0]).eval()
        maps = probe(torch.empty(1, *shape))
        out = probe.readout(maps) if hasattr(probe, "readout") and maps.ndim > 2 else maps.flatten(1)
    if out.numel() == 0:
        raise InputError(f"images of {shape[1]} x {shape[2]} are too small for encoder {name!r}")
    return encoder, out.shape[1]


def digest(config: Mapping[str, Any]) -> str:
    """Eight characters that change with any option."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
