"""Meta-gradients under every BatchNorm policy equal a loop in which each statistic is written out.

The loop takes the method's own rule: that a rule is what its paper says is a fact of its own file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.adapt import Adapt
from graphfsl.core.batchnorm import POLICIES
from graphfsl.core.episode import Episode, Target, stack
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.adapt.alfa import ALFA
from graphfsl.methods.adapt.anil import ANIL
from graphfsl.methods.adapt.boil import BOIL
from graphfsl.methods.adapt.cavia import CAVIA
from graphfsl.methods.adapt.lstm_meta_learner import LSTMMetaLearner
from graphfsl.methods.adapt.maml import FOMAML, MAML
from graphfsl.methods.adapt.maml_plus_plus import MAMLPlusPlus
from graphfsl.methods.adapt.meta_curvature import MetaCurvature
from graphfsl.methods.adapt.meta_sgd import MetaSGD
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.proto_maml import ProtoMAML
from graphfsl.methods.heads.unicorn import UNICORN
from graphfsl.testing import DIM, WAY, TinyEncoder, episodes
from tests.support.hand_loops import Params, expect_same, gradient, shaken

WEIGHT, BIAS = "net.head.weight", "net.head.bias"  # of a read-out that starts anew with each task


def net(head: Head | None = None) -> Pipeline:
    """A small encoder and a read-out, with averages that are those of no batch."""
    torch.manual_seed(0)
    made = Pipeline(TinyEncoder(), head=head or Linear(DIM, WAY))
    norm = made.encoder.norm
    with torch.no_grad():
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.5, 0.5)
    return made


METHODS = {
    "maml": lambda: MAML(net(), 2, 0.2),
    "anil": lambda: ANIL(net(), 2, 0.2),
    "boil": lambda: BOIL(net(), 2, 0.2),
    "fomaml": lambda: FOMAML(net(), 2, 0.2),
    "meta_sgd": lambda: MetaSGD(net(), 2, 0.1, 0.3),
    "maml_plus_plus": lambda: MAMLPlusPlus(net(), 2),
    "meta_curvature": lambda: MetaCurvature(net(), 2, 0.2),
    "alfa": lambda: ALFA(net(), 2, 0.2),
    "lstm_meta_learner": lambda: LSTMMetaLearner(net(), 2, hidden=3),
    "cavia": lambda: CAVIA(net(), at="norm", context=4, steps=2, lr=0.5),
    "proto_maml": lambda: MAML(net(ProtoMAML()), 2, 0.2),
    "proto_maml, head alone": lambda: ANIL(net(ProtoMAML()), 2, 0.2),
    "unicorn": lambda: FOMAML(net(UNICORN(DIM)), 2, 0.2),
}
SUM_OVER_SHOT = (MAML, MetaSGD, MetaCurvature)  # their inner loss is WAY times the mean


@dataclass
class Task:
    """The images and labels of one task."""

    support: Tensor
    labels: Tensor
    query: Tensor
    truth: Tensor
    pool: Tensor = field(repr=False)


def task_of(episode: Episode, target: Target) -> Task:
    """A task without padding, from an episode of one."""
    x, k, q = episode.x[0], episode.n_support, episode.n_query
    labels = episode.w[0, :k].argmax(-1)
    return Task(x[:k], labels, x[k : k + q], target.query[0], x[k + q :])


def features(p: Params, x: Tensor, measured: Tensor | None, norm: nn.Module) -> Tensor:
    """Vectors of images x, normalised by the statistics of `measured`, or the stored averages."""
    inner, context = "net.encoder.norm.", "net.encoder.norm.context."

    def maps(images: Tensor) -> Tensor:
        kernel, shift = p["net.encoder.conv.weight"], p["net.encoder.conv.bias"]
        return F.conv2d(images, kernel, shift, stride=2, padding=1)

    if measured is None:
        mean, var = (t.view(-1, 1, 1) for t in (norm.running_mean, norm.running_var))
    else:
        var, mean = torch.var_mean(maps(measured), (0, 2, 3), keepdim=True, correction=0)
    z = (maps(x) - mean) / (var + norm.eps).sqrt()
    z = z * p[inner + "weight"].view(-1, 1, 1) + p[inner + "bias"].view(-1, 1, 1)
    if context + "phi" in p:
        film = context + "linear."
        told = p[film + "weight"] @ p[context + "phi"] + p[film + "bias"]
        z = told[:DIM].view(-1, 1, 1) * z + told[DIM:].view(-1, 1, 1)
    return F.max_pool2d(F.softplus(z), 2).mean((-1, -2))


def scores(p: Params, z: Tensor) -> Tensor:
    """What the read-out says of vectors."""
    if WEIGHT in p:
        return z @ p[WEIGHT].T + p.get(BIAS, torch.zeros(WAY, dtype=z.dtype))
    return z @ p["net.head.linear.weight"].T + p["net.head.linear.bias"]


def of_support(p: Params, task: Task, policy: str, norm: nn.Module) -> Tensor:
    """Vectors of the support where it is encoded alone, as in the inner loop."""
    return features(p, task.support, None if policy == "running" else task.support, norm)


def of_queries(p: Params, task: Task, policy: str, norm: nn.Module) -> Tensor:
    """Vectors of the queries, in the company that the policy gives them."""
    if policy == "each":
        rows = task.query.split(1)
        return torch.cat([features(p, q, torch.cat([task.support, q]), norm) for q in rows])
    company = {
        "running": None,
        "support": task.support,
        "apart": task.query,
        "joint": torch.cat([task.support, task.query, task.pool]),
    }
    return features(p, task.query, company[policy], norm)


def start(model: Adapt, own: Params, task: Task, policy: str, norm: nn.Module) -> Params:
    """What adapts, before the first step."""
    head = model.net.head
    if isinstance(head, ProtoMAML):
        z = of_support(own, task, policy, norm)
        mean = torch.stack([z[task.labels == c].mean(0) for c in range(WAY)])
        made = {WEIGHT: 2 * mean, BIAS: -mean.square().sum(-1)}
    else:
        made = {WEIGHT: head.start.expand(WAY, -1)} if isinstance(head, UNICORN) else {}
    return {name: {**own, **made}[name] for name in model.adapted}


def loss_by_hand(model: Adapt, task: Task, policy: str) -> Tensor:
    """What a task costs after the inner loop."""
    own = {f"net.{name}": p for name, p in model.net.named_parameters()}
    norm = model.net.encoder.norm
    norm = getattr(norm, "layer", norm)
    scale = WAY if isinstance(model, SUM_OVER_SHOT) else 1
    fast = start(model, own, task, policy, norm)
    state = model.rule.init(fast)
    for step in range(model.steps):
        # views: what one weight was made from is held where another is differentiated
        at = {
            name: p.view_as(p) if p.requires_grad else p.detach().requires_grad_()
            for name, p in fast.items()
        }
        weights = {**own, **model.given(step), **at}
        z = of_support(weights, task, policy, norm)
        loss = scale * F.cross_entropy(scores(weights, z), task.labels)
        found = torch.autograd.grad(
            loss,
            list(at.values()),
            create_graph=not model.first_order,
            allow_unused=True,
            materialize_grads=True,
        )
        seen = loss.detach() if model.first_order else loss
        moves = dict(zip(at, found, strict=True))
        fast, state = model.rule.update(fast, moves, seen, state, step)
    weights = {**own, **model.given(model.steps - 1), **fast}
    answers = scores(weights, of_queries(weights, task, policy, norm))
    temperature = getattr(model.net.head, "temperature", 1.0)
    return F.cross_entropy(answers / temperature, task.truth)


def of_one_size() -> list[tuple[Episode, Target]]:
    """Two tasks as large as each other."""
    return [exact(seed=0), exact(seed=1)]


def of_two_sizes() -> list[tuple[Episode, Target]]:
    """Two tasks, each of which is padded to the other's size."""
    return [exact(shot=2, query=1, unlabeled=2), exact(shot=1, query=2, unlabeled=1, seed=1)]


def exact(
    shot: int = 2, query: int = 2, unlabeled: int = 1, seed: int = 0
) -> tuple[Episode, Target]:
    """One task in float64."""
    episode, target = episodes(1, WAY, shot, query, unlabeled, seed)
    return episode.to(dtype=torch.float64), target


def together(tasks: list[tuple[Episode, Target]]) -> tuple[Episode, Target]:
    """The tasks as one batch."""
    episode = stack([e for e, _ in tasks])
    if episode.mask.all():  # so that no layer looks for padding
        episode = episode.replace(padded=False)
    queries = [target.query[0] for _, target in tasks]
    query = nn.utils.rnn.pad_sequence(queries, batch_first=True, padding_value=-100)
    ids = torch.arange(episode.mask.numel()).view_as(episode.mask)
    classes = torch.arange(WAY).expand(len(tasks), -1)
    return episode, Target(query, query.new_zeros(len(tasks), episode.n_unlabeled), ids, classes)


CASES = [(name, of_one_size) for name in METHODS]
CASES += [(name, of_two_sizes) for name in ("maml", "anil", "cavia", "proto_maml")]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_meta_gradient_equals_a_loop_by_hand(name: str, sizes: Any, policy: str) -> None:
    model = shaken(METHODS[name]().double(), 0.05)
    model.set_batch_norm(policy)
    tasks = sizes()
    costs = [loss_by_hand(model, task_of(*task), policy) for task in tasks]
    right = torch.stack(costs).mean()
    wanted = gradient(right, model)
    assert all(g.abs().max() > 1e-6 for n, g in wanted.items() if n.endswith("conv.weight"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    episode, target = together(tasks)
    for chunk in (1, 2):
        model.task_chunk = chunk
        loss = model.loss(episode, target)
        torch.testing.assert_close(loss, right, atol=1e-12, rtol=1e-12)
        expect_same(gradient(loss, model), wanted)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
