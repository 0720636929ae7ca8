"""An inner loop written by hand: `clone`, `adapt(loss)` and a call, for any loss of a user's own.

    clone = maml.clone()
    for _ in range(5):
        clone.adapt(loss_of(clone(x), y))   # a step of the rule down this loss
    loss_of(clone(x_query), y_query).backward()

The names are those of learn2learn: Arnold et al. 2020, https://arxiv.org/abs/2008.12284
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphfsl.core.arguments import described
from graphfsl.core.batchnorm import adapting, has_batch_norm
from graphfsl.core.inner_gradient import plain_attention
from graphfsl.core.outputs import is_plain
from graphfsl.core.rules import Params
from graphfsl.io.errors import InputError, require

if TYPE_CHECKING:
    from graphfsl.core.adapt import Adapt


class Clone:
    """A copy of a network whose weights adapt by losses that it is given.

    Calling it calls the network with the adapted weights; the stored ones, and the buffers, stay as
    they are. Gradients of whatever is computed with it reach the parameters of the inner loop that
    it was cloned from, those of the rule too.

    BatchNorm: under the policy `apart` each call is normalised by its own statistics, and under
    `running` as PyTorch does it.

    Args:
        loop: the inner loop.

    Attributes:
        path: the adapted weights before and after every step, by name.
    """

    def __init__(self, loop: Adapt) -> None:
        net = loop.net
        self._plain = is_plain(net)
        self._method = "encoder" if self._plain else "forward"
        require(
            not self._plain or loop.batch_norm in ("running", "apart") or not has_batch_norm(net),
            f"a clone does not know which samples are the support, as batch_norm="
            f"{loop.batch_norm} asks; choose running or apart",
        )
        drawn = [type(part).__name__ for part in getattr(loop.innermost, "image_parts", ())]
        require(
            not drawn,
            f"{', '.join(drawn)} generates images of an episode's support, which a clone does not "
            "know; call the learner on episodes",
        )
        own = dict(loop.caller.named_parameters())
        made = [name for name in loop.adapted if name not in own]
        require(
            not made,
            f"{', '.join(made)} start at the support of an episode, which a clone does not have; "
            "call the learner on episodes",
        )
        self._loop = loop
        self._buffers = {name: b.clone() for name, b in loop.caller.named_buffers()}
        weights = {name: own[name] for name in loop.adapted}
        start = {
            n: p if p.requires_grad else p.detach().requires_grad_() for n, p in weights.items()
        }
        self._path: list[Params] = [start]
        self._state = loop.rule.init(start)

    @property
    def path(self) -> list[Params]:
        """The adapted weights before and after every step, by the names of the network."""
        return [{self._short(n): p for n, p in params.items()} for params in self._path]

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All weights of the network by name, as they are now."""
        now = self._path[-1]
        for name, p in self._loop.caller.named_parameters():
            yield self._short(name), now.get(name, p)

    def parameters(self) -> Iterator[Tensor]:
        """All weights of the network, as they are now."""
        return (p for _, p in self.named_parameters())

    def clone(self) -> Clone:
        """A copy that goes on from here, apart from this one."""
        other = Clone(self._loop)
        other._buffers = {name: b.clone() for name, b in self._buffers.items()}
        other._path, other._state = list(self._path), self._state
        return other

    def __call__(
        self, *args: Any, params: Mapping[str, Tensor] | None = None, **options: Any
    ) -> Any:
        """What the network returns for these arguments with the adapted weights.

        Layers that have other values in each step, as BatchNorm in MAML++, have those of the step
        that comes next; after the last step, those of the last.

        Args:
            args: of the network.
            params: other weights by name, such as `path[0]`; None takes those after the last step.
            options: of the network.
        """
        given = self._loop.given(len(self._path) - 1)
        own = self._path[-1] if params is None else {self._long(n): p for n, p in params.items()}
        weights = {**self._buffers, **given, **own}
        unlike_torch = not self._plain or self._loop.batch_norm != "running"
        # any step may be differentiated twice, see `first_order` of `adapt`
        with adapting() if unlike_torch else nullcontext(), plain_attention():
            return torch.func.functional_call(
                self._loop.caller, weights, (self._method, *args), options
            )

    def adapt(
        self, loss: Tensor, first_order: bool | None = None, allow_unused: bool = True
    ) -> None:
        """Take one step of the rule down a loss that was computed with this clone.

        Args:
            loss: a scalar.
            first_order: whether its gradient is a constant; None asks the inner loop.
            allow_unused: whether weights that the loss does not depend on count as weights with a
                gradient of zero.

        Raises:
            InputError: for a loss that is no scalar or depends on none of the weights, for one that
                leaves some unused where that is not allowed, and for more steps than the rule can
                take.
        """
        rule, params, step = self._loop.rule, self._path[-1], len(self._path) - 1
        require(
            rule.most_steps is None or step < rule.most_steps,
            f"{type(rule).__name__} was trained for {rule.most_steps} inner steps, and the clone "
            "has taken them",
        )
        require(
            isinstance(loss, Tensor) and loss.numel() == 1,
            f"the loss must be a scalar tensor, not {described(loss)}",
        )
        second_order = not (self._loop.drops_second_order if first_order is None else first_order)
        scalar = loss.reshape(())
        grads = self._gradient(scalar, params, second_order, allow_unused)
        # a rule may look at the loss, as the LSTM meta-learner does
        scalar = scalar if second_order else scalar.detach()
        moved, self._state = rule.update(params, grads, scalar, self._state, step)
        self._path.append(moved)

    def _gradient(
        self, loss: Tensor, params: Params, second_order: bool, allow_unused: bool
    ) -> Params:
        found: tuple[Tensor | None, ...] = (None,) * len(params)
        if loss.requires_grad:
            found = torch.autograd.grad(
                loss, list(params.values()), create_graph=second_order, allow_unused=True
            )
        unused = [self._short(n) for n, g in zip(params, found, strict=True) if g is None]
        if len(unused) == len(params):
            raise InputError(
                "the loss depends on none of the weights that adapt; compute it with this clone, "
                "after its last step and outside of torch.no_grad()"
            )
        require(
            allow_unused or not unused,
            f"the loss does not depend on {', '.join(unused)}; leave them out of params, or set "
            "allow_unused=True",
        )
        pairs = zip(params.items(), found, strict=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in pairs}

    def _short(self, name: str) -> str:
        """A name as the network itself has it."""
        return name.removeprefix(self._loop.prefix)

    def _long(self, name: str) -> str:
        """A name as the inner loop has it."""
        return self._loop.prefix + name
