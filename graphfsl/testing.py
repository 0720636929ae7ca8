"""What every method must keep, as checks that an author runs on a class of their own.

    from graphfsl.testing import check_method
    check_method(MyHead)

or, one test for each check, with pytest:

    @pytest.mark.parametrize("check", graphfsl.testing.checks(MyHead), ids=str)
    def test_my_head(check):
        check()

Each check is also a function of this module, such as `padding_changes_nothing`; the tests of
graphfsl call them on every method that it has. pytest is not needed.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from graphfsl.core import registry
from graphfsl.core.adapt import Adapt
from graphfsl.core.batchnorm import POLICIES, BatchNorm
from graphfsl.core.episode import Episode, Target, ValueTarget, stack
from graphfsl.core.learner import (
    Acquire,
    Augment,
    Graph,
    Head,
    Learner,
    Novelty,
    Objective,
    Part,
    Refine,
)
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.pretrainer import Pretrainer
from graphfsl.core.schema import make, signature
from graphfsl.functional.layers import last_layer
from graphfsl.io.checkpoint import load_checkpoint, load_weights, save_checkpoint
from graphfsl.io.errors import InputError, unknown

__all__ = ["Method", "TinyEncoder", "check_method", "checks", "episodes", "value_episodes"]

WAY, SHOT, DIM = 3, 2, 6  # of the episodes and features that methods are checked on
SHAPE = (1, 8, 8)  # of their images
BASES = {
    "head": Head,
    "graph": Graph,
    "refine": Refine,
    "novelty": Novelty,
    "augment": Augment,
    "acquire": Acquire,
    "adapt": Adapt,
    "pretrain": Objective,
}
ASKED = 2  # labels that a rule may ask for
NONE = r"(?!)"  # a pattern that nothing matches


# What methods are checked in and on


class TinyEncoder(nn.Module):
    """1 x 8 x 8 images -> maps (M, 6, 2, 2); its readout is the mean over space.

    BatchNorm inside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, DIM, 3, stride=2, padding=1)
        self.norm = BatchNorm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Images (M, 1, 8, 8) -> maps (M, 6, 2, 2)."""
        y = torch.nn.functional.softplus(self.norm(self.conv(x)))
        return nn.functional.max_pool2d(y, 2)

    def readout(self, maps: Tensor) -> Tensor:
        """Maps (M, 6, h, w) -> vectors (M, 6)."""
        return maps.mean((-1, -2))


class _ShowsNovelty(Pipeline):
    """Adds a node's novelty to all of its scores, so that checks of scores are checks of it.

    The probabilities stay as they are.
    """

    def score(self, episode: Episode) -> Tensor:
        """Scores (B, n, C) and the novelty together."""
        answers = self.score_open(episode)
        return answers[..., :-1] + answers[..., -1:]


class _InFull(TinyEncoder):
    """An encoder that takes no part in mixed precision.

    What autocast changes is changed behind it.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


def episodes(
    batch: int = 2,
    way: int = WAY,
    shot: int = SHOT,
    query: int = 2,
    unlabeled: int = 2,
    seed: int = 0,
    noise: float = 0.6,
) -> tuple[Episode, Target]:
    """Tasks of 8 x 8 images around a random pattern for each class; queries are shuffled.

    Args:
        batch: tasks.
        way: classes of a task.
        shot: labeled images of a class; query, unlabeled: the others.
        query: queries of a class.
        unlabeled: unlabeled images of a class.
        seed: of the patterns and of the noise.
        noise: standard deviation around a pattern, whose own is 1.
    """
    g = torch.Generator().manual_seed(seed)
    pattern = torch.randn(batch, way, 1, 8, 8, generator=g)
    labels = [
        torch.arange(way).repeat_interleave(k).expand(batch, -1) for k in (shot, query, unlabeled)
    ]
    labels[1] = labels[1][:, torch.randperm(way * query, generator=g)]
    y = torch.cat(labels, 1)
    x = pattern[torch.arange(batch)[:, None], y]
    x = x + noise * torch.randn(x.shape, generator=g)
    w = torch.nn.functional.one_hot(y, way).float()
    w[:, way * shot :] = 0
    ids = torch.arange(y.numel()).view(y.shape)
    target = Target(labels[1], labels[2], ids, torch.arange(way).expand(batch, -1))
    return Episode(x, w, way * shot, way * query, relabeled=False), target


def value_episodes(
    batch: int = 2,
    shot: int = SHOT,
    query: int = 2,
    unlabeled: int = 2,
    seed: int = 0,
    noise: float = 0.1,
) -> tuple[Episode, ValueTarget]:
    """Tasks of real values, of as many 8 x 8 images as `episodes` has.

    An image is a pattern, the same in all tasks, of some brightness; its value is the brightness
    times a factor of the task.

    Args:
        batch: tasks.
        shot: a third of the images whose values are known; query, unlabeled: of the others.
        query: a third of the queries.
        unlabeled: a third of the unlabeled images.
        seed: of factors, brightnesses and noise.
        noise: standard deviation around the pattern, whose own is 1.
    """
    pattern = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(seed)
    k, q, u = WAY * shot, WAY * query, WAY * unlabeled
    brightness = torch.randn(batch, k + q + u, 1, generator=g)
    factor = torch.randn(batch, 1, 1, generator=g)
    values = factor * brightness
    x = brightness[..., None, None] * pattern
    x = x + noise * torch.randn(x.shape, generator=g)
    known = torch.zeros_like(values)
    known[:, :k] = 1
    episode = Episode(x, known, k, q, relabeled=False, values=values * known)
    return episode, ValueTarget(values[:, k : k + q])


def part(slot: str, method: str | type[Part], **options: Any) -> Any:
    """A method, by its name or its class, made for the features of `TinyEncoder`."""
    name = method if isinstance(method, str) else method.__name__
    given = {"dim": DIM, "way": WAY, "shot": SHOT, "maps": (DIM, 2, 2), "classes": WAY}
    given["shape"] = SHAPE
    cls = _class_of(slot, method)
    made = make(cls, {**_few_steps(cls, 20), **options}, name, **given)
    if getattr(made, "of_images", False) and hasattr(made, "set_ready"):
        made.set_ready()  # as it was drawn at random: an idle part would keep any contract
    return made


def _class_of(slot: str, method: str | type[Part]) -> Any:
    return registry.get(slot, method) if isinstance(method, str) else method


Given = str | type[Part] | None  # of a slot: a method's name, or its class


def learner(
    augment: Given = None,
    graph: Given = None,
    head: str | type[Part] = "protonet",
    refine: Given = None,
    adapt: Given = None,
    acquire: Given = None,
    batch_norm: str | None = None,
    seed: int = 0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    novelty: Given = None,
) -> Learner:
    """A learner with these parts, whose BatchNorm statistics are not those of a fresh layer.

    A head that does not read the support is adapted by MAML.

    Args:
        augment: a method of this slot, or several, by name or class.
        graph: a method of this slot, or several.
        head: a method of this slot.
        refine: a method of this slot, or several.
        adapt: a method of this slot.
        acquire: a method of this slot.
        batch_norm: the policy.
        seed: of the weights.
        options: slot -> options of its method.
        novelty: a method of this slot; each score then is higher by the novelty.
    """
    own = options or {}
    torch.manual_seed(seed)
    given = {
        "augment": augment,
        "graph": graph,
        "acquire": acquire,
        "refine": refine,
        "novelty": novelty,
    }
    slots = {
        slot: part(slot, method, **own.get(slot, {})) for slot, method in given.items() if method
    }
    kind = Pipeline if novelty is None else _ShowsNovelty
    pipeline = kind(TinyEncoder(), head=part("head", head, **own.get("head", {})), **slots)
    if adapt is None and not pipeline.reads_support:
        adapt = "maml"
    out: Any = pipeline
    if adapt is not None:
        cls = _class_of("adapt", adapt)
        # rates are chosen for cross-entropy; squared errors are steeper
        gentle = {"lr": 0.05} if pipeline.answers == "values" and "lr" in signature(cls) else {}
        options_of = {**_few_steps(cls, 3), **gentle, **own.get("adapt", {})}
        out = make(cls, options_of, cls.__name__, net=pipeline)
    if batch_norm is not None:
        out.set_batch_norm(batch_norm)
    return unlike_fresh(out)


def _few_steps(cls: type[Any], most: int) -> dict[str, int]:
    """Options that let a method take `most` steps where its default is more, which takes long."""
    return {
        name: most
        for name, option in inspect.signature(cls).parameters.items()
        if name in ("steps", "steps_test", "epochs")
        and isinstance(option.default, int)
        and option.default > most
    }


def unlike_fresh(out: Learner) -> Learner:
    """Statistics that are not those of a fresh layer, so that reading the wrong ones shows."""
    for module in out.modules():
        if isinstance(module, BatchNorm):
            for average, least, most in (("running_mean", -0.2, 0.2), ("running_var", 0.5, 1.5)):
                nn.init.uniform_(getattr(module, average), least, most)
    return out


def around(
    slot: str,
    method: str | type[Part],
    batch_norm: str | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    **beside: str | type[Part],
) -> Learner:
    """The simplest learner with this method, a name or a class, in its slot.

    Args:
        slot: that the method fills.
        method: its name or class.
        batch_norm: the policy.
        seed: of the weights.
        options: of the method.
        beside: parts of other slots, such as graph="message_passing".
    """
    own = options or {}
    if slot == "pretrain":
        torch.manual_seed(seed)
        out = Pretrainer(TinyEncoder(), part(slot, method, **own))
        out.set_batch_norm(batch_norm or "running")
        return unlike_fresh(out)
    parts: dict[str, Any] = {slot: method, **beside}
    if slot == "adapt":
        cls = _class_of(slot, method)
        # from the class weights that the support gives
        parts["head"] = "imprinting" if cls.adapts_frozen else "linear"
    return learner(**parts, batch_norm=batch_norm, seed=seed, options={slot: own})


@dataclass(frozen=True)
class Method:
    """A method that is checked.

    Args:
        slot: that it fills.
        cls: its class.
        options: that it is made with.
        idle: a pattern of the names of parameters that change nothing by construction, as a bias in
            front of a softmax.
    """

    slot: str
    cls: type[Part]
    options: Mapping[str, Any] = field(default_factory=dict)
    idle: str = NONE

    @property
    def of_values(self) -> bool:
        """Whether it answers with real values, not with classes."""
        return self.slot == "head" and self.cls.answers == "values"

    def learner(self, batch_norm: str | None = None, seed: int = 0) -> Learner:
        """The simplest learner with it."""
        return around(self.slot, self.cls, batch_norm, seed, self.options)

    def episodes(self, **options: Any) -> tuple[Episode, Any]:
        """Tasks of the kind that it answers, with the options of `episodes`.

        One that asks for labels may ask for two of those of the pool.
        """
        if self.of_values:
            return value_episodes(**options)
        episode, target = episodes(**options)
        if self.slot == "acquire":
            told = target.told(episode)
            return told.replace(budget=min(ASKED, episode.n_unlabeled)), target
        return episode, target

    def exact(self, batch_norm: str | None = None) -> tuple[Learner, Episode]:
        """A learner and an episode in float64.

        Where an untrained network hardly answers to a change, it still shows; whether other nodes
        are asked for shows in some of many tasks.
        """
        episode, _ = self.episodes(batch=20) if self.slot == "acquire" else self.episodes()
        return self.learner(batch_norm).eval().double(), episode.to(dtype=torch.float64)


# The checks


def scores_have_the_shape_and_are_finite(method: Method) -> None:
    """Scores are (B, n, C), answers (B, Q, C), the loss a scalar, and all of them are numbers."""
    episode, target = method.episodes()
    model = method.learner()
    scores = _scores(model.eval(), episode)
    columns = WAY if episode.values is None else episode.values.shape[-1]
    _expect_shape(scores, (2, episode.x.shape[1], columns), "score")
    _expect_shape(model(episode), (2, episode.n_query, columns), "forward")
    _expect(torch.isfinite(scores).all(), "a score is not a finite number")
    loss = model.train().loss(episode, target)
    _expect_shape(loss, (), "loss")
    _expect(torch.isfinite(loss), f"the loss is {loss.detach()}")


def batched_equals_one_by_one(method: Method, policy: str) -> None:
    """A task is scored the same in a batch and by itself."""
    episode, _ = method.episodes(batch=3)
    model = method.learner(policy).eval()
    together = _scores(model, episode)
    for i in range(3):
        _close(together[i : i + 1], _scores(model, _one(episode, i)))


def padding_changes_nothing(method: Method, policy: str) -> None:
    """A task is scored the same beside a larger one, whatever stands in its padding."""
    model = method.learner(policy).eval()
    small, _ = method.episodes(batch=1, shot=model.shots or 1, query=1, unlabeled=1)
    large, _ = method.episodes(batch=1, shot=model.shots or 3, query=2, unlabeled=2, seed=1)
    both = stack([small, large])
    real = both.mask[0]
    x = both.x.clone()
    x[0, ~real] = 100.0
    found = _scores(model, both.replace(x=x, mask=both.mask))
    _close(found[0, real], _scores(model, small)[0])
    _close(found[1:], _scores(model, large))


def label_maps(batch: int = 2, seed: int = 0) -> Episode:
    """Tasks of 8 x 8 images of which the pixels of the support have labels: WAY images, 2 queries.

    Args:
        batch: tasks.
        seed: of the images and of the labels.
    """
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, WAY + 2, *SHAPE, generator=g)
    classes = torch.randint(WAY, (batch, WAY + 2, 4, 4), generator=g)
    pixels = classes.repeat_interleave(2, -1).repeat_interleave(2, -2)
    w = torch.nn.functional.one_hot(pixels, WAY).movedim(-1, 2).float()
    w[:, WAY:] = 0
    return Episode(x, w, WAY, 2, relabeled=False)


def cells_of_images_are_nodes(method: Method) -> None:
    """Where every pixel has a label, every cell of an image is scored, or the part says why not.

    An image is answered alone as in company, where the method is inductive.
    """
    episode = label_maps()
    takes_nodes = method.slot in ("head", "graph", "refine", "augment", "novelty")
    if not takes_nodes or method.of_values:
        return
    model = method.learner().eval()
    whole_images = isinstance(model, Adapt) or model.wants_maps or model.shots is not None
    generates = isinstance(model, Pipeline) and bool(model.image_parts)
    if whole_images or generates:
        _expect_refusal(lambda: _scores(model, episode), "")
        return
    found = _scores(model, episode)
    _expect_shape(found, (2, WAY + 2, 2, 2, WAY), "score")
    _expect(not found.isnan().any(), "a score of a cell is no number")
    if model.transductive:
        return
    alone = Episode(episode.x[:, :-1], episode.w[:, :-1], WAY, 1, relabeled=False)
    _close(found[:, WAY], _scores(model, alone)[:, WAY])


def tasks_of_different_way_share_a_batch(method: Method) -> None:
    """A class that a task does not have scores minus infinity and changes nothing else."""
    if method.of_values:  # its tasks have no classes
        return
    model = method.learner().eval()
    two, three = method.episodes(batch=1, way=2)[0], method.episodes(batch=1, way=3, seed=1)[0]
    if model.way is not None:
        wider, _ = method.episodes(batch=1, way=model.way + 1)
        _expect_refusal(lambda: _scores(model, wider), f"tied to {model.way}-way")
    both = stack([two, three])
    found = _scores(model, both)
    _close(found[0, both.mask[0], :2], _scores(model, two)[0])
    _close(found[1, both.mask[1]], _scores(model, three)[0])
    absent, present = found[0, :, 2], found[0, both.mask[0], :2]
    _expect(torch.isneginf(absent).all(), "an absent class must score minus infinity")
    _expect(torch.isfinite(present).all(), "a class that is there has no finite score")


def another_number_of_shots_is_answered_or_refused(method: Method) -> None:
    """Where a method is tied to a number of shots, it says so (`shots`)."""
    model = method.learner().eval()
    episode, _ = method.episodes(shot=1)
    if model.shots is not None:
        message = f"tied to {model.shots}-shot episodes, but this one has {WAY} support"
        _expect_refusal(lambda: _scores(model, episode), message)
        return
    _expect(torch.isfinite(_scores(model, episode)).all(), "a score is not a finite number")


def float64_agrees(method: Method) -> None:
    """Scores in double precision are those in single precision, and are doubles."""
    episode, _ = method.episodes()
    model = method.learner().eval()
    single = _scores(model, episode)
    double = _scores(copy.deepcopy(model).double(), episode.to(dtype=torch.float64))
    _expect(double.dtype == torch.float64, f"the scores of float64 features are {double.dtype}")
    _close(single, double.float(), 2e-3)


def order_of_the_support_matters_only_where_declared(method: Method) -> None:
    """The trait `order_sensitive` is true of the method."""
    model, episode = method.exact()
    k, n = episode.n_support, episode.x.shape[1]
    order = torch.cat([torch.randperm(k), torch.arange(k, n)])
    unchanged = _same(model(episode), model(_reorder(episode, order)))
    _expect_trait(model, "order_sensitive", not unchanged)


def order_of_the_classes_matters_only_where_declared(method: Method) -> None:
    """The trait `class_order_sensitive` is true of the method.

    Where it is false, permuted columns of the label weights have the scores permuted likewise.
    """
    model, episode = method.exact()
    order = torch.arange(episode.way).roll(1)
    columns = {"w": episode.w[..., order]}
    if episode.oracle is not None:
        columns["oracle"] = episode.oracle[..., order]
    permuted = model(episode.replace(**columns))
    _expect_trait(model, "class_order_sensitive", not _same(model(episode)[..., order], permuted))


def order_of_queries_and_pool_does_not_matter(method: Method) -> None:
    """Reordered queries and unlabeled nodes have their scores reordered."""
    episode, _ = method.episodes()
    model = method.learner().eval()
    k, q, n = episode.n_support, episode.n_query, episode.x.shape[1]
    order = torch.cat([torch.arange(k), k + torch.randperm(q), k + q + torch.randperm(n - k - q)])
    found, reordered = _scores(model, episode)[:, order], _scores(model, _reorder(episode, order))
    if getattr(method.cls, "by_place", False):  # it asks for other nodes, as it says
        _expect(torch.isfinite(reordered).all(), "in another order a score is not finite")
        return
    _close(found, reordered)


def a_query_is_answered_the_same_alone_unless_declared(method: Method, policy: str) -> None:
    """The trait `transductive` is true of the method: an inductive one sees no other queries."""
    model, episode = method.exact(policy)
    company = model(episode)
    k, q = episode.n_support, episode.n_query
    alone = []
    for i in range(q):
        keep = torch.tensor([*range(k), k + i, *range(k + q, episode.x.shape[1])])
        alone.append(model(_reorder(episode, keep, n_query=1)))
    unchanged = _same(company, torch.cat(alone, 1))
    _expect_trait(model, "transductive", not unchanged)


def the_pool_matters_only_where_declared(method: Method, policy: str) -> None:
    """The trait `uses_unlabeled` is true of the method."""
    episode, _ = method.episodes()
    model = method.learner(policy).eval()
    x = episode.x.clone()
    x[:, episode.unlabeled] = torch.randn_like(x[:, episode.unlabeled]) * 2
    other = model(episode.replace(x=x))
    unchanged = torch.allclose(model(episode), other, atol=1e-5, rtol=1e-5)
    _expect_trait(model, "uses_unlabeled", not unchanged)


def balance_of_the_pool_matters_only_where_declared(method: Method) -> None:
    """The trait `needs_balanced_pool` is true of a refiner.

    What a far class has in the pool says nothing of another, unless all are taken for as large.
    """
    with torch.no_grad():
        equal = _scores_beside_far_classes(method, 8)[:, 0]
        unequal = _scores_beside_far_classes(method, 1)[:, 0]
    changed = bool((equal - unequal).abs().max() > 0.5)
    refiner: Part = part(method.slot, method.cls, **method.options)
    _expect_trait(refiner, "needs_balanced_pool", changed)


def class_means_are_enough_where_declared(method: Method) -> None:
    """The trait `reads_means` is true of a head: means of classes answer as their samples do."""
    if method.slot != "head" or not method.cls.reads_means:
        return
    model, episode = method.exact()
    pipeline: Any = model
    features = pipeline.encode(episode)
    w = features.w[:, features.support]
    count = w.sum(1)
    means = w.mT @ features.x[:, features.support] / count.unsqueeze(-1)
    rest = features.x[:, features.n_support :]
    condensed = Episode(
        torch.cat([means, rest], 1),
        torch.cat([torch.diag_embed(count), features.w[:, features.n_support :]], 1),
        means.shape[1],
        features.n_query,
    )
    _close(pipeline.head(condensed), pipeline.head(features), 1e-8)


def hidden_values_change_nothing(method: Method) -> None:
    """What stands in `values` where the weight is 0 is not read."""
    if not method.of_values:
        return
    episode, _ = method.episodes()
    model = method.learner().eval()
    assert episode.values is not None
    other = torch.where(episode.w > 0, episode.values, 100.0)
    _close(model(episode), model(episode.replace(values=other)))


def an_empty_pool_is_fine(method: Method) -> None:
    """An episode without unlabeled nodes is answered."""
    episode, _ = method.episodes(unlabeled=0)
    answers = method.learner().eval()(episode)
    _expect(torch.isfinite(answers).all(), "without a pool an answer is not a finite number")


def gradients_reach_every_parameter(method: Method, policy: str) -> None:
    """Each parameter learns from the loss, and evaluation leaves every buffer as it is."""
    model = method.learner(policy).train()
    model.loss(*method.episodes(shot=model.shots or 3)).backward()
    silent = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad
        and (p.grad is None or not p.grad.abs().sum() > 0)
        and not re.fullmatch(method.idle, name)
    ]
    _expect(not silent, f"no gradient reaches {', '.join(silent)}")
    model.eval()
    before = {name: b.clone() for name, b in model.named_buffers()}
    model(method.episodes()[0])
    moved = [name for name, b in model.named_buffers() if not torch.equal(b, before[name])]
    _expect(not moved, f"answering changes the buffers {', '.join(moved)}")


def learns_above_chance(method: Method) -> None:
    """After 20, 40 or 80 steps of training it answers better than a guess.

    A guess of a value is the mean of those that are known.
    """
    model = method.learner("support")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    complaint = ""
    for step in range(80):
        loss = model.train().loss(*method.episodes(batch=4, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step + 1 in (20, 40, 80):
            complaint = _no_better_than_a_guess(method, model.eval())
            if not complaint:
                return
    _expect(False, complaint)


@torch.no_grad()
def _no_better_than_a_guess(method: Method, model: Learner) -> str:
    """How far a learner is from a guess where it is not better; empty where it is."""
    episode, target = method.episodes(batch=100, query=3, seed=10_000)
    answers = model(episode)
    if episode.values is not None:
        guess = episode.values[:, episode.support].mean(1, keepdim=True).expand_as(answers)
        found, chance = (target.squared_errors(y, episode).mean() for y in (answers, guess))
        error = f"error {found:.3f} after training, a guess has {chance:.3f}"
        return "" if found < 0.7 * chance else error
    right = (answers.argmax(-1) == target.query).float().mean()
    enough = right > 1 / WAY + 0.15
    return "" if enough else f"{right:.3f} after training, chance is {1 / WAY:.3f}"


def weights_make_a_round_trip_through_a_file(method: Method) -> None:
    """All that it has learned is saved: another one with these weights gives the same scores."""
    model, other = method.learner(seed=0).eval(), method.learner(seed=1).eval()
    episode, _ = method.episodes()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weights.safetensors")
        save_checkpoint(file, model.state_dict(), {"step": 1})
        tensors, facts = load_checkpoint(file)
        load_weights(other, tensors, file)
    _expect(facts == {"step": 1}, f"the facts beside the weights came back as {facts}")
    same = torch.equal(_scores(model, episode), _scores(other, episode))
    _expect(same, "with the weights of another it scores otherwise: something is not saved")


def runs_on_fake_cuda_or_meta(method: Method) -> None:
    """No tensor is made on another device, and no value is read by the host.

    No GPU is needed: fake tensors find both, and what differentiates inside runs on `meta`.
    """
    real, target = method.episodes()
    if hasattr(method.learner(), "adapt"):
        with torch.device("meta"):
            model = method.learner().train()
        loss = model.loss(real.to("meta").replace(relabeled=True), target.to("meta"))
        _expect(loss.device.type == "meta", f"the loss lies on {loss.device}")
        return
    with FakeTensorMode(), torch.device("cuda"):
        model = method.learner().eval()
        x, w = torch.empty(real.x.shape), torch.empty(real.w.shape)
        values = None if real.values is None else torch.empty(real.values.shape)
        oracle = None if real.oracle is None else torch.empty(real.oracle.shape)
        more: dict[str, Any] = {"values": values, "oracle": oracle, "budget": real.budget}
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        for episode in (
            Episode(x, w, real.n_support, real.n_query, **more),
            Episode(x, w, real.n_support, real.n_query, mask, **more),
        ):
            device = model(episode).device
            _expect(device.type == "cuda", f"the answers lie on {device}")


def follows_the_dtype_of_autocast(method: Method) -> None:
    """It trains under mixed precision."""
    model = method.learner().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(*method.episodes())
    _expect(torch.isfinite(loss), f"under autocast the loss is {loss.detach()}")
    loss.backward()


def mixed_precision_is_for_the_encoder_alone(method: Method) -> None:
    """Given the same features, autocast changes neither the loss nor a gradient, to the bit."""
    found = []
    for mixed in (False, True):
        model = method.learner().train()
        for module in model.modules():
            if isinstance(module, TinyEncoder):
                module.__class__ = _InFull
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = model.loss(*method.episodes())
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    plain, half = found
    _expect(len(plain) == len(half), "under autocast other parameters have a gradient")
    same = all(torch.equal(a, b) for a, b in zip(plain, half, strict=True))
    _expect(same, "autocast reaches behind the encoder")


def documentation_names_source_and_shapes(method: Method) -> None:
    """The file names paper, year and link; the class its source, the shapes and every option."""
    about = sys.modules[method.cls.__module__].__doc__ or ""
    dated = re.search(r"\b(19|20)\d\d\b", about) and "https://" in about
    _expect(dated, "the first line of the file must name the method, its year and a link")
    doc = method.cls.__doc__ or ""
    _expect("Source:" in doc, "the class's documentation must have a line `Source:`")
    _expect(
        re.search(r"\(B, .*->", doc), "the class's documentation must say shapes, (B, …) -> (B, …)"
    )
    for option in signature(method.cls):
        told = option == "net" or re.search(rf"\b{option}\b", doc)
        _expect(told, f"option {option} is not documented")


# Running them


@dataclass(frozen=True)
class Check:
    """One check of one method; calling it raises AssertionError where the method fails it."""

    name: str
    method: Method
    run: Callable[[Method], None]

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                self.run(self.method)
            except Exception as error:
                told = str(error) or type(error).__name__
                raise AssertionError(f"{self.method.cls.__name__}: {self}: {told}") from error


EVERY = (
    scores_have_the_shape_and_are_finite,
    tasks_of_different_way_share_a_batch,
    cells_of_images_are_nodes,
    another_number_of_shots_is_answered_or_refused,
    float64_agrees,
    order_of_the_support_matters_only_where_declared,
    order_of_the_classes_matters_only_where_declared,
    order_of_queries_and_pool_does_not_matter,
    hidden_values_change_nothing,
    class_means_are_enough_where_declared,
    an_empty_pool_is_fine,
    learns_above_chance,
    weights_make_a_round_trip_through_a_file,
    runs_on_fake_cuda_or_meta,
    follows_the_dtype_of_autocast,
    mixed_precision_is_for_the_encoder_alone,
    documentation_names_source_and_shapes,
)
# Checked under each of these policies of BatchNorm.
BY_POLICY: dict[Callable[[Method, str], None], Collection[str]] = {
    batched_equals_one_by_one: POLICIES,
    padding_changes_nothing: POLICIES,
    a_query_is_answered_the_same_alone_unless_declared: POLICIES,
    the_pool_matters_only_where_declared: ("running", "support", "apart", "each"),
    gradients_reach_every_parameter: POLICIES,
}


def checks(
    cls: type[Part],
    slot: str | None = None,
    options: Mapping[str, Any] | None = None,
    idle: str = NONE,
) -> list[Check]:
    """The checks of a method, each a function without arguments, with a name for a test's id.

    Args:
        cls: a subclass of Head, Graph, Refine, Augment, Acquire, Adapt or Objective.
        slot: which it fills; None asks its base class.
        options: what it is made with, beside `dim`, `way`, `shot`, `maps`, `classes` and `net`,
            which it gets where it asks for them.
        idle: a pattern of the names of parameters that change nothing by construction, as
            "head.last.bias" in front of a softmax.

    Raises:
        InputError: for a class that fills no slot.
    """
    method = Method(slot or _slot_of(cls), cls, options or {}, idle)
    found = [Check(run.__name__, method, run) for run in EVERY]
    for by_policy, policies in BY_POLICY.items():
        found += [
            Check(f"{by_policy.__name__}[{policy}]", method, _under(by_policy, policy))
            for policy in policies
        ]
    if method.slot == "refine" and cls.uses_unlabeled:
        balance = balance_of_the_pool_matters_only_where_declared
        found.append(Check(balance.__name__, method, balance))
    return found


def check_method(
    cls: type[Part],
    slot: str | None = None,
    options: Mapping[str, Any] | None = None,
    idle: str = NONE,
    skip: Collection[str] = (),
) -> None:
    """Check that a method keeps the contract.

    Shapes, padding, batching, permutations, leaks, precision, gradients, traits and documentation.

    Args:
        cls: a subclass of Head, Graph, Refine, Augment, Acquire, Adapt or Objective.
        slot: which it fills; None asks its base class.
        options: what it is made with, see `checks`.
        idle: a pattern of the names of parameters that change nothing by construction.
        skip: names of checks to leave out, the `name` of each that `checks(cls)` lists, such as
            ["padding_changes_nothing[joint]"].

    Raises:
        AssertionError: at the first check that it fails, with what was found.
        InputError: for a class that fills no slot, and for a name in `skip` that no check has.
    """
    found = checks(cls, slot, options, idle)
    names = [check.name for check in found]
    for name in skip:
        if name not in names:
            raise unknown("check", name, names)
    for check in found:
        if check.name not in skip:
            check()


def _under(run: Callable[[Method, str], None], policy: str) -> Callable[[Method], None]:
    return lambda method: run(method, policy)


def _slot_of(cls: type[Part]) -> str:
    for slot, base in BASES.items():
        if isinstance(cls, type) and issubclass(cls, base):
            return slot
    bases = ", ".join(base.__name__ for base in BASES.values())
    raise InputError(f"a method is a class below one of {bases}, not {cls!r:.60}")


# How they look


def _scores(model: Learner, episode: Episode) -> Tensor:
    with torch.no_grad():
        return last_layer(model.score(episode))


def _scores_beside_far_classes(method: Method, others: int) -> Tensor:
    """Scores (9, 3) of a refiner around class means.

    There are 8 unlabeled nodes in class 0 and `others` in each other class.
    """
    torch.manual_seed(0)
    refine = part(method.slot, method.cls, **method.options)
    model = Pipeline(head=part("head", "protonet"), refine=refine).eval()
    means = 4 * torch.eye(DIM)[:3]
    noise = 0.5 * torch.randn(3, 12, DIM, generator=torch.Generator().manual_seed(0))
    x = (means.unsqueeze(1) + noise).abs()  # (3, 12, d): of each class the support's first
    support = x[:, 0]
    queries = x[:, 1:4].flatten(0, 1)
    pool = [x[0, 4:], x[1, 4 : 4 + others], x[2, 4 : 4 + others]]
    nodes = torch.cat([support, queries, *pool])
    labels = torch.eye(len(nodes), 3)  # the support's, one of each class
    episode = Episode(nodes[None], labels[None], len(support), len(queries))
    answers: Tensor = model(episode)
    return answers[0]


def _one(episode: Episode, i: int) -> Episode:
    return episode.replace(**{name: t[i : i + 1] for name, t in episode.tensors.items()})


def _reorder(episode: Episode, order: Tensor, **changes: Any) -> Episode:
    """The episode with its nodes in another order, or with some of them, all asked for or none."""
    nodes = {name: t[:, order] for name, t in episode.tensors.items() if name != "oracle"}
    if episode.oracle is not None:
        pool = len(order) - episode.n_unlabeled
        nodes["oracle"] = episode.full_oracle[:, order][:, pool:]
    return episode.replace(**nodes, **changes)


def _close(a: Tensor, b: Tensor, tolerance: float = 2e-4) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-7, rtol=2e-7)


def _expect(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _expect_shape(found: Tensor, right: tuple[int, ...], what: str) -> None:
    _expect(found.shape == right, f"{what} gives {tuple(found.shape)} where {right} is right")


def _expect_trait(part: Part, trait: str, found: bool) -> None:
    declared = getattr(part, trait)
    _expect(declared is found, f"{trait} is declared as {declared}, and {found} is what shows")


def _expect_refusal(call: Callable[[], Any], message: str) -> None:
    try:
        call()
    except InputError as error:
        _expect(message in str(error), f"the refusal {str(error)!r} does not say {message!r}")
        return
    raise AssertionError(f"it must be refused with an InputError that says {message!r}")
