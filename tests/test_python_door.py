"""What is called from Python takes lists, arrays and text where their meaning is clear, and else
says what would do.
"""
# mypy: disable-error-code="arg-type, list-item"

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import graphfsl as gf
from graphfsl.apply.explain.attributions import explain
from graphfsl.apply.explain.explain_run import write_explanation
from graphfsl.apply.label.label_folder import label
from graphfsl.apply.label.label_pool import label_pool
from graphfsl.apply.predict import Prediction, Predictor
from graphfsl.core import registry
from graphfsl.core.rules import GradientDescent
from graphfsl.data import few_classes, from_dataset, join
from graphfsl.data.images import Files, read_images
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.run import Run
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.soft_kmeans import SoftKmeans

X = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
Y = np.arange(60) % 6
NAMES = tuple("abcdef")


def refused(*words: str) -> AbstractContextManager[Any]:
    """One line with these words, in this order."""
    return pytest.raises(
        InputError, match="^[^\n]*" + "[^\n]*".join(map(re.escape, words)) + "[^\n]*$"
    )


def split(
    x: Any = X, y: Any = Y, classes: Any = NAMES, name: Any = "my/test", **options: Any
) -> gf.Split:
    return gf.Split(x, y, classes, name, **options)


def learner(way: int = 3, head: str = "protonet") -> gf.Learner:
    return gf.build({"head": head}, (8,), way)


def episodes(**options: Any) -> gf.Episodes:
    return gf.Episodes(split(), way=3, query=2, **options)


def frame(values: Any) -> Any:
    return pytest.importorskip("pandas").DataFrame(values)


# ---- what works ----


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y),
        (X.tolist(), Y.tolist()),
        (list(X), tuple(Y)),
        (list(torch.from_numpy(X)), list(torch.from_numpy(Y))),
        (X[::-1][::-1], Y.astype(np.uint8)),
        (torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y).to(torch.int16)),
    ],
    ids=["arrays", "lists", "lists of arrays", "lists of tensors", "views", "other types"],
)
def test_a_split_of_whatever_holds_numbers(x: Any, y: Any) -> None:
    found = split(x, y, list(NAMES), groups=list("aabbcc"))
    assert torch.equal(found.x.float(), torch.from_numpy(X)) and not found.x.requires_grad
    assert found.y.dtype == torch.int64 and found.y.tolist() == Y.tolist()
    assert found.classes == NAMES and found.groups == tuple("aabbcc")


def test_a_split_of_a_data_frame() -> None:
    assert split(frame(X), frame(Y)[0]).y.tolist() == Y.tolist()


def test_whole_numbers_of_any_type() -> None:
    setting = gf.Setting(
        way=np.int64(3), shot=torch.tensor(1), query=np.uint8(2), labeled_fraction=np.float32(0.5)
    )
    assert (
        type(setting.way) is int
        and type(setting.shot) is int
        and type(setting.labeled_fraction) is float
    )
    assert gf.Trainer(steps=np.int64(2), lr=np.float32(0.1)).steps == 2
    ids = episodes(seed=np.int64(3)).batch(torch.tensor([0, 1]))[1].ids
    assert torch.equal(ids, episodes(seed=3).batch([0, 1])[1].ids)


def test_a_setting_as_a_mapping_or_as_keywords() -> None:
    for found in (
        gf.Episodes(split(), {"way": 3, "query": 2}),
        gf.Episodes(split(), gf.Setting(way=3, query=2)),
    ):
        assert found.task == episodes().task
    result = gf.evaluate(learner(), split(), {"way": 3, "query": 2}, episodes=5)
    assert torch.equal(
        result.accuracies, gf.evaluate(learner(), split(), way=3, query=2, episodes=5).accuracies
    )


def test_an_episode_of_lists_and_arrays() -> None:
    x, w = np.random.default_rng(0).normal(size=(2, 10, 8)), np.zeros((2, 10, 3))
    w[:, :3] = np.eye(3)
    made = gf.Episode(torch.from_numpy(x), torch.from_numpy(w), 3, 7)
    for own in (
        gf.Episode(x, w, np.int64(3), torch.tensor(7)),
        gf.Episode(x.tolist(), w.tolist(), 3, 7),
        gf.Episode(torch.from_numpy(x), w.astype(np.float32), 3, 7),
        gf.Episode(x, w.astype(bool), 3, 7, np.ones((2, 10))),
    ):
        assert torch.allclose(ProtoNet()(own).double(), ProtoNet()(made), atol=1e-4)
        assert (
            own.w.dtype == own.x.dtype
            and own.mask.dtype == torch.bool
            and isinstance(own.n_support, int)
        )
    target = gf.Target([[0]], [[]], [[1]], np.zeros((1, 1), np.int32))
    assert {v.dtype for v in target.tensors.values()} == {torch.int64}


@pytest.mark.parametrize(
    "kind", [list, torch.tensor, lambda a: frame(a).squeeze(1)], ids=["lists", "tensors", "pandas"]
)
def test_a_pool_of_whatever_holds_numbers(kind: Callable[[Any], Any]) -> None:
    given = X, np.array([0, 1, 6, 7]), np.array([0, 1, 0, 1])
    x, *columns = map(kind, given)
    found, plain = (
        label_pool(x, *(c.squeeze(1) if kind is frame else c for c in columns)),
        label_pool(*given),
    )
    assert np.array_equal(found.label, plain.label) and np.array_equal(found.score, plain.score)


def test_a_run_by_its_path_as_text(tmp_path: Path) -> None:
    trainer = gf.Trainer(steps=2, device="cpu", checkpoint_every=1)
    trainer.fit(learner(head="gnn"), episodes(), run=str(tmp_path / "run"))
    assert (tmp_path / "run" / "last.safetensors").is_file()
    with refused("config.json not found"):
        write_explanation(str(tmp_path / "run"))
    with refused("labels.csv"):
        label(str(tmp_path), str(tmp_path / "labels.csv"), str(tmp_path / "out"))


# ---- what is said ----

LATE: Any = np.zeros((60, 28, 28, 3), np.uint8)
SPLITS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "fewer labels": ({"y": Y[:41]}, ("60 samples but 41 labels",)),
    "labels that are floats": (
        {"y": Y.astype(float)},
        ("labels must be whole numbers", "float64 (60,)"),
    ),
    "labels that are text": ({"y": [NAMES[i] for i in Y]}, ("whole numbers", "np.unique")),
    "labels of two axes": ({"y": Y[:, None]}, ("single row", "(60, 1)")),
    "labels out of range": ({"y": Y - 2}, ("must lie in -1..5", "not in -2..3")),
    "no labels": ({"y": None}, ("labels", "not None")),
    "rows of two lengths": ({"x": [[1.0, 2.0], [1.0]] * 30}, ("equally long", "a list of 60")),
    "objects": ({"x": X.astype(object)}, ("samples must be a tensor",)),
    "channels last": ({"x": LATE}, ("channels stand last", "permute")),
    "gray images": ({"x": LATE[..., 0]}, ("axis of channels",)),
    "images of floats": ({"x": LATE / 255.0}, ("images are bytes", "255")),
    "features of whole numbers": ({"x": Y[:, None]}, ("features are floats",)),
    "one text for all classes": (
        {"classes": "abcdef"},
        ("classes must be a list of names", "'abcdef'"),
    ),
    "a number of classes": ({"classes": 6}, ("classes must be a list of names",)),
    "fewer groups": ({"groups": ["a"]}, ("6 classes but 1 groups",)),
    "no name": ({"name": None}, ("the name of a split",)),
}


@pytest.mark.parametrize("case", SPLITS)
def test_what_is_wrong_with_a_split_is_said(case: str) -> None:
    options, words = SPLITS[case]
    with refused(*words):
        split(**options)


def fit(*args: Any, **options: Any) -> Any:
    return gf.Trainer(steps=1, device="cpu").fit(*args, **options)


W = torch.zeros(2, 10, 3)
T = torch.zeros(2, 10, 8)
DOORS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "evaluate a name": (
        lambda: gf.evaluate(learner(), "glyphs"),
        ("must be a Split", "gf.load_data", "'glyphs'"),
    ),
    "evaluate a run's name": (
        lambda: gf.evaluate("runs/x", split()),
        ("must be a Learner", "gf.load(RUN)"),
    ),
    "evaluate a module": (
        lambda: gf.evaluate(torch.nn.Linear(2, 2), split()),
        ("must be a Learner", "a Linear"),
    ),
    "evaluate episodes": (lambda: gf.evaluate(learner(), episodes()), ("must be a Split",)),
    "evaluate a typo": (
        lambda: gf.evaluate(learner(), split(), ways=5),
        ("'ways'", "did you mean 'way'"),
    ),
    "evaluate a number": (
        lambda: gf.evaluate(learner(), split(), 5),
        ("gf.Setting(way=5)", "not 5"),
    ),
    "evaluate text": (
        lambda: gf.evaluate(learner(), split(), episodes="10"),
        ("whole number", "'10'"),
    ),
    "evaluate for ever": (
        lambda: gf.evaluate(learner(), split(), way=3, query=2, episodes=10**24),
        ("1,000,000,000", "bytes of memory"),
    ),
    "evaluate nowhere": (
        lambda: gf.evaluate(learner(), split(), way=3, device="gpu"),
        ("cpu, cuda", "'gpu'"),
    ),
    "evaluate by a function": (
        lambda: gf.evaluate(learner(), split(), transform=len),
        ("gf.Transform",),
    ),
    "evaluate other features": (
        lambda: gf.evaluate(gf.build({"head": "gnn"}, (4,), 3), split(), way=3, query=2),
        ("features of shape (8,)", "made for others"),
    ),
    "two settings": (lambda: gf.Episodes(split(), gf.Setting(way=3), way=5), ("not both", "way")),
    "a seed of text": (lambda: episodes(seed="1"), ("the seed must be a whole number",)),
    "half an episode": (lambda: episodes().batch([0.5]), ("whole numbers of 0 or more", "0.5")),
    "episode -1": (lambda: episodes().batch([-1]), ("whole numbers of 0 or more", "-1")),
    "no episodes": (lambda: episodes().batch([]), ("whole numbers of 0 or more",)),
    "batches of 0": (lambda: next(episodes().batches(3, 0)), ("in a batch", "at least 1")),
    "one task": (lambda: gf.Episode(T[0], W[0], 3, 7), ("no axis of tasks", "x[None]")),
    "class numbers": (lambda: gf.Episode(T, W[..., 0], 3, 7), ("not class numbers", "one_hot")),
    "weights of the support": (
        lambda: gf.Episode(T, W[:, :3], 3, 7),
        ("10 nodes, but w has 3", "rows of zeros"),
    ),
    "weights of one task": (lambda: gf.Episode(T, W[:1], 3, 7), ("x has 2 tasks, but w has 1",)),
    "a mask of 9": (
        lambda: gf.Episode(T, W, 3, 7, torch.ones(2, 9)),
        ("10 nodes, but mask has 9",),
    ),
    "half a node": (lambda: gf.Episode(T, W, 3.5, 6), ("n_support", "3.5")),
    "weights of a pool": (
        lambda: gf.Episode(T, W, 3, 5).label_pool(W),
        ("(2, 2, 3)", "(2, 10, 3)"),
    ),
    "a learner of a tensor": (lambda: learner()(T), ("must be an Episode", "(2, 10, 8)")),
    "a learner of a pair": (
        lambda: learner()(episodes().batch([0])),
        ("must be an Episode", "a tuple of 2"),
    ),
    "a loss of labels": (
        lambda: learner().loss(episodes().batch([0])[0], torch.zeros(1, 6)),
        ("must be a Target",),
    ),
    "two names": (
        lambda: gf.Pipeline("conv4", "protonet"),
        ("not 'conv4'", "gf.build({'encoder': 'conv4'"),
    ),
    "a head's name": (lambda: gf.Pipeline(head="protonet"), ("not 'protonet'", "gf.build")),
    "a head's class": (lambda: gf.Pipeline(head=ProtoNet), ("the class ProtoNet", "ProtoNet()")),
    "a head in place of an augmentation": (
        lambda: gf.Pipeline(None, ProtoNet()),
        ("is a head", "head="),
    ),
    "a refiner in place of a head": (lambda: gf.Pipeline(head=SoftKmeans()), ("no head", "refine")),
    "a layer as a part": (
        lambda: gf.Pipeline(head=ProtoNet(), graph=torch.nn.Linear(2, 2)),
        ("not a Linear",),
    ),
    "a shape of text": (
        lambda: gf.build({"head": "gnn"}, "8", 5),
        ("(channels, height, width)", "'8'"),
    ),
    "a shape of a number": (
        lambda: gf.build({"head": "gnn"}, 8, 5),
        ("(channels, height, width)", "not 8"),
    ),
    "a way of text": (
        lambda: gf.build({"head": "gnn"}, (8,), "5"),
        ("way must be a whole number", "'5'"),
    ),
    "a folder by its name": (
        lambda: gf.load_data("tests", "test"),
        ("is a folder", "root='tests'"),
    ),
    "an option of a set": (
        lambda: gf.load_data("glyphs", "test", sizes=3),
        ("data set glyphs", "'sizes'"),
    ),
    "no run": (lambda: gf.load(None), ("the path of a directory", "None")),
    "channels of text": (lambda: gf.Conv4("3"), ("in_channels", "'3'")),
    "steps of text": (lambda: gf.Trainer(steps="10"), ("trainer.steps must be int", "'10'")),
    "half a step": (lambda: gf.Trainer(steps=10.5), ("trainer.steps must be int",)),
    "no rate": (lambda: gf.Trainer(lr=float("inf")), ("trainer.lr",)),
    "train a split": (
        lambda: fit(learner(head="gnn"), split()),
        ("gf.Episodes(split", "not a Split"),
    ),
    "train by a name": (lambda: fit("gnn", episodes()), ("must be a Learner", "'gnn'")),
    "validate a split": (
        lambda: fit(learner(head="gnn"), episodes(), split()),
        ("validated", "gf.Episodes"),
    ),
    "train into a number": (
        lambda: fit(learner(head="gnn"), episodes(), run=3),
        ("run must be the path", "3"),
    ),
    "a log of text": (
        lambda: fit(learner(head="gnn"), episodes(), log="x"),
        ("log must be a function",),
    ),
    "train on other features": (
        lambda: fit(gf.build({"head": "gnn"}, (4,), 3), episodes()),
        ("features of shape (8,)",),
    ),
    "adapt a name": (lambda: gf.Adapt("gnn", "sgd", 5), ("must be a Learner", "'gnn'")),
    "adapt by a name": (
        lambda: gf.Adapt(learner(head="gnn"), "sgd", 5),
        ("must be a Rule", "'sgd'"),
    ),
    "adapt by text": (
        lambda: gf.Adapt(learner(head="gnn"), GradientDescent(0.1), "5"),
        ("inner steps", "'5'"),
    ),
    "explain a run's name": (
        lambda: explain("runs/x", episodes().batch([0])[0]),
        ("must be a Learner",),
    ),
    "explain a pair": (lambda: explain(learner(), episodes().batch([0])), ("must be an Episode",)),
    "explain by no order": (
        lambda: explain(learner(), episodes().batch([0])[0], orders=0),
        ("orders", "at least 1"),
    ),
    "explain for ever": (
        lambda: explain(learner(), episodes().batch([0])[0], orders=10**24),
        ("too long",),
    ),
    "a pool of 1 axis": (lambda: label_pool(X[0], [0], [0]), ("features (n, d)", "(8,)")),
    "a pool of images": (
        lambda: label_pool(LATE, [0], [0]),
        ("features (n, d)", "graphfsl features"),
    ),
    "a pool of NaN": (
        lambda: label_pool(X * np.where(Y == 3, np.nan, 1)[:, None], [0], [0]),
        ("sample 3", "NaN"),
    ),
    "fewer labels of a pool": (
        lambda: label_pool(X, [0, 1, 2], [0, 1]),
        ("3 samples, but 2 labels",),
    ),
    "a mask as support": (lambda: label_pool(X, Y > 3, [0, 1]), ("whole numbers", "bool")),
    "support beyond": (lambda: label_pool(X, [0, 99], [0, 1]), ("sample 99", "0..59")),
    "support twice": (lambda: label_pool(X, [0, 5, 5], [0, 1, 1]), ("sample 5", "twice")),
    "a class left out": (lambda: label_pool(X, [0, 1], [0, 2]), ("0 .. C - 1", "[0, 2]")),
    "class -2": (lambda: label_pool(X, [0, 1, 2], [0, 1, -2]), ("-2 is none",)),
    "names of classes": (lambda: label_pool(X, [0, 1], ["a", "b"]), ("np.unique",)),
    "half a neighbour": (
        lambda: label_pool(X, [0, 1], [0, 1], neighbors=2.5),
        ("neighbors", "2.5"),
    ),
    "a size of text": (
        lambda: from_dataset([(X[0], 0)], "a/b", size="8"),
        ("size must be a whole number",),
    ),
    "a size of 0": (lambda: from_dataset([(LATE[0], 0)], "a/b", size=0), ("size", "at least 1")),
    "a giant size": (lambda: from_dataset([(LATE[0], 0)], "a/b", size=10**9), ("size", "at most")),
    "images of a folder, giant": (
        lambda: read_images(Files(Path("tests"), []), [], 2**53, 3, "x"),
        ("data.size must be at most 16,384",),
    ),
    "a path as a sample": (
        lambda: from_dataset([("a.png", 0)], "a/b"),
        ("'a.png'", "PIL.Image.open"),
    ),
    "all samples at once": (
        lambda: from_dataset((X, Y), "a/b"),
        ("pair (sample, label)", "gf.Split"),
    ),
    "one mean": (lambda: gf.Transform(0.5, 0.5), ("data.mean must be a list", "0.5")),
    "a flip of text": (lambda: gf.Transform(flip="yes"), ("flip must be true or false",)),
    "join a name": (lambda: join(split(), "b"), ("must be a Split", "'b'")),
    "join other features": (
        lambda: join(split(), split(X[:, :4], name="my/val")),
        ("(8,)", "(4,)"),
    ),
    "a subset by name": (lambda: split().subset(["a"], "x/y"), ("whole number", "'a'")),
    "a subset beyond": (lambda: split().subset([0, 9], "x/y"), ("0..5", "[0, 9]")),
    "a subset of one twice": (lambda: split().subset([0, 0], "x/y"), ("different numbers",)),
    "few classes of text": (lambda: few_classes(split(), "3"), ("whole number", "'3'")),
}


@pytest.mark.parametrize("case", DOORS)
def test_what_would_do_is_said_in_one_line(case: str) -> None:
    call, words = DOORS[case]
    with refused(*words):
        call()


# ---- images ----


def test_an_estimator_takes_tensors_and_images_in_a_list() -> None:
    plain = gf.FewShotClassifier().fit(X, Y).predict(X)
    for x in (torch.from_numpy(X).requires_grad_(), torch.from_numpy(X).bfloat16()):
        assert (gf.FewShotClassifier().fit(x, Y).predict(x) == plain).mean() > 0.9
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
    fitted = gf.FewShotClassifier().fit(list(images), [0, 1] * 3)
    assert (fitted.predict([Image.fromarray(i) for i in images]) == [0, 1] * 3).all()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (["a.png"] * 60, ("paths", "trained run")),
        ("folder", ("paths", "trained run")),
        ([LATE[0], LATE[0, :9]] * 30, ("one size", "(28, 28, 3) and (9, 28, 3)")),
        (LATE.transpose(0, 3, 1, 2), ("images must be uint8 (n, H, W)", "transpose(0, 2, 3, 1)")),
    ],
    ids=["paths", "a folder", "two sizes", "channels first"],
)
def test_an_estimator_says_what_would_do(x: Any, words: tuple[str, ...]) -> None:
    with refused(*words):
        gf.FewShotClassifier().fit(x, Y)


def predictor() -> Predictor:
    section = {"encoder": {"name": "conv4", "width": 4}, "head": "protonet"}
    experiment = Experiment.of({"data": {"name": "glyphs"}, "learner": section})
    learner = gf.build(section, (1, 28, 28), 2)
    return Predictor(Run(experiment, Path("run"), learner, (1, 28, 28), 2))


IMAGE = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)
SUPPORT = {"a": [IMAGE], "b": [255 - IMAGE]}


@pytest.mark.parametrize(
    ("support", "query", "words"),
    [
        (["a.png"], ["b.png"], ("a mapping of classes to images", "a list of 1")),
        ({"a": "a.png", "b": "b.png"}, ["b.png"], ("class 'a'", "a list of images", "'a.png'")),
        (SUPPORT, "b.png", ("the query must be a list of images", "'b.png'")),
        (SUPPORT, Path("folder"), ("the query must be a list of images", "image_paths")),
        (SUPPORT, IMAGE, ("the query must be a list of images, such as [image]", "(28, 28)")),
        (SUPPORT, Image.fromarray(IMAGE), ("the query must be a list of images",)),
    ],
    ids=["a list", "a path for a class", "a path", "a folder", "an array", "a PIL image"],
)
def test_a_predictor_says_what_would_do(support: Any, query: Any, words: tuple[str, ...]) -> None:
    with refused(*words):
        predictor().predict(support, query)


def test_a_predictor_takes_images_in_one_array() -> None:
    both = predictor().predict(SUPPORT, np.stack([IMAGE, 255 - IMAGE]))
    assert [a.label for a in both] == ["a", "b"]


# ---- untrained weights ----


def warned(section: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        gf.FewShotClassifier(section).fit(X, Y)
    return [str(w.message) for w in found if issubclass(w.category, UserWarning)]


@pytest.mark.parametrize("head", registry.names("head"))
def test_drawn_weights_are_warned_about(head: str) -> None:
    """A head warns where another seed draws other weights, and only there."""
    if registry.get("head", head).answers == "values":
        with pytest.raises(InputError, match="answers with values"):
            warned(head)
        return
    try:
        torch.manual_seed(0)
        one = gf.build({"head": head}, (8,), 6)
    except InputError:
        pytest.skip("this head does not stand alone on features")
    torch.manual_seed(1)
    two = gf.build({"head": head}, (8,), 6)
    drawn = any(
        not torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True)
    )
    found = [line for line in warned(head) if "base classes" not in line]
    assert len(found) == drawn, found
    assert all("untrained" in line and "gf.Trainer" in line and "\n" not in line for line in found)


def test_every_part_of_drawn_weights_is_named() -> None:
    (line,) = warned(
        {"head": "protonet", "refine": {"name": "masked_soft_kmeans"}, "graph": "message_passing"}
    )
    assert line.startswith("MessagePassing") and "MaskedSoftKmeans are untrained" in line


def test_what_learns_from_base_classes_and_has_seen_none_is_named() -> None:
    """Its own transform would be another one without a word: CL2N without a mean is L2N."""
    (line,) = warned("simple_shot")
    assert line.startswith("SimpleShot learns from base classes and has seen none")
    assert warned({"head": {"name": "simple_shot", "transform": "l2n"}}) == []


# ---- progress ----


def test_training_shows_its_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, trainer = (
        io.StringIO(),
        gf.Trainer(steps=50, log_every=10, val_every=50, val_episodes=2, device="cpu"),
    )
    monkeypatch.setattr(shown, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", shown)
    trainer.fit(learner(head="gnn"), episodes(), episodes())
    assert (
        "50/50" in shown.getvalue()
        and "step 50: loss" in shown.getvalue()
        and "validation" in shown.getvalue()
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_training_is_silent_where_its_lines_go_elsewhere(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    lines: list[Any] = []
    monkeypatch.setattr(shown, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", shown)
    gf.Trainer(steps=2, device="cpu").fit(
        learner(head="gnn"), episodes(), log=lines.append if terminal else None
    )
    assert not shown.getvalue() and len(lines) == terminal


# ---- what is shown ----


def shown() -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Values, and what their `repr` has to say."""
    drawn = gf.Episodes(split(groups=tuple("aabbcc")), way=3, query=2, unlabeled=1)
    (episode, target), net = drawn.batch([0, 1]), learner(head="gnn")
    deep = {"encoder": "resnet12", "head": "protonet", "refine": "soft_kmeans"}
    maml = {"encoder": "conv4", "head": "linear", "adapt": {"name": "maml", "steps": 7}}
    found = explain(learner(), drawn.batch([0])[0])
    many = {f"class number {i}": 0.01 for i in range(100)}
    return {
        "split": (drawn.split, ("my/test", "60 of float32 (8,)", "6: a, b, c", "10", "cpu")),
        "images": (gf.load_data("glyphs", "test"), ("glyphs/test", "uint8 (1, 28, 28)", "62: ")),
        "episodes": (drawn, ("my/test", "3-way 1-shot, 2 queries and 1 unlabeled", "seed")),
        "sampler": (drawn.sampler, ("my/test", "3-way 1-shot")),
        "draw": (drawn.sampler.draw([0, 1]), ("2 episodes", "3 support, 6 queries")),
        "episode": (
            episode,
            ("2 tasks", "3 support, 6 queries, 3 unlabeled", "float32 (2, 12, 8) on cpu"),
        ),
        "target": (target, ("query", "(2, 6)")),
        "setting": (gf.Setting(), ("way=5",)),
        "head": (net.head, ("GNN", "parameters on cpu")),
        "learner": (net, ("GNN", "inductive", "3 classes", "each query alone", "running")),
        "deep": (
            gf.build(deep, (3, 84, 84), 5),
            ("ResNet12", "ProtoNet()", "SoftKmeans()", "12,424,320 parameters"),
        ),
        "maml": (
            gf.build(maml, (1, 28, 28), 5),
            ("MAML(steps=7)", "Conv4", "Linear", "transductive", "apart"),
        ),
        "nested": (gf.Pipeline(head=gf.Pipeline(head=ProtoNet())), ("ProtoNet()",)),
        "long": (
            gf.Pipeline(head=ProtoNet(), refine=[SoftKmeans() for _ in range(40)]),
            ("and 33 more",),
        ),
        "result": (
            gf.evaluate(learner(), split(), way=3, query=2, episodes=9),
            (" ± ", "my/test", "9: 3-way 1-shot"),
        ),
        "trainer": (gf.Trainer(clip=1.0), ("steps=1000", "lr=0.001", "device='auto'", "clip=1.0")),
        "transform": (
            gf.Transform([0.5], [0.2], flip=True),
            ("mean=[0.5]", "std=[0.2]", "flip=True"),
        ),
        "explanation": (found, ("class column", "p = 0.", "loudest")),
        "question": (found.question, ("query=",)),
        "labels": (
            label_pool(X, [0, 1, 6, 7], [0, 1, 0, 1]),
            ("60 samples", "labeled", "56", "confidence"),
        ),
        "predictor": (predictor(), ("Predictor of the run", "glyphs", "ProtoNet()", "Conv4")),
        "prediction": (Prediction("class number 1", 0.01, many), ("class number 1", "0.010", "…")),
    }


def test_values_are_shown_on_one_screen() -> None:
    for name, (value, words) in shown().items():
        lines = [
            line[k : k + 80] for line in repr(value).splitlines() for k in range(0, len(line), 80)
        ]
        assert len(lines) <= 24, name
        assert all(word in repr(value) for word in words), repr(value)
        assert "tensor(" not in repr(value) and "object at 0x" not in repr(value), name


def test_ragged_labels_are_one_line() -> None:
    with refused("labels must be", "equally long lists"):
        gf.Split(np.zeros((2, 3)), [[0], [1, 2]], ("a", "b"), "mine/test")
