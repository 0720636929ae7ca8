"""Training: it learns, it resumes to the bit after SIGKILL, and it keeps the best by validation
classes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode, Target
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes, Transform
from graphfsl.io.checkpoint import load_checkpoint, save_checkpoint
from graphfsl.io.errors import InputError
from graphfsl.loops.trainer import Trainer
from graphfsl.loops.training_state import kept_files, step_of
from graphfsl.methods.heads.protonet import ProtoNet
from tests.support import ROOT
from tests.support.training import SETTING, Steep, fit, patterns, pipeline


def test_it_learns(tmp_path: Path) -> None:
    _, metrics = fit(tmp_path, steps=150)
    assert metrics[-1]["loss"] < 0.9 * metrics[0]["loss"]
    assert [
        json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ] == metrics


def test_the_best_by_validation_is_kept(tmp_path: Path) -> None:
    learner, metrics = fit(tmp_path, steps=80)
    best = max((m for m in metrics if "val" in m), key=lambda m: m["val"])
    tensors, facts = load_checkpoint(tmp_path / "best.safetensors")
    assert (facts["step"], facts["val"]) == (best["step"], best["val"])
    assert all(torch.equal(v, tensors[k]) for k, v in learner.state_dict().items())


def test_a_run_directory_changes_nothing(tmp_path: Path) -> None:
    a, b = fit()[0], fit(tmp_path)[0]
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_takes_the_episodes_of_its_number(
    tmp_path: Path, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind a stop, and however far ahead they are drawn."""
    train = Episodes(patterns("train", 0), SETTING, transform=Transform(rotate=5))
    model, seen, loss = pipeline(), [], Pipeline.loss

    def recorded(self: Pipeline, episode: Episode, target: Target) -> Tensor:
        seen.append((episode.x, target.ids))
        return loss(self, episode, target)

    monkeypatch.setattr(Pipeline, "loss", recorded)
    for steps in (3, 7):
        Trainer(steps=steps, batch=4, accumulate=accumulate).fit(model, train, run=tmp_path)
    part = 4 // accumulate
    assert len(seen) == 7 * accumulate
    for k, (x, ids) in enumerate(seen):
        episode, target = train.batch(range(k * part, (k + 1) * part))
        assert torch.equal(x, episode.x) and torch.equal(ids, target.ids)


def kept_steps(run: Path) -> list[int]:
    return [step_of(file) for file in kept_files(run)]


def test_the_best_validations_keep_their_weights(tmp_path: Path) -> None:
    """Of equals the earlier ones, as with the best alone, which is one of them."""
    learner, metrics = fit(tmp_path, steps=80, val_every=10, keep_best=3, log_every=1)
    places = sorted((-m["val"], m["step"]) for m in metrics if "val" in m)
    assert kept_steps(tmp_path) == sorted(step for _, step in places[:3])
    best, facts = load_checkpoint(tmp_path / f"kept-{places[0][1]}.safetensors")
    assert facts == {"step": places[0][1], "val": -places[0][0]}
    assert all(torch.equal(v, best[k]) for k, v in learner.state_dict().items())
    other, _ = load_checkpoint(tmp_path / f"kept-{places[1][1]}.safetensors")
    until, _ = fit(steps=places[1][1], val_every=10**6)
    assert all(torch.equal(v, other[k]) for k, v in until.state_dict().items())


def test_one_validation_is_kept_without_further_files(tmp_path: Path) -> None:
    fit(tmp_path, steps=40)
    assert kept_steps(tmp_path) == []


def test_a_resumed_training_keeps_the_same_best_ones(tmp_path: Path) -> None:
    """Also where files were written after the checkpoint, and others removed for them."""
    options = {"val_every": 4, "keep_best": 3, "checkpoint_every": 20, "steps": 40}
    fit(tmp_path / "whole", **options)
    seen = 0

    def stop(line: dict) -> None:
        nonlocal seen
        seen = line["step"]
        if seen == 36:
            raise KeyboardInterrupt

    trainer = Trainer(lr=1e-2, val_episodes=40, log_every=10, **options)  # type: ignore[arg-type]
    train = Episodes(patterns("train", 0), SETTING, transform=Transform(rotate=5))
    val = Episodes(patterns("val", 1), SETTING)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(pipeline(), train, val, tmp_path / "parts", log=stop)
    assert load_checkpoint(tmp_path / "parts" / "last.safetensors")[1]["step"] == 20
    fit(tmp_path / "parts", **options)
    assert kept_steps(tmp_path / "parts") == kept_steps(tmp_path / "whole")
    for file in kept_files(tmp_path / "whole"):
        one, other = (load_checkpoint(tmp_path / d / file.name)[0] for d in ("whole", "parts"))
        assert all(torch.equal(v, other[k]) for k, v in one.items())


def test_a_training_from_the_start_takes_no_weights_of_another(tmp_path: Path) -> None:
    fit(tmp_path, steps=20, val_every=5, keep_best=4)
    (tmp_path / "last.safetensors").unlink()
    fit(tmp_path, steps=6, val_every=3, keep_best=4)
    assert kept_steps(tmp_path) == [3, 6]


def test_weights_of_several_validations_need_validations_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trainer.keep_best=2 keeps weights .* give val and run"):
        fit(keep_best=2)
    train = Episodes(patterns("train", 0), SETTING)
    with pytest.raises(InputError, match="give val and run"):
        Trainer(keep_best=2).fit(pipeline(), train, run=tmp_path)


def test_patience_stops_early() -> None:
    _, metrics = fit(steps=1000, patience=1, lr=1e-9, val_every=5)
    assert metrics[-1]["step"] <= 20


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_stopping_and_going_on_gives_the_same_weights(tmp_path: Path, optimizer: str) -> None:
    options = {
        "optimizer": optimizer,
        "lr": 1e-3,
        "schedule": "constant",
        "clip": 1.0,
        "checkpoint_every": 10,
        "val_every": 10,
    }
    whole, metrics = fit(tmp_path / "whole", **options)
    fit(tmp_path / "parts", steps=30, **options)
    again, resumed = fit(tmp_path / "parts", pipeline(seed=99), **options)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
    plain = [
        {k: v for k, v in m.items() if k not in ("seconds", "episodes_per_s")} for m in metrics
    ]
    assert [
        {k: v for k, v in m.items() if k not in ("seconds", "episodes_per_s")} for m in resumed
    ] == plain


LONG = {"steps": 400, "checkpoint_every": 7, "val_every": 50, "log_every": 5}
CHILD = f"""
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.support.training import fit
fit(Path(sys.argv[1]), **{LONG})
"""


def test_sigkill_at_random_moments_costs_nothing_but_time(tmp_path: Path) -> None:
    """The weights after kills and resumes equal the uninterrupted run's, bit for bit; so does
    metrics.jsonl.
    """

    fit(tmp_path / "whole", **LONG)
    rng, killed = random.Random(0), 0
    for _ in range(30):
        run = str(tmp_path / "killed")
        child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", CHILD, run], cwd=ROOT)
        begun = time.monotonic()
        # Counted from the first sign of training, since importing torch takes longer than many a
        # kill would wait.
        sign = tmp_path / "killed" / "metrics.jsonl"
        size = sign.stat().st_size if sign.exists() else 0
        while child.poll() is None and time.monotonic() - begun < 120:
            if (sign.stat().st_size if sign.exists() else 0) > size:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.6))
        if child.poll() is not None or killed == 2:
            assert child.wait(timeout=300) == 0
            break
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        killed += 1
    assert killed >= 2, (
        "the run must have been killed at least twice for this test to mean anything"
    )
    for name in ("last.safetensors", "best.safetensors"):
        a, b = (load_checkpoint(tmp_path / d / name) for d in ("whole", "killed"))
        assert a[0].keys() == b[0].keys() and all(
            torch.equal(v, b[0][k]) for k, v in a[0].items()
        ), name
        assert {k: v for k, v in a[1].items() if k != "seconds"} == {
            k: v for k, v in b[1].items() if k != "seconds"
        }
    assert not list((tmp_path / "killed").glob("*.tmp"))
    lines = [
        [json.loads(x)["loss"] for x in (tmp_path / d / "metrics.jsonl").open()]
        for d in ("whole", "killed")
    ]
    assert lines[0] == lines[1]


def test_a_checkpoint_before_the_first_line_of_metrics_resumes(tmp_path: Path) -> None:
    options = {"checkpoint_every": 2, "log_every": 50, "val_every": 50, "steps": 50}
    whole, _ = fit(tmp_path / "whole", **options)
    fit(tmp_path / "part", steps=4, checkpoint_every=2, log_every=50, val_every=50)
    (tmp_path / "part" / "metrics.jsonl").unlink()
    (tmp_path / "part" / "best.safetensors").unlink()
    tensors, facts = load_checkpoint(tmp_path / "part" / "last.safetensors")
    save_checkpoint(
        tmp_path / "part" / "last.safetensors", tensors, facts | {"lines": 0, "best": -1.0}
    )
    again, _ = fit(tmp_path / "part", **options)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())


def test_rates() -> None:
    assert Trainer(lr=1.0, schedule="halve", halve_every=10).rate(25) == 0.25
    assert Trainer(lr=1.0, schedule="cosine", steps=100).rate(50) == pytest.approx(0.5)
    assert [Trainer(lr=1.0, warmup=4).rate(i) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "trainer.steps must be above 0"),
        ({"clip": 0.0}, "trainer.clip must be above 0"),
        ({"warmup": -5}, "trainer.warmup must be 0 or more"),
        ({"precision": "16-mixed"}, "unknown precision"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Trainer(**options)


def test_divergence_is_said() -> None:
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step \d+; lower trainer.lr"):
        fit(lr=1e15, weight_decay=1e15, optimizer="sgd", steps=200)
    # Features may stay finite and all equal: the loss is that of guessing, and nothing moves any
    # more.
    with pytest.raises(
        InputError,
        match=r"(loss is (nan|inf)|weights have diverged).*lower "
        r"trainer.lr",
    ):
        fit(lr=9e15, optimizer="sgd", steps=200)


PLAIN_DESCENT = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "steps": 8, "log_every": 8}


def descended(
    run: Path | None = None, learner: Steep | None = None, **options: object
) -> tuple[dict[str, Tensor], list[dict]]:
    """Weights of a short training without validation, and the lines of its metrics."""
    learner = learner or Steep((2, 5), total=8)
    train = Episodes(patterns("train", 0), SETTING)
    trainer = Trainer(**(PLAIN_DESCENT | {"device": "cpu"} | options))  # type: ignore[arg-type]
    lines = trainer.fit(learner, train, run=run)
    return learner.state_dict(), lines


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("loss", [False, True], ids=["gradient", "loss"])
def test_a_step_without_a_finite_loss_or_gradient_counts_for_nothing(
    loss: bool, clip: float | None
) -> None:
    """As one whose gradient is zero, of which the loss of the line does not take notice."""
    want, flat = descended(learner=Steep((2, 5), total=8, flat=True), clip=clip, log_every=1)
    with pytest.warns(
        UserWarning, match=r"^2 of 8 steps counted for nothing, for want of a finite"
    ):
        weights, (line,) = descended(learner=Steep((2, 5), total=8, loss=loss), clip=clip)
    for name, value in want.items():
        assert torch.equal(value, weights[name]), name
    assert line["left_out"] == 2
    others = [m["loss"] for m in flat if m["step"] not in (3, 6)]  # lines count from one
    assert line["loss"] == pytest.approx(np.mean(others))
    assert not any("left_out" in m for m in flat)


def test_a_resumed_training_knows_what_was_left_out(tmp_path: Path) -> None:
    """Also of a checkpoint between two lines."""
    with pytest.warns(UserWarning, match="2 of 8 steps"):
        whole, (line,) = descended()
    learner = Steep((2, 5), total=8)

    def stop(line: dict) -> None:
        raise KeyboardInterrupt

    train = Episodes(patterns("train", 0), SETTING)
    options = PLAIN_DESCENT | {"device": "cpu", "checkpoint_every": 4}
    with pytest.raises(KeyboardInterrupt):
        Trainer(**options).fit(learner, train, run=tmp_path, log=stop)  # type: ignore[arg-type]
    tensors, facts = load_checkpoint(tmp_path / "last.safetensors")
    assert facts["step"] == 4 and tensors["usable"].tolist() == [True, True, False, True]
    with pytest.warns(UserWarning, match="2 of 8 steps"):
        weights, (again,) = descended(tmp_path, checkpoint_every=4)
    assert all(torch.equal(value, weights[name]) for name, value in whole.items())
    assert (again["left_out"], again["loss"]) == (2, line["loss"])


def test_where_most_gradients_are_not_finite_training_stops() -> None:
    """More than half of the steps of a line; half of them are left out."""
    with pytest.raises(
        InputError, match=r"loss is [\d.]+ at step 8, and its gradient is not finite; lower"
    ):
        descended(learner=Steep((0, 2, 3, 4, 7), total=8))
    with pytest.warns(UserWarning, match="4 of 8 steps"):
        descended(learner=Steep((0, 2, 4, 7), total=8))


def test_bf16_is_an_option() -> None:
    _, metrics = fit(precision="bf16-mixed", steps=20)
    assert np.isfinite(metrics[-1]["loss"])


def test_nothing_to_train_is_said() -> None:
    with pytest.raises(InputError, match="no parameters to train"):
        fit(learner=Pipeline(torch.nn.Flatten(), head=ProtoNet()))


def test_steps_are_recorded_on_a_gpu_alone() -> None:
    """On a CPU `cuda_graph` changes nothing, and shared steps are refused."""
    a, b = fit(steps=5)[0], fit(steps=5, device="cpu", cuda_graph=True)[0]
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    with pytest.raises(InputError, match="cuda_graph replays a step that one process takes at"):
        Trainer(batch=4, accumulate=2, cuda_graph=True)
