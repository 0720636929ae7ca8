"""A second-order MAML step beside `higher`, `torchopt` and a plain loop of autograd.

    python -m benchmarks.maml [--steps 1 5] [--threads 1] [--tasks 4] [--rounds 5]

Conv4, 5-way 1-shot, 15 queries a class. Each peer is four plain Conv2d + BatchNorm2d
(track_running_stats=False) whose weights lie as PyTorch makes them, or channels_last, and takes
the backward pass of each task by itself. All run in turns, in one process and on the same threads;
the best of some rounds counts, and the ratio is to the best of all peers.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peak_memory import peak_memory
from graphfsl.core.episode import Episode, Target
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.allocator import reuse_freed_memory
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.heads.linear import Linear
from graphfsl.nn.conv4 import Conv4

WAY, QUERY, LR = 5, 15, 0.04


class Plain(nn.Module):
    """Conv4 and a linear layer as people write them."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(
                nn.Conv2d(channels, 64, 3, padding=1),
                nn.BatchNorm2d(64, track_running_stats=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            for channels in (1, 64, 64, 64)
        ]
        self.body, self.head = nn.Sequential(*blocks), nn.Linear(64, WAY)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).flatten(1))
        return out


def ours(net: Plain, steps: int, first_order: bool = False) -> MAML:
    """The same weights in our own learner."""
    encoder, head = Conv4(), Linear(64, WAY)
    for i, block in enumerate(net.body):
        conv, norm, *_ = block.children()
        encoder.convs[i].load_state_dict(conv.state_dict())
        encoder.norms[i].load_state_dict(norm.state_dict(), strict=False)
    head.linear.load_state_dict(net.head.state_dict())
    return MAML(Pipeline(encoder, head=head), steps, LR, first_order).train()


def inner_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """The sum over the support images of one shot."""
    return F.cross_entropy(scores, labels, reduction="sum")


class Tasks:
    """Random images of some tasks, and what each library makes of them."""

    def __init__(self, tasks: int, steps: int, dtype: torch.dtype = torch.float32) -> None:
        self.steps = steps
        x = torch.rand(tasks, WAY, 1, 28, 28)[:, :, None].expand(-1, -1, 1 + QUERY, -1, -1, -1)
        x = (x + 0.3 * torch.randn(x.shape)).transpose(1, 2).flatten(1, 2)
        self.x = x.to(dtype)
        self.y_support = torch.arange(WAY).expand(tasks, WAY)
        self.y_query = torch.arange(WAY).repeat(QUERY).expand(tasks, -1)

    @property
    def support(self) -> Tensor:
        return self.x[:, :WAY]

    @property
    def queries(self) -> Tensor:
        return self.x[:, WAY:]

    @property
    def episode(self) -> tuple[Episode, Target]:
        b, n = self.x.shape[:2]
        w = torch.zeros(b, n, WAY, dtype=self.x.dtype)
        w[:, :WAY] = torch.eye(WAY)
        ids = torch.zeros(b, n, dtype=torch.long)
        target = Target(self.y_query, ids[:, :0], ids, ids[:, :WAY])
        return Episode(self.x, w, WAY, n - WAY), target

    def double(self) -> Tasks:
        """The same images in float64."""
        other = copy.copy(self)
        other.x = self.x.double()
        return other

    def graphfsl(self, model: MAML) -> list[Tensor]:
        episode, target = self.episode
        loss = model.loss(episode, target)
        return list(torch.autograd.grad(loss, list(model.parameters())))

    def plain(self, net: Plain, first_order: bool = False) -> list[Tensor]:
        """`torch.func.functional_call` and `torch.autograd.grad`, backward after each task."""
        params: dict[str, Tensor] = dict(net.named_parameters())
        net.zero_grad()
        for i in range(len(self.x)):
            fast = params
            for _ in range(self.steps):
                scores = torch.func.functional_call(net, fast, (self.support[i],))
                loss = inner_loss(scores, self.y_support[i])
                grads = torch.autograd.grad(loss, list(fast.values()), create_graph=not first_order)
                fast = {n: p - LR * g for (n, p), g in zip(fast.items(), grads, strict=True)}
            scores = torch.func.functional_call(net, fast, (self.queries[i],))
            (F.cross_entropy(scores, self.y_query[i]) / len(self.x)).backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    def higher(self, net: Plain) -> list[Tensor]:
        import higher

        net.zero_grad()
        optimizer = torch.optim.SGD(net.parameters(), LR)
        for i in range(len(self.x)):
            with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (fast, inner):
                for _ in range(self.steps):
                    inner.step(inner_loss(fast(self.support[i]), self.y_support[i]))
                loss = F.cross_entropy(fast(self.queries[i]), self.y_query[i]) / len(self.x)
                loss.backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    def torchopt(self, net: Plain) -> list[Tensor]:
        import torchopt

        net.zero_grad()
        inner = torchopt.MetaSGD(net, lr=LR)
        start = torchopt.extract_state_dict(net, by="reference")
        inner_start = torchopt.extract_state_dict(inner, by="reference")
        leaves = list(net.parameters())
        for i in range(len(self.x)):
            for _ in range(self.steps):
                inner.step(inner_loss(net(self.support[i]), self.y_support[i]))
            loss = F.cross_entropy(net(self.queries[i]), self.y_query[i]) / len(self.x)
            loss.backward()
            torchopt.recover_state_dict(net, start)
            torchopt.recover_state_dict(inner, inner_start)
        return [p.grad for p in leaves if p.grad is not None]


def best_of(work: dict[str, Callable[[], list[Tensor]]], rounds: int) -> dict[str, float]:
    """The best seconds of each, taken in turns after one round to warm up."""
    best = dict.fromkeys(work, float("inf"))
    for i in range(rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            took = time.perf_counter() - start
            if i:
                best[name] = min(best[name], took)
    return best


def half(run: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
    """The same under bfloat16 autocast."""

    def under_autocast() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return run()

    return under_autocast


def distance(found: list[Tensor], true: list[Tensor]) -> float:
    """The relative distance |found - true| / |true| of two gradients."""
    a, b = (torch.cat([g.double().flatten() for g in grads]) for grads in (found, true))
    return float((a - b).norm() / b.norm())


WANTED = {  # the most of the best peer's time, by (first order, bfloat16, inner steps)
    (False, False, 1): 0.80,
    (False, True, 1): 0.60,
    (False, False, 5): 0.95,
    (False, True, 5): 0.85,
    (True, False, 1): 0.65,
    (True, True, 1): 0.55,
}


def compare(steps: int, tasks: int, rounds: int) -> Iterator[tuple[str, str, str]]:
    """Rows of a step of training with so many inner steps."""
    torch.manual_seed(0)
    net, work = Plain(), Tasks(tasks, steps)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    second, first = ours(net, steps), ours(net, steps, first_order=True)
    runs: dict[str, Callable[[], list[Tensor]]] = {}
    for layout, module in (("NCHW", net), ("channels_last", last)):
        runs[f"plain {layout}"] = partial(work.plain, module)
        runs[f"higher {layout}"] = partial(work.higher, module)
        runs[f"torchopt {layout}"] = partial(work.torchopt, module)
    peers = list(runs)
    own = {}
    for is_first, model in ((False, second), (True, first)):
        run = partial(work.graphfsl, model)
        for is_half in (False, True):
            name = "first order" if is_first else "second order"
            name += ", bf16" if is_half else ""
            runs[name] = half(run) if is_half else run
            own[name] = (is_first, is_half, steps)
    times = best_of(runs, rounds)
    peer = min(peers, key=times.__getitem__)
    exact, exact_net = work.double(), copy.deepcopy(net).double()
    true = {order: exact.plain(exact_net, first_order=order) for order in (False, True)}
    yield f"MAML, {steps} inner step(s), {peer}", f"{1e3 * times[peer] / tasks:.1f} ms a task", ""
    for name, kind in own.items():
        most = WANTED.get(kind)
        wanted = "" if most is None else f"at most {most:.2f}"
        title = f"MAML, {steps} inner step(s), {name}"
        yield f"{title} / best peer, second order", f"{times[name] / times[peer]:.2f}", wanted
        off = distance(by_name(runs[name](), second, net), true[kind[0]])
        wanted = f"at most {'2e-2' if kind[1] else '1e-4'}" if steps == 1 else ""
        yield "... its gradient from float64's", f"{off:.1e}", wanted


def by_name(found: list[Tensor], model: MAML, net: Plain) -> list[Tensor]:
    """Our gradients in the order of the plain network's parameters."""
    ours_of = dict(zip((n for n, _ in model.named_parameters()), found, strict=True))
    names = []
    for i in range(len(net.body)):
        for kind in ("convs", "norms"):
            names += [f"_call.net.encoder.{kind}.{i}.{w}" for w in ("weight", "bias")]
    names += [f"_call.net.head.linear.{w}" for w in ("weight", "bias")]
    return [ours_of[name] for name in names]


def peak(tasks: int) -> float:
    """The memory in MiB of a step on so many tasks, beyond what is there before it."""
    torch.manual_seed(0)
    net, work = Plain(), Tasks(tasks, 1)
    model = ours(net, 1)
    before = peak_memory()
    work.graphfsl(model)
    return peak_memory() - before


def maml(device: str, sync: Callable[[], None]) -> Iterator[tuple[str, str, str]]:
    """A step of MAML beside its peers, and its memory by the size of the meta-batch."""
    if device != "cpu":
        return
    for steps in (1, 5):
        yield from compare(steps, tasks=4, rounds=5)
    code = [sys.executable, "-W", "ignore", "-m", "benchmarks.maml", "--memory"]
    peaks: dict[int, list[float]] = {4: [], 32: []}
    for _ in range(3):  # the system rounds what it hands out
        for tasks, found in peaks.items():
            run = subprocess.run([*code, str(tasks)], check=True, capture_output=True, text=True)
            found.append(float(run.stdout))
    few, many = min(peaks[4]), min(peaks[32])
    yield "MAML, memory of a step, 32 tasks / 4 tasks", f"{many / few:.2f}", "at most 1.10"
    yield "... of 32 tasks", f"{many:.0f} MiB", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, help="the peak of a step on so many tasks, no more")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reuse_freed_memory()
    if options.memory:
        print(peak(options.memory))
        return
    for steps in options.steps:
        for what, found, wanted in compare(steps, options.tasks, options.rounds):
            print(f"{found:>20}  {wanted:<14}  {what}", flush=True)


if __name__ == "__main__":
    main()
