"""`Adapt`: the inner loop of the MAML family as a function around any learner."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from graphfsl.core.affine_norms import AffineOutside
from graphfsl.core.arguments import A_LEARNER, check_kind, described, whole_number
from graphfsl.core.batchnorm import (
    BatchNorm,
    adapting,
    follow_policy,
    is_adapting,
    lacks_averages,
)
from graphfsl.core.clone import Clone
from graphfsl.core.encoder import full_precision, keep_precision
from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.inner_gradient import inner_gradient, transforming
from graphfsl.core.learner import Learner, Part
from graphfsl.core.meta_gradient import (
    Gradient,
    StepsAgain,
    StepsOnce,
    chunks,
    cut_off,
    once,
    repeatable,
    with_gradient,
)
from graphfsl.core.objectives import InnerObjective, support_loss
from graphfsl.core.outputs import is_plain, plain
from graphfsl.core.pipeline import Pipeline, own_nodes
from graphfsl.core.rules import LearnedRates, Params, Rule
from graphfsl.core.traits import JOINED
from graphfsl.core.unwritten import unwritten
from graphfsl.io.errors import InputError, require

HUGE = 1e8  # the norm of all weights that is no sound one
Path = list[Params]  # the weights of a task before and after every step


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches a pattern, and none behind a !."""
    wanted = any(fnmatch.fnmatch(name, p) for p in patterns)
    return wanted and not any(p.startswith("!") and fnmatch.fnmatch(name, p[1:]) for p in patterns)


def _is_name(pattern: str) -> bool:
    """Whether a pattern has no wildcard."""
    return not {*pattern} & {*"*?["}


class Call(nn.Module):
    """Lets `torch.func.functional_call` reach any method of the learner, not only `forward`."""

    def __init__(self, net: Learner) -> None:
        super().__init__()
        self.net = net

    def forward(self, method: str, *args: Any, **options: Any) -> Any:
        """What the method of the learner returns for these arguments."""
        with AffineOutside() if transforming() else nullcontext():
            return getattr(self.net, method)(*args, **options)


def _task(tensors: Params, i: int) -> Params:
    """The i-th task's own, without the axis of the tasks."""
    return {name: t[i] for name, t in tensors.items()}


def _one_task(tensors: Params) -> Params:
    """A batch of one task."""
    return {name: t[None] for name, t in tensors.items()}


class Adapt(Learner):
    """Scores an episode with parameters that were adapted to it by inner steps.

    The net's parameters and buffers are read, never written. So BatchNorm learns no averages here:
    under the policy `running` it uses the stored ones, and training a net that has none is refused.
    When an `Adapt` is made, the BatchNorm layers of its net come to follow a policy, in place; a
    method with a `policy` of its own sets it where the net still has `running`.

    A head may make weights from the support: `imprint`, episode of support features -> {name:
    tensor}, with the names listed in `imprinted`. They adapt like parameters where `params` matches
    them.

    A subclass may say what a task costs, given the weights along its inner loop, in `task_loss`,
    and give some of the net's parameters other values for a step, in `given`.

    A module that is no learner is wrapped: what it returns for a sample are the scores of the
    classes, and `params` matches the module's own names. Where its outputs are values,
    `Pipeline(module, head=Outputs("values"))` says so.

    Args:
        net: any learner, or any module whose outputs are scores.
        rule: how a step moves parameters, see `graphfsl.core.rules.Rule`.
        steps: of the inner loop.
        objective: (score, episode, step) -> scalar, what an inner step descends.
        params: which of the net's parameters adapt, as one or several name patterns; a pattern with
            ! in front excludes, as in ["*", "!encoder.norms.*"].
        first_order: treat inner losses and gradients as constants.
        task_chunk: how many tasks run at once under vmap; 1 loops over tasks, which is faster on a
            CPU and needs the least memory; None takes 1 on a CPU and all tasks on a GPU.
        steps_test: steps outside of training; None takes `steps`.
        recompute: keep only the weights between inner steps, and take each step a second time for
            the meta-gradient: the memory of one step, for about twice the time; tasks run one by
            one.

    Raises:
        InputError: for a net that cannot be adapted, where `params` or a name in it matches no
            parameter, and for more steps than the rule can take.
    """

    adapts = True
    _checked = False
    # whether an encoder that is not trained further adapts to an episode all the same
    adapts_frozen = False
    # whether inner steps run in the precision of autocast; second derivatives would be mostly noise
    keeps_autocast = False
    # whether `task_loss` is made for its gradient, so that a second derivative would mean nothing
    stands_for_gradient = False
    takes_values = True  # whether its inner loss is one of real values too
    # set where the net still has `running`: the BatchNorm policy of the paper's numbers
    policy: str | None = None

    def __init__(
        self,
        net: nn.Module,
        rule: Rule,
        steps: int,
        objective: InnerObjective = support_loss,
        params: str | Iterable[str] = "*",
        first_order: bool = False,
        task_chunk: int | None = None,
        steps_test: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        net = _learner(net)
        require(
            isinstance(rule, Rule),
            f"the rule must be a Rule, as GradientDescent(0.1), not {described(rule)}",
        )
        self._check_net(net)
        for name, count in (("steps", steps), ("steps_test", steps_test)):
            _check_steps(name, count, rule)
        require(
            task_chunk is None or whole_number(task_chunk, "task_chunk") >= 1,
            f"task_chunk must be 1 or more, or null, not {task_chunk}",
        )
        patterns = _patterns(params)

        follow_policy(net)
        self._call = Call(net)
        self.rule, self.steps, self.objective = rule, steps, objective
        self.steps_test = steps_test
        self.first_order, self.task_chunk = first_order, task_chunk
        self.recompute = recompute
        self._broke: Tensor | None = None  # whether a loss of sound weights came to no number
        self._watched: set[bool] = set()  # the modes in which the net was seen to write nothing

        self.prefix = "net.encoder." if is_plain(net) else "net."  # which `params` leaves out
        self.adapted = self._chosen(patterns)  # the names of what adapts, as `caller` has them
        of_net = ("answers", "tells_scale", "per_query", "way", "shots", "max_queries_per_class")
        for trait in (*JOINED, *of_net):
            setattr(self, trait, getattr(net, trait))
        if self.policy is not None and self.batch_norm == "running":
            self.set_batch_norm(self.policy)
        self._bind_rule()

    def _check_net(self, net: Learner) -> None:
        """InputError for a net that cannot be adapted."""
        require(
            not net.asks,
            "a learner that asks for labels cannot be adapted; choose a head that asks for none",
        )
        require(
            net.answers == "classes" or self.takes_values,
            f"{type(self).__name__} descends losses of classes, but this learner answers with "
            "values; leave learner.adapt out, or take another such as maml",
        )
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

    def _chosen(self, patterns: Sequence[str]) -> list[str]:
        """The names of the parameters, stored or imprinted, that match the patterns.

        Raises:
            InputError: where none does, and for a name without a wildcard that no parameter has,
                also behind a !: a pattern may suit some nets only, such a name is a slip.
        """
        net = self.net
        imprinted = [f"head.{n}" for n in getattr(getattr(net, "head", None), "imprinted", ())]
        of_net = [n for n, p in net.named_parameters() if p.requires_grad or self.adapts_frozen]
        names = [self._told(n) for n in (*of_net, *imprinted)]
        known = {*names, *(self._told(n) for n, _ in net.named_parameters())}
        chosen = [self.prefix + n for n in names if _matches(n, patterns)]
        slips = [p for p in patterns if _is_name(p) and p.removeprefix("!") not in known]
        require(
            chosen and not slips,
            f"no parameter matches {', '.join(slips or patterns)!r}; the net has "
            f"{', '.join(names) or 'none'}",
        )
        return chosen

    def _told(self, name: str) -> str:
        """A parameter of the net by the name that `params` matches."""
        return f"net.{name}".removeprefix(self.prefix)

    def _bind_rule(self) -> None:
        """Tell the rule what adapts; of what is imprinted, no shape is known before an episode."""
        known = dict(self._call.named_parameters())
        scalar = next(iter(known.values()), torch.zeros(())).new_zeros(())
        self.rule.bind({name: known.get(name, scalar).detach() for name in self.adapted})

    @property
    def net(self) -> Learner:
        """The learner that adapts, with its own parameters."""
        return self._call.net

    @property
    def caller(self) -> Call:
        """The net as `torch.func.functional_call` takes it, with the names of `adapted`."""
        return self._call

    def clone(self) -> Clone:
        """A copy of the net that adapts by losses that it is given, see `graphfsl.core.clone`."""
        return Clone(self)

    @property
    def batch_norm(self) -> str:  # type: ignore[override]
        """The BatchNorm policy of the net."""
        return self.net.batch_norm

    @property
    def innermost(self) -> Learner:
        """The learner inside all inner loops."""
        return self.net.innermost

    @property
    def remarks(self) -> list[str]:
        """What a results row says of it beside its traits."""
        if self.steps_test in (None, self.steps):
            return self.net.remarks
        return [*self.net.remarks, f"{self.steps_test} inner steps, {self.steps} in training"]

    @property
    def steps_now(self) -> int:
        """The inner steps of this mode, training or not."""
        if self.training or self.steps_test is None:
            return self.steps
        return self.steps_test

    @property
    def drops_second_order(self) -> bool:
        """Whether inner losses and gradients are constants now."""
        return self.first_order

    def set_batch_norm(self, policy: str) -> None:
        """Choose the BatchNorm policy of the net; an unknown one raises InputError."""
        self.net.set_batch_norm(policy)
        self.per_query = self.net.per_query

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

    @property
    def encodes_once(self) -> bool:
        """Whether an image's features stay as they are along the inner loop.

        Then each image is encoded once, and only what follows the encoder is adapted.
        """
        return (
            isinstance(self.net, Pipeline)
            and getattr(self.objective, "of_support", False)
            and self.batch_norm not in ("joint", "each")  # the support alone has other statistics
            and not any(name.startswith("net.encoder.") for name in self.adapted)
        )

    def given(self, step: int) -> Params:
        """Parameters of the net that have other values at this step; adapted ones are not asked.

        Queries are answered with those of the last step that was taken.
        """
        return {}

    def task_loss(self, path: Path, episode: Episode, target: BaseTarget, call: Call) -> Tensor:
        """What a task costs: a scalar.

        Args:
            path: the weights before and after every step, path[-1] those that answer.
            episode: of one task.
            target: of its queries.
            call: what `loss_at` takes.
        """
        return self.loss_at(path[-1], max(len(path) - 2, 0), episode, target, call)

    def loss_at(
        self, params: Params, step: int, episode: Episode, target: BaseTarget, call: Call
    ) -> Tensor:
        """The net's loss of the queries, with what is given at a step: a scalar."""
        weights = {**self.given(step), **params}
        loss: Tensor = torch.func.functional_call(call, weights, ("loss", episode, target))
        return loss

    def inner_loss(
        self,
        params: Params,
        step: int,
        episode: Episode,
        call: Call,
        run: Callable[..., Any] = torch.func.functional_call,
    ) -> Tensor:
        """What a step descends, with these weights: a scalar.

        Args:
            params: the weights.
            step: its number.
            episode: of one task.
            call: what `loss_at` takes.
            run: calls a module with other weights.
        """
        weights = {**self.given(step), **params}

        def score(e: Episode) -> Tensor:
            scores: Tensor = run(call, weights, ("score", e))
            return scores

        return self.objective(score, episode, step)

    def adapt(self, episode: Episode) -> Params:
        """The adapted parameters of one task: episode with B = 1 -> name -> tensor."""
        with adapting():
            return self._adapted(self._with_images(episode), self._call)

    def path(self, episode: Episode) -> Path:
        """The parameters of one task before and after every step: episode with B = 1."""
        with adapting():
            return self._path(self._with_images(episode), self._call)

    def _with_images(self, episode: Episode) -> Episode:
        """The episode with the images that the net's augment parts generate.

        All inner steps are on the same ones: the net generates none while it adapts.
        """
        net = self.innermost
        if is_adapting() or not isinstance(net, Pipeline):
            return episode  # a loop around this one has generated them
        return net.with_images(episode)

    def _path(self, episode: Episode, call: Call) -> Path:
        return [self.on_path(*reached) for reached in self._walk(episode, call)]

    def on_path(self, params: Params, state: Any) -> Params:
        """What `task_loss` sees of a step: the weights, and what it reads of the rule's state."""
        return params

    def _adapted(self, episode: Episode, call: Call) -> Params:
        """The parameters of one task after the last step; those before are not kept."""
        for params, _ in self._walk(episode, call):
            last = params
        return last

    def _walk(self, episode: Episode, call: Call) -> Iterator[tuple[Params, Any]]:
        """The parameters theta_0, theta_1, … of one task, and the rule's state at each."""
        params = self._start(episode, call)
        state = self.rule.init(params)
        yield params, state
        for step in range(self.steps_now):
            params, state = self._step(params, state, step, episode, call)
            yield params, state

    def _step(
        self, params: Params, state: Any, step: int, episode: Episode, call: Call
    ) -> tuple[Params, Any]:
        """The parameters and the rule's state after one step."""
        run = torch.func.functional_call
        if self.keeps_autocast:
            run = keep_precision(run, episode.x.device)

        def inner(params: Params) -> Tensor:
            return self.inner_loss(params, step, episode, call, run)

        with full_precision(episode.x.device):
            second_order = torch.is_grad_enabled() and not self.drops_second_order
            loss, grads = inner_gradient(inner, params, second_order)
            return self.rule.update(params, grads, loss, state, step)

    def _start(self, episode: Episode, call: Call) -> Params:
        """theta_0: the net's own parameters, and what the support imprints."""
        known = dict(self._call.named_parameters())
        params: Params = {name: known[name] for name in self.adapted if name in known}
        if len(params) < len(self.adapted):
            imprinted = self._imprint(episode, call)
            params |= {name: p for name, p in imprinted.items() if name in self.adapted}
        return params

    def _imprint(self, episode: Episode, call: Call) -> Params:
        net: Any = call.net
        support = net.encode(episode.parts(query=False, unlabeled=False))
        with full_precision(episode.x.device):
            for part in net.feature_parts:
                support = part(support)
            return {f"net.head.{n}": p for n, p in net.head.imprint(support).items()}

    def _at_once(self, episode: Episode) -> int:
        """How many tasks run at once."""
        tasks = len(episode.x)
        if self.recompute:
            return 1
        return min(tasks, self.task_chunk or (1 if episode.x.device.type == "cpu" else tasks))

    def _encoded(self, episode: Episode) -> tuple[Episode, Call]:
        """What the inner loop adapts on: features where the encoder stays as it is."""
        if not self.encodes_once:
            return episode, self._call
        net: Any = self.net
        return net.encode(episode), Call(net.on_features())

    def _answers(self, episode: Episode, method: str) -> Tensor:
        """What a method of the net says of each task by the parameters adapted to it.

        Args:
            episode: of B tasks.
            method: "score" or "score_open".

        Returns:
            (B, 1, n, C) or (B, L, 1, n, C).
        """
        with adapting():
            encoded, call = self._encoded(episode)

            def answer(nodes: Params) -> Tensor:
                task = encoded.with_tensors(_one_task(nodes))
                given = self.given(max(self.steps_now - 1, 0))
                weights = {**given, **self._adapted(task, call)}
                scores: Tensor = torch.func.functional_call(call, weights, (method, task))
                return scores

            return self._of_each_task(answer, encoded, encoded.tensors)

    def _task_losses(self, episode: Episode, target: BaseTarget) -> Tensor:
        """What each task costs with its adapted weights, the whole graph behind it: (B,)."""
        with adapting():
            encoded, call = self._encoded(episode)

            def price(nodes: Params, truth: Params) -> Tensor:
                task = encoded.with_tensors(_one_task(nodes))
                path = self._path(task, call)
                return self.task_loss(path, task, target.with_tensors(_one_task(truth)), call)

            return self._of_each_task(price, encoded, encoded.tensors, target.tensors)

    def _of_each_task(
        self, function: Callable[..., Tensor], episode: Episode, *tensors: Params
    ) -> Tensor:
        """What a function of one task's tensors returns for each task, as many at once as may be.

        Args:
            function: takes of each of `tensors` what is the task's own.
            episode: of B tasks.
            tensors: each name -> (B, …).

        Returns:
            (B, …)
        """
        at_once = self._at_once(episode)
        if at_once > 1:
            every = torch.func.vmap(function, chunk_size=at_once, randomness="different")
            of_all: Tensor = every(*tensors)
            return of_all
        tasks = range(len(episode.x))
        return torch.stack([function(*(_task(t, i) for t in tensors)) for i in tasks])

    def score(self, episode: Episode) -> Tensor:
        """Scores (B, n, C) of each task with the parameters adapted to it, or (L, B, n, C)."""
        return self._score(episode, "score")

    def score_open(self, episode: Episode) -> Tensor:
        """The same and the net's novelty: (B, n, C + 1), see `Learner.score_open`."""
        return self._score(episode, "score_open")

    def _score(self, episode: Episode, method: str) -> Tensor:
        grown = self._with_images(_as_floats(episode))
        with self._unwritten():
            # (B, 1, n, C) or (B, L, 1, n, C)
            scores = own_nodes(self._answers(grown, method), grown, episode)
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
        """The mean over tasks of what each costs with its adapted weights: a scalar.

        It carries its gradient, which is computed here, a chunk of tasks after the other, so that
        only one chunk's graph is in memory (`graphfsl.core.meta_gradient`). A second derivative
        computes the loss again with its whole graph, and raises InputError where the loss
        `stands_for_gradient`. Inside a function transform, and where more than parameters is
        differentiated, the graph is kept from the start.
        """
        if self.training and self.batch_norm == "running" and not self._checked:
            self.check_averages()
            self._checked = True  # looking at averages waits for a GPU: once is enough
        episode = self._with_images(_as_floats(episode))

        def plain() -> Tensor:
            if not self.stands_for_gradient:
                return self._task_losses(episode, target).mean()
            # every parameter of this inner loop goes through `once`, which refuses the second
            weights = {f"net.{name}": once(p) for name, p in self.named_parameters()}
            arguments = ("_task_losses", episode, target)
            losses: Tensor = torch.func.functional_call(Call(self), weights, arguments)
            return losses.mean()

        again = repeatable(plain, episode.x.device)
        learned = [p for p in self.parameters() if p.requires_grad]
        data = [*episode.tensors.values(), *target.tensors.values()]
        with self._unwritten():
            if (
                not torch.is_grad_enabled()
                or transforming()
                or not learned
                or not all(p.is_leaf for p in learned)
                or any(t.requires_grad for t in data)
            ):
                return plain()
            value, grads = self._meta_gradient(episode, target, learned)
        self._note(value)
        return with_gradient(value, grads, learned, again)

    def _note(self, loss: Tensor) -> None:
        """Remember whether sound weights came to a loss of no number; no GPU is waited for."""
        size = nn.utils.get_total_norm([p.detach() for p in self.net.parameters()])
        broke = ~loss.isfinite() & (size < HUGE)
        before = broke if self._broke is None else self._broke.to(broke.device)
        self._broke = broke | before

    def why_no_number(self) -> str:
        """That the inner loop diverged, where the weights that it started at were sound."""
        broke, self._broke = self._broke, None
        return self.diverged if broke is not None and bool(broke) else ""

    @property
    def diverged(self) -> str:
        """What there is to say where the inner loop left nothing finite."""
        steps = self.steps_now
        after = f"{steps} step{'s' * (steps != 1)} {self.rule.pace}".strip()
        less = "a smaller lr or fewer steps"
        if isinstance(self.rule, LearnedRates):
            less = "fewer steps, or a training with a smaller trainer.lr,"
        return (
            f"the inner loop of {type(self).__name__} diverged: nothing finite is left after "
            f"{after}; {less} may do"
        )

    def _meta_gradient(
        self, episode: Episode, target: BaseTarget, learned: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The mean loss of the tasks, and its gradient for what is learned."""
        gradient, values = Gradient(learned), []
        tasks = len(episode.x)
        for chunk in chunks(tasks, self._at_once(episode)):
            nodes = {name: t[chunk] for name, t in episode.tensors.items()}
            truth = {name: t[chunk] for name, t in target.tensors.items()}
            part = episode.with_tensors(nodes), target.with_tensors(truth)
            values.append(self._add_chunk(*part, gradient, 1 / tasks))
        return torch.stack(values).sum(), gradient.total

    def _add_chunk(
        self, episode: Episode, target: BaseTarget, gradient: Gradient, share: float
    ) -> Tensor:
        """Add the meta-gradient of a chunk of tasks to a sum.

        Args:
            episode: the tasks of the chunk.
            target: of their queries.
            gradient: the sum, for what is learned.
            share: of one task in the loss.

        Returns:
            what the chunk adds to the loss, detached.
        """
        with adapting():
            encoded, call = self._encoded(episode)
            features = encoded.x  # they have a graph where an encoder learns that does not adapt
            if features.requires_grad:
                encoded = encoded.with_tensors({"x": cut_off(features)})
            inputs = [encoded.x] if features.requires_grad else []
            of_chunk = Gradient([*inputs, *gradient.wanted])

            steps = self._steps_of(encoded, call)
            path = [{n: cut_off(p) for n, p in params.items()} for params in steps.walk()]
            loss = share * self._sum_of_losses(path, encoded, target, call)
            at_path = of_chunk.add(loss, cut=[p for params in path for p in params.values()])
            steps.push_back(at_path, of_chunk)

            if inputs:
                gradient.push_back([features], of_chunk.total[:1])
            gradient.merge(of_chunk.total[len(inputs) :])
            return loss.detach()

    def _sum_of_losses(
        self, path: Path, episode: Episode, target: BaseTarget, call: Call
    ) -> Tensor:
        """What the tasks of a chunk cost together, with the weights along their steps: a scalar."""
        if len(episode.x) == 1:
            return self.task_loss(path, episode, target, call)

        def price(path: Path, nodes: Params, truth: Params) -> Tensor:
            task = episode.with_tensors(_one_task(nodes))
            return self.task_loss(path, task, target.with_tensors(_one_task(truth)), call)

        every = torch.func.vmap(price, randomness="different")
        losses: Tensor = every(path, episode.tensors, target.tensors)
        return losses.sum()

    def _steps_of(self, episode: Episode, call: Call) -> StepsOnce | StepsAgain:
        """The inner steps of a chunk of tasks; the weights of a single task have no axis of tasks.

        They are taken once, their graph kept until it has served, or with `recompute` twice.
        """
        if self.recompute:
            return self._steps_again(episode, call)
        if len(episode.x) == 1:
            return StepsOnce(lambda: self._path(episode, call))

        def walk(nodes: Params) -> Path:
            return self._path(episode.with_tensors(_one_task(nodes)), call)

        every = torch.func.vmap(walk, randomness="different")
        return StepsOnce(lambda: every(episode.tensors))

    def _steps_again(self, episode: Episode, call: Call) -> StepsAgain:
        def start() -> tuple[Params, Any]:
            params = self._start(episode, call)
            return params, self.rule.init(params)

        def step(params: Params, state: Any, number: int) -> tuple[Params, Any]:
            return self._step(params, state, number, episode, call)

        return StepsAgain(start, step, self.steps_now, episode.x.device)

    @contextmanager
    def _unwritten(self) -> Iterator[None]:
        """InputError where the net writes anything of its own meanwhile."""
        with unwritten(self.net, by_value=self.training not in self._watched):
            yield
        if not transforming():  # within one numbers are not compared
            self._watched.add(self.training)  # comparing them waits for a GPU: once a mode

    def fit_base(self, features: Any, labels: Tensor, **more: Any) -> None:
        """Let the net learn from base-class features (N, d) and labels (N,), see `Pipeline`."""
        self.net.fit_base(features, labels, **more)


def _learner(net: Any) -> Learner:
    """The net as a learner; InputError for what is no module, or is a part of one."""
    if isinstance(net, nn.Module) and not isinstance(net, Part):
        return plain(net)
    return check_kind(net, Learner, "what adapts", A_LEARNER)


def _as_floats(episode: Episode) -> Episode:
    """Label weights in the precision of the samples, where those are floats."""
    if not episode.x.is_floating_point():
        return episode
    return episode.with_tensors({"w": episode.w.to(episode.x.dtype)})


def _patterns(params: Any) -> list[str]:
    """Name patterns as a list; InputError for what are none."""
    patterns = (
        [params] if isinstance(params, str) or not isinstance(params, Iterable) else [*params]
    )
    for pattern in patterns:
        require(
            isinstance(pattern, str),
            "params must be names of parameters, or patterns as 'head.*', not "
            f"{described(pattern)}",
        )
    return patterns


def _check_steps(name: str, count: int | None, rule: Rule) -> None:
    """InputError for a number of steps that is none, or that the rule cannot take."""
    if count is None:
        return
    require(
        whole_number(count, f"the number of inner {name}") >= 0,
        f"the number of inner {name} must be 0 or more, not {count}",
    )
    most = rule.most_steps
    require(
        most is None or count <= most,
        f"{type(rule).__name__} was trained for {most} inner steps, not for {name}={count}; set "
        f"{name}={most}, or beyond=last, which goes on as in the last step",
    )
