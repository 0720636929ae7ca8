"""The generic suite: every registered method keeps the contract. A new method file is found here by
itself.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import DIM, METHODS, WAY, TinyEncoder, around, episodes, learner, pairwise, part
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from graphfsl.core import registry
from graphfsl.core.batchnorm import POLICIES, BatchNorm
from graphfsl.core.episode import Episode, stack
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.schema import signature
from graphfsl.experiment.builder import build, build_learner
from graphfsl.experiment.experiment import Experiment
from graphfsl.io.checkpoint import load_checkpoint, load_weights, save_checkpoint
from graphfsl.io.errors import InputError
from graphfsl.io.package_data import experiments_dir

every_method = pytest.mark.parametrize(
    ("slot", "name"), METHODS, ids=[f"{s}-{n}" for s, n in METHODS]
)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def scores(model: Learner, episode: Episode) -> Tensor:
    with torch.no_grad():
        out = model.score(episode)
    return out[-1] if out.ndim == 4 else out


def close(a: Tensor, b: Tensor, tolerance: float = 2e-4) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def one(episode: Episode, i: int) -> Episode:
    return episode.replace(
        x=episode.x[i : i + 1], w=episode.w[i : i + 1], mask=episode.mask[i : i + 1]
    )


def exact(slot: str, name: str, **options: str) -> tuple[Learner, Episode]:
    """In float64: where an untrained network hardly answers to a change, it still shows."""
    return around(slot, name, **options).eval().double(), episodes()[0].to(dtype=torch.float64)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-7, rtol=2e-7)


def reorder(episode: Episode, order: Tensor) -> Episode:
    return episode.replace(
        x=episode.x[:, order], w=episode.w[:, order], mask=episode.mask[:, order]
    )


@every_method
def test_scores_have_the_shape_and_are_finite(slot: str, name: str) -> None:
    episode, target = episodes()
    model = around(slot, name)
    assert scores(model.eval(), episode).shape == (2, episode.x.shape[1], WAY)
    assert model(episode).shape == (2, episode.n_query, WAY)
    assert torch.isfinite(scores(model, episode)).all()
    loss = model.train().loss(episode, target)
    assert loss.shape == () and torch.isfinite(loss)


@every_method
@pytest.mark.parametrize("policy", POLICIES)
def test_batched_equals_one_by_one(slot: str, name: str, policy: str) -> None:
    episode, _ = episodes(batch=3)
    model = around(slot, name, batch_norm=policy).eval()
    together = scores(model, episode)
    for i in range(3):
        close(together[i : i + 1], scores(model, one(episode, i)))


@every_method
@pytest.mark.parametrize("policy", POLICIES)
def test_padding_changes_nothing(slot: str, name: str, policy: str) -> None:
    model = around(slot, name, batch_norm=policy).eval()
    small, _ = episodes(batch=1, shot=model.shots or 1, query=1, unlabeled=1)
    large, _ = episodes(batch=1, shot=model.shots or 3, query=2, unlabeled=2, seed=1)
    both = stack([small, large])
    real = both.mask[0]
    # What stands in the padding must not matter either.
    x = both.x.clone()
    x[0, ~real] = 100.0
    found = scores(model, both.replace(x=x, mask=both.mask))
    close(found[0, real], scores(model, small)[0])
    close(found[1:], scores(model, large))


@every_method
def test_tasks_of_different_way_share_a_batch(slot: str, name: str) -> None:
    model = around(slot, name).eval()
    two, three = episodes(batch=1, way=2)[0], episodes(batch=1, way=3, seed=1)[0]
    if model.way is not None:
        with pytest.raises(InputError, match=f"tied to {model.way}-way"):
            scores(model, episodes(batch=1, way=model.way + 1)[0])
    both = stack([two, three])
    found = scores(model, both)
    close(found[0, both.mask[0], :2], scores(model, two)[0])
    close(found[1, both.mask[1]], scores(model, three)[0])
    assert torch.isneginf(found[0, :, 2]).all(), "an absent class must score minus infinity"
    assert torch.isfinite(found[0, both.mask[0], :2]).all()


@every_method
def test_another_number_of_shots_is_answered_or_refused(slot: str, name: str) -> None:
    model = around(slot, name).eval()
    episode, _ = episodes(shot=1)
    if model.shots is not None:
        with pytest.raises(
            InputError, match=f"tied to {model.shots}-shot episodes, but this one has {WAY} support"
        ):
            scores(model, episode)
        return
    assert torch.isfinite(scores(model, episode)).all()


@every_method
def test_float64_agrees(slot: str, name: str) -> None:
    episode, _ = episodes()
    model = around(slot, name).eval()
    single = scores(model, episode)
    double = scores(copy.deepcopy(model).double(), episode.to(dtype=torch.float64))
    assert double.dtype == torch.float64
    close(single, double.float(), 2e-3)


@every_method
def test_order_of_the_support_does_not_matter(slot: str, name: str) -> None:
    model, episode = exact(slot, name)
    k, n = episode.n_support, episode.x.shape[1]
    order = torch.cat([torch.randperm(k), torch.arange(k, n)])
    assert same(model(episode), model(reorder(episode, order))) is not model.order_sensitive


@every_method
def test_order_of_queries_and_pool_does_not_matter(slot: str, name: str) -> None:
    episode, _ = episodes()
    model = around(slot, name).eval()
    k, q, n = episode.n_support, episode.n_query, episode.x.shape[1]
    order = torch.cat([torch.arange(k), k + torch.randperm(q), k + q + torch.randperm(n - k - q)])
    close(scores(model, episode)[:, order], scores(model, reorder(episode, order)))


@every_method
@pytest.mark.parametrize("policy", POLICIES)
def test_an_inductive_learner_answers_a_query_the_same_alone_and_in_company(
    slot: str, name: str, policy: str
) -> None:
    model, episode = exact(slot, name, batch_norm=policy)
    company = model(episode)
    k, q = episode.n_support, episode.n_query
    alone = []
    for i in range(q):
        keep = torch.tensor([*range(k), k + i, *range(k + q, episode.x.shape[1])])
        alone.append(model(reorder(episode, keep).replace(n_query=1)))
    unchanged = same(company, torch.cat(alone, 1))
    assert unchanged is not model.transductive, f"transductive is declared as {model.transductive}"


@every_method
@pytest.mark.parametrize("policy", ["running", "support", "apart"])
def test_the_pool_matters_only_where_it_is_declared(slot: str, name: str, policy: str) -> None:
    episode, _ = episodes()
    model = around(slot, name, batch_norm=policy).eval()
    x = episode.x.clone()
    x[:, episode.unlabeled] = torch.randn_like(x[:, episode.unlabeled]) * 2
    same = torch.allclose(model(episode), model(episode.replace(x=x)), atol=1e-5, rtol=1e-5)
    assert same is not model.uses_unlabeled


def of_far_classes(name: str, others: int, **options: Any) -> torch.Tensor:
    """Scores (9, 3) of a refiner around class means, 8 unlabeled nodes in class 0 and `others` in
    each other class.
    """
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    x = (4 * torch.eye(6)[:3, None] + 0.5 * torch.randn(3, 12, 6, generator=g)).abs()
    pool = [x[0, 4:], x[1, 4 : 4 + others], x[2, 4 : 4 + others]]
    nodes = torch.cat([x[:, 0], x[:, 1:4].flatten(0, 1), *pool])[None]
    w = torch.eye(3, len(nodes[0]))[None].mT
    model = Pipeline(head=part("head", "protonet"), refine=part("refine", name, **options)).eval()
    return model(Episode(nodes, w, 3, 9))[0]


# They answer from a classifier or a graph of their own, in which each class feels the others.
ENTANGLED = ("fixmatch", "logit_propagation")
POOLED = [
    n
    for s, n in METHODS
    if s == "refine" and registry.get(s, n).uses_unlabeled and n not in ENTANGLED
]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((n, {}) for n in POOLED),
        ("ilpc", {"balance": False}),
        ("ilpc", {"balance": False, "share": 0.5}),
    ],
    ids=str,
)
def test_the_balance_of_the_pool_matters_only_where_it_is_declared(
    name: str, options: dict[str, Any]
) -> None:
    """What a far class has in the pool says nothing of class 0, unless all are taken for as
    large.
    """
    with torch.no_grad():
        equal, unequal = (of_far_classes(name, others, **options)[:, 0] for others in (8, 1))
    declared = part("refine", name, **options).needs_balanced_pool
    assert ((equal - unequal).abs().max() > 0.5) == declared, (
        f"needs_balanced_pool is declared as {declared}"
    )


@every_method
def test_an_empty_pool_is_fine(slot: str, name: str) -> None:
    episode, _ = episodes(unlabeled=0)
    assert torch.isfinite(around(slot, name).eval()(episode)).all()


@every_method
@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_reach_every_parameter_and_buffers_stay_in_evaluation(
    slot: str, name: str, policy: str
) -> None:
    model = around(slot, name, batch_norm=policy).train()
    model.loss(*episodes(shot=model.shots or 3)).backward()
    silent = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    # GNN's bias in front of a softmax changes nothing: its gradient is what rounding leaves, or
    # zero.
    assert not [
        n
        for n in silent
        if name != "gnn" or not re.fullmatch(r"head\.adjacency\.\d\.last\.bias", n)
    ]
    model.eval()
    before = {n: b.clone() for n, b in model.named_buffers()}
    model(episodes()[0])
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())


@every_method
def test_learns_above_chance(slot: str, name: str) -> None:
    model = around(slot, name, batch_norm="support")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(80):
        loss = model.train().loss(*episodes(batch=4, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    episode, target = episodes(batch=100, query=3, seed=10_000)
    with torch.no_grad():
        right = (model.eval()(episode).argmax(-1) == target.query).float().mean()
    assert right > 1 / WAY + 0.15, f"{right:.3f} after training, chance is {1 / WAY:.3f}"


@every_method
def test_weights_make_a_round_trip_through_a_file(slot: str, name: str, tmp_path) -> None:
    model, other = around(slot, name, seed=0).eval(), around(slot, name, seed=1).eval()
    episode, _ = episodes()
    save_checkpoint(tmp_path / "a.safetensors", model.state_dict(), {"step": 1})
    tensors, facts = load_checkpoint(tmp_path / "a.safetensors")
    load_weights(other, tensors, tmp_path / "a.safetensors")
    assert facts == {"step": 1}
    assert torch.equal(scores(model, episode), scores(other, episode))


@every_method
def test_runs_on_fake_cuda_or_meta(slot: str, name: str) -> None:
    """No GPU here: fake tensors find a wrong device and a host sync; parts that differentiate
    inside run on meta.
    """
    real, target = episodes()
    if hasattr(around(slot, name), "adapt"):
        with torch.device("meta"):
            model = around(slot, name).train()
        meta = Episode(real.x.to("meta"), real.w.to("meta"), real.n_support, real.n_query)
        loss = model.loss(meta, target.to("meta"))
        assert loss.device.type == "meta"
        return
    with FakeTensorMode(), torch.device("cuda"):
        model = around(slot, name).eval()
        x, w = torch.empty(real.x.shape), torch.empty(real.w.shape)
        out = model(Episode(x, w, real.n_support, real.n_query))
        padded = Episode(
            x, w, real.n_support, real.n_query, torch.ones(x.shape[:2], dtype=torch.bool)
        )
        assert out.device.type == model(padded).device.type == "cuda"


@every_method
def test_follows_the_dtype_of_autocast(slot: str, name: str) -> None:
    model = around(slot, name).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(*episodes())
    assert torch.isfinite(loss)
    loss.backward()


class InFull(TinyEncoder):
    """An encoder that takes no part in mixed precision: whatever autocast changes is changed behind
    it.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


@every_method
def test_mixed_precision_is_for_the_encoder_alone(slot: str, name: str) -> None:
    """Given the same features, the loss and its gradients under autocast are those without it, to
    the bit.
    """
    found = []
    for mixed in (False, True):
        model = around(slot, name).train()
        for module in model.modules():
            if isinstance(module, TinyEncoder):
                module.__class__ = InFull
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = model.loss(*episodes())
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("slot", "name"), [("head", "feat"), ("adapt", "flexmatch"), ("pretrain", "simclr")]
)
def test_the_encoder_stays_in_mixed_precision(slot: str, name: str) -> None:
    """At the first call and at those from an inner loop or an objective."""
    model, seen = around(slot, name).train(), []
    conv = next(m for m in model.modules() if isinstance(m, TinyEncoder)).conv
    conv.register_forward_hook(lambda _, inputs, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model.loss(*episodes())
    assert seen and set(seen) == {torch.bfloat16}


@every_method
def test_documentation_names_source_and_shapes(slot: str, name: str) -> None:
    cls = registry.get(slot, name)
    about = sys.modules[cls.__module__].__doc__ or ""
    assert re.search(r"\b(19|20)\d\d\b", about) and "https://" in about, (
        "the file's first line: method, year, link"
    )
    doc = cls.__doc__ or ""
    assert "Source:" in doc and re.search(r"\(B, .*->", doc), "the class: equation, shapes, Source:"
    for option in signature(cls):
        if option not in ("net",):
            assert re.search(rf"\b{option}\b", doc), f"option {option} is not documented"


@functools.cache
def experiments() -> list[tuple[Path, dict[str, Any]]]:
    """Every experiment file, read once for all methods: that takes seconds."""
    paths = [p for p in sorted(experiments_dir().rglob("*.yaml")) if p.parent.name != "ablations"]
    return [
        (p, Experiment.read(p, ["data.root=."] if "glyphs" not in p.read_text() else []))
        for p in paths
    ]


@every_method
def test_has_an_experiment_that_builds(slot: str, name: str) -> None:
    key = {"head": "head"}.get(slot, slot)
    found = []
    for path, experiment in experiments():
        first, spec = experiment.pretraining, experiment.learner
        if slot == "pretrain":
            entries = [] if first is None else [first.objective]
        else:
            own = getattr(spec, key)
            entries = own if isinstance(own, tuple) else [] if own is None else [own]
        for entry in entries:
            if entry.name == name:
                found.append(path)
                way = experiment.task.demands.way
                built = build_learner(spec, (3, 32, 32), way, device="meta")
                assert (
                    next(iter(built.parameters()), torch.empty(0, device="meta")).device.type
                    == "meta"
                )
    assert found, f"no experiments/**/*.yaml uses {key}: {name}"


def combinations() -> dict[str, list[str | None]]:
    return {
        "augment": [None, *registry.names("augment")],
        "graph": [None, *registry.names("graph")],
        "head": list(registry.names("head")),
        "refine": [None, *registry.names("refine")],
        "adapt": [None, *registry.names("adapt")],
    }


def test_all_combinations_build_or_say_why() -> None:
    axes = combinations()
    tuning = axes.pop("adapt")
    with torch.device("meta"):
        made = {
            (slot, name): part(slot, name) for slot, names in axes.items() for name in names if name
        }
        for values in itertools.product(*axes.values()):
            row = dict(zip(axes, values, strict=True))
            parts = {
                "head" if slot == "head" else slot: made.get((slot, name))
                for slot, name in row.items()
            }
            if why := refusal(row):
                with pytest.raises(InputError, match=why):
                    Pipeline(TinyEncoder(), **parts)
            else:
                assert Pipeline(TinyEncoder(), **parts).head is parts["head"]
        for head, adapt in itertools.product(axes["head"], tuning):
            assert learner(head=head, adapt=adapt) is not None


def refusal(row: dict[str, str | None]) -> str | None:
    """Why the parts of a combination cannot share a pipeline, from what each of them declares."""
    cls = {slot: registry.get(slot, name) for slot, name in row.items() if name and slot != "adapt"}
    head, refine = cls["head"], cls.get("refine")
    if {True, False} <= {c.wants_maps for c in cls.values()}:
        return "cannot share a pipeline"
    if not head.reads_support and ("augment" in cls or (refine and refine.relabels)):
        return "does not read label weights"
    if refine and head.fits_probabilities and refine.trusts_probabilities:
        return "fits the probabilities"
    if refine and refine.compares_queries and any(c.per_query for c in cls.values()):
        return "compares queries"
    return None


@pytest.mark.parametrize(
    "row", pairwise(combinations()), ids=lambda row: "+".join(str(v) for v in row.values())
)
def test_pairwise_combinations_train_and_answer(row: dict[str, str | None]) -> None:
    if why := refusal(row):
        pytest.skip(f"{why}; `test_all_combinations_build_or_say_why` sees that it is refused")
    model = learner(**row)
    if row["adapt"] == "maml":
        # the paper's 0.4 is for an encoder and a head; adapting a generator too, it diverges
        model.rule.lr = 0.1
    episode, target = episodes()
    loss = model.train().loss(episode, target)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(model.eval()(episode)).all()


def test_running_statistics_are_those_of_the_real_nodes() -> None:
    """Under `running`, training with padding stores what training without it does."""
    small, large = (
        episodes(batch=1, shot=1, query=1, unlabeled=0)[0],
        episodes(batch=1, shot=2, unlabeled=0, seed=1)[0],
    )
    both = stack([small, large])
    padded, plain = BatchNorm(1), BatchNorm(1)
    from graphfsl.core.batchnorm import statistics

    with statistics("running", both):
        padded(both.x.flatten(0, 1))
    plain(torch.cat([small.x[0], large.x[0]]))
    close(padded.running_mean, plain.running_mean, 1e-6)
    close(padded.running_var, plain.running_var, 1e-6)


def test_mixed_precision_ends_at_the_features() -> None:
    """A head under autocast answers in float32, to the bit: only the encoder may run in half
    precision.
    """
    episode, _ = episodes()
    model = learner(refine="soft_kmeans").eval()
    features = model.encode(episode)
    plain = model.score_features(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.score_features(features), plain)
        assert model.encode(episode).x.dtype == torch.float32


def test_dimensions_are_asked_for() -> None:
    """A part that takes `dim` gets the encoder's, through a real configuration."""
    built = build({"encoder": {"name": "conv4", "width": 8}, "head": "gnn"}, (3, 32, 32), 5)
    assert built.head.convs[0].linear.in_features == 2 * (8 * 4 + 5)
    assert DIM != 8
