"""`Adapt`: the inner loop of the MAML family as a function around any learner."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from graphfsl.core.arguments import A_LEARNER, check_kind, described, whole_number
from graphfsl.core.batchnorm import BatchNorm, adapting, follow_policy, lacks_averages
from graphfsl.core.encoder import full_precision, keep_precision
from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.learner import Learner
from graphfsl.core.objectives import InnerObjective, support_cross_entropy
from graphfsl.core.rules import Rule
from graphfsl.core.traits import JOINED
from graphfsl.io.errors import InputError, require


def _chosen(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches a pattern, and none behind a !."""
    wanted = any(fnmatch.fnmatch(name, p) for p in patterns)
    return wanted and not any(p.startswith("!") and fnmatch.fnmatch(name, p[1:]) for p in patterns)


class _Call(nn.Module):
    """Lets `functional_call` reach any method of the learner, not only `forward`."""

    def __init__(self, net: Learner) -> None:
        super().__init__()
        self.net = net

    def forward(self, method: str, *args: Any) -> Any:
        return getattr(self.net, method)(*args)


def _task(tensors: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """The i-th task's own, without the axis of the tasks."""
    return {name: t[i] for name, t in tensors.items()}


def _one_task(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of one task."""
    return {name: t[None] for name, t in tensors.items()}


class Adapt(Learner):
    """Scores an episode with parameters that were adapted to it by `steps` inner steps.

    The net's parameters and buffers are never mutated, so that no averages of BatchNorm are
    learned: under the policy `running` the encoder is normalised with those that it came with, and
    training one that has none is refused.

    A head may have `imprint`, episode of support features -> {name: tensor}, and name them in
    `imprinted`: buffers that start each task at what its support says, and adapt like parameters
    where `params` matches.

    Args:
        net: any learner.
        rule: an (init, update) pair, see `graphfsl.core.rules.Rule`; a module if it learns.
        steps: of the inner loop.
        objective: (score, episode, step) -> scalar, what an inner step descends.
        params: which of the net's parameters adapt, by name pattern (one or several); those that
            match one behind a ! do not, as in ["*", "!encoder.norms.*"].
        first_order: treat inner gradients as constants.
        task_chunk: how many tasks run at once under vmap; 1 loops over tasks, which is faster on a
            CPU and needs the least memory; None takes 1 on a CPU and all tasks on a GPU.

    Raises:
        InputError: for a net that cannot be adapted, and where `params` matches no parameter.
    """

    adapts = True
    _checked = False
    # whether an encoder that is not trained further adapts to an episode all the same
    adapts_frozen = False

    def __init__(
        self,
        net: Learner,
        rule: Rule,
        steps: int,
        objective: InnerObjective = support_cross_entropy,
        params: str | Iterable[str] = "*",
        first_order: bool = False,
        task_chunk: int | None = None,
    ) -> None:
        super().__init__()
        check_kind(net, Learner, "what adapts", A_LEARNER)
        require(
            callable(getattr(rule, "init", None)) and callable(getattr(rule, "update", None)),
            f"the rule must have `init` and `update`, as GradientDescent(0.1), "
            f"not {described(rule)}",
        )
        require(
            not net.asks,
            "a learner that asks for labels cannot be adapted; choose a head that asks for none",
        )
        require(
            whole_number(steps, "the number of inner steps") >= 0,
            f"the number of inner steps must be 0 or more, not {steps}",
        )
        require(
            task_chunk is None or whole_number(task_chunk, "task_chunk") >= 1,
            f"task_chunk must be 1 or more, or null, not {task_chunk}",
        )
        require(
            net.answers == "classes",
            "inner loops descend losses of classes, but this learner answers with values; leave "
            "learner.adapt out",
        )
        if not isinstance(params, Iterable):
            raise InputError(
                f"params must be names of parameters, or patterns as 'head.*', not "
                f"{described(params)}"
            )
        patterns = [params] if isinstance(params, str) else list(params)
        require(
            not any(is_lazy(p) for p in net.parameters()),
            "a lazy layer of the net has no parameters yet to adapt; call the "
            "net on an episode first",
        )
        if any(isinstance(m, _InstanceNorm) and m.track_running_stats for m in net.modules()):
            raise InputError(
                "an InstanceNorm keeps averages, which no adaptation writes; set "
                "track_running_stats=False"
            )
        follow_policy(net)
        self._call = _Call(net)
        self.rule, self.steps, self.objective = rule, steps, objective
        self.first_order, self.task_chunk = first_order, task_chunk
        names = [n for n, p in net.named_parameters() if p.requires_grad or self.adapts_frozen]
        names += [f"head.{n}" for n in getattr(getattr(net, "head", None), "imprinted", ())]
        self.adapted = [f"net.{n}" for n in names if _chosen(n, patterns)]
        require(
            self.adapted,
            f"no parameter matches {', '.join(patterns)!r}; the net has "
            f"{', '.join(names) or 'none'}",
        )
        for trait in (*JOINED, "answers", "per_query", "way", "shots", "max_queries_per_class"):
            setattr(self, trait, getattr(net, trait))

    @property
    def net(self) -> Learner:
        """The learner that adapts, with its own parameters."""
        return self._call.net

    @property
    def batch_norm(self) -> str:  # type: ignore[override]
        """The BatchNorm policy of the net."""
        return self.net.batch_norm

    @property
    def innermost(self) -> Learner:
        """The learner inside all inner loops."""
        return self.net.innermost

    def set_batch_norm(self, policy: str) -> None:
        """Choose the BatchNorm policy of the net; an unknown one raises InputError."""
        self.net.set_batch_norm(policy)

    @property
    def shares_statistics(self) -> bool:  # type: ignore[override]
        """Whether queries share BatchNorm statistics in the net."""
        return self.net.shares_statistics

    @property
    def transductive(self) -> bool:  # type: ignore[override]
        """Whether a query's score depends on the other queries."""
        # BatchNorm outside the encoder takes the statistics of the adapted call, in which all
        # queries stand.
        names = [n for n, m in self.net.named_modules() if isinstance(m, BatchNorm)]
        return self.net.transductive or any(not n.startswith("encoder.") for n in names)

    def adapt(self, episode: Episode) -> dict[str, Tensor]:
        """The adapted parameters of one task: episode with B = 1 -> name -> tensor."""
        known = dict(self._call.named_parameters())
        params: dict[str, Tensor] = {n: known[n] for n in self.adapted if n in known}
        if len(params) < len(self.adapted):
            params |= {n: p for n, p in self._imprint(episode).items() if n in self.adapted}
        state = self.rule.init(params)
        call = keep_precision(torch.func.functional_call, episode.x.device)
        for step in range(self.steps):

            def inner(params: dict[str, Tensor], step: int = step) -> Tensor:
                def score(e: Episode) -> Tensor:
                    scores: Tensor = call(self._call, params, ("score", e))
                    return scores

                return self.objective(score, episode, step)

            with full_precision(episode.x.device):
                grads = torch.func.grad(inner)(params)
                if self.first_order:
                    grads = {n: g.detach() for n, g in grads.items()}
                params, state = self.rule.update(params, grads, state, step)
        return params

    def _imprint(self, episode: Episode) -> dict[str, Tensor]:
        net: Any = self.net
        support = net.encode(episode.parts(query=False, unlabeled=False))
        with full_precision(episode.x.device):
            for part in (*net.augment, *net.graph):
                support = part(support)
            return {f"net.head.{n}": p for n, p in net.head.imprint(support).items()}

    def _each(self, method: str, episode: Episode, target: BaseTarget | None = None) -> Tensor:
        """A method of the net, adapted to each task, called on that task; the stacked answers."""

        def call(nodes: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
            one = episode.with_tensors(_one_task(nodes))
            args = () if target is None else (target.with_tensors(_one_task(truth)),)
            arguments = (method, one, *args)
            out: Tensor = torch.func.functional_call(self._call, self.adapt(one), arguments)
            return out

        if episode.x.is_floating_point():
            episode = episode.with_tensors({"w": episode.w.to(episode.x.dtype)})
        nodes, truth = episode.tensors, {} if target is None else target.tensors
        tasks = len(episode.x)
        at_once = self.task_chunk or (1 if episode.x.device.type == "cpu" else tasks)
        with adapting():
            if at_once > 1:
                every = torch.func.vmap(call, chunk_size=at_once, randomness="different")
                return every(nodes, truth)
            return torch.stack([call(_task(nodes, i), _task(truth, i)) for i in range(tasks)])

    def score(self, episode: Episode) -> Tensor:
        """Scores (B, n, C) of each task with the parameters adapted to it, or (L, B, n, C)."""
        scores = self._each("score", episode)  # (B, 1, n, C) or (B, L, 1, n, C)
        return scores.squeeze(1) if scores.ndim == 4 else scores.squeeze(2).transpose(0, 1)

    def check_averages(self) -> None:
        """InputError where `running` would leave an encoder in training without normalisation."""
        encoder = getattr(self.net, "encoder", None)
        if self.batch_norm == "running" and encoder is not None and lacks_averages(encoder):
            raise InputError(
                "the encoder has no BatchNorm averages, and none are learned while it adapts to "
                "episodes: it would not "
                "normalise; set learner.batch_norm=apart, joint or support, or pretrain it"
            )

    def loss(self, episode: Episode, target: BaseTarget) -> Tensor:
        """The mean over tasks of the loss of their adapted learners: a scalar."""
        if self.training and self.batch_norm == "running" and not self._checked:
            self.check_averages()
            self._checked = True  # looking at averages waits for a GPU: once is enough
        return self._each("loss", episode, target).mean()

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Let the net learn from base-class features (N, d) and labels (N,)."""
        self.net.fit_base(features, labels)
