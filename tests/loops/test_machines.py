"""Several processes, gradient accumulation, torch.compile, loggers, seeds, and nothing that only
POSIX has.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import graphfsl
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes
from graphfsl.experiment.results import over_seeds
from graphfsl.io.checkpoint import load_checkpoint
from graphfsl.io.errors import InputError
from graphfsl.loops.row import Row
from graphfsl.loops.trainer import Trainer
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.adapt.meta_sgd import MetaSGD
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import TinyEncoder
from tests.support import ROOT
from tests.support.command import EXPERIMENT, write_split
from tests.support.training import SETTING, Steep, fit, patterns


def learner(kind: str) -> Learner:
    """Without tracked BatchNorm statistics: those of a share of the episodes would be other
    ones.
    """
    torch.manual_seed(0)
    if kind == "protonet":
        return Pipeline(TinyEncoder(), head=ProtoNet(), batch_norm="support")
    if kind == "steep":
        return Steep((1,), total=3)
    net = Pipeline(TinyEncoder(), head=Linear(6, SETTING.way), batch_norm="apart")
    return MetaSGD(net, steps=2) if kind == "meta_sgd" else MAML(net, lr=0.1, steps=2)


def step(kind: str, run: Path | None = None, **options: Any) -> dict[str, torch.Tensor]:
    """Weights after gradient descent with rate 1; after one step first weights minus gradient."""
    own = learner(kind)
    plain: dict[str, Any] = {
        "optimizer": "sgd",
        "lr": 1.0,
        "momentum": 0.0,
        "steps": 1,
        "batch": 4,
        "device": "cpu",
    }
    Trainer(**(plain | options)).fit(own, Episodes(patterns("train", 0), SETTING), run=run)
    return {k: v.clone() for k, v in own.state_dict().items()}


def train(run: Path, steps: int = 200) -> None:
    options = {
        "steps": steps,
        "batch": 2,
        "lr": 1e-2,
        "val_every": 50,
        "val_episodes": 21,
        "checkpoint_every": 7,
    }
    val = Episodes(patterns("val", 1), SETTING)
    Trainer(**options).fit(learner("protonet"), Episodes(patterns("train", 0), SETTING), val, run)  # type: ignore[arg-type]


STEPS = {"protonet": 1, "maml": 1, "meta_sgd": 4, "steep": 3}  # of each kind of learner

CHILD = """
import os
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from graphfsl.io import distributed
from tests.loops.test_machines import STEPS, step, train
Path(f"worker{os.environ['RANK']}.pid").write_text(str(os.getpid()))
for kind in sys.argv[1:]:
    if kind == "train":
        train(Path(kind))
    else:
        step(kind, Path(kind), steps=STEPS[kind])
distributed.finish()  # a process that leaves an open group now and then dies of its threads
"""


def torchrun(folder: Path, *kinds: str, processes: int = 2) -> subprocess.Popen[bytes]:
    """`processes` gloo processes of this file's `train`, or of its `step` of a kind of learner.

    Each has its run in `folder` under its name.
    """
    (folder / "child.py").write_text(CHILD)
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += [
        "--nproc-per-node",
        str(processes),
        str(folder / "child.py"),
        *kinds,
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=env)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made that nobody interrupted."""
    folder = tmp_path_factory.mktemp("two")
    assert torchrun(folder, *STEPS, "train").wait(300) == 0
    return folder


def kill(child: subprocess.Popen[bytes], folder: Path) -> None:
    """SIGKILL to `torchrun` and to its processes, each of which is in a session of its own."""
    workers = [int(path.read_text()) for path in sorted(folder.glob("worker*.pid"))]
    assert len(workers) == 2
    for process in (child.pid, *workers):
        os.kill(process, signal.SIGKILL)
    child.wait()


def test_two_processes_take_the_gradient_of_one(two: Path) -> None:
    """Second derivatives included, and for what a rule learns; a step of which one process has no
    gradient is left out by both.
    """
    for kind, steps in STEPS.items():
        theirs, _ = load_checkpoint(two / kind / "last.safetensors")
        with pytest.warns(UserWarning, match="1 of 3 steps") if kind == "steep" else nullcontext():
            one = step(kind, steps=steps)
        for name, weight in one.items():
            torch.testing.assert_close(theirs[f"model/{name}"], weight, rtol=0, atol=1e-6)
        first = learner(kind).state_dict()
        moved = {name: float((one[name] - first[name]).abs().max()) for name in one}
        assert max(moved.values()) > 1e-3, f"{kind}: there was a gradient"
        assert max((m for name, m in moved.items() if name.startswith("rule.")), default=1) > 1e-3
    assert json.loads((two / "steep/metrics.jsonl").read_text())["left_out"] == 1


def test_two_processes_resume_to_the_bit(two: Path, tmp_path: Path) -> None:
    child, log = torchrun(tmp_path, "train"), tmp_path / "train/metrics.jsonl"
    while child.poll() is None and not (log.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.01)
    assert child.poll() is None, "it was killed while it trained"
    kill(child, tmp_path)
    assert load_checkpoint(tmp_path / "train/last.safetensors")[1]["step"] < 200
    assert torchrun(tmp_path, "train").wait(300) == 0
    whole, again = (load_checkpoint(p / "train/last.safetensors")[0] for p in (two, tmp_path))
    assert all(torch.equal(v, again[k]) for k, v in whole.items())
    lines = [[json.loads(x) for x in (p / "train/metrics.jsonl").open()] for p in (two, tmp_path)]
    plain = [
        [{k: v for k, v in m.items() if k not in ("seconds", "episodes_per_s")} for m in x]
        for x in lines
    ]
    assert plain[0] == plain[1]


def test_the_command_under_torchrun_gives_the_answers_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for seed, split in enumerate(("train", "val", "test")):
        write_split(tmp_path / "data" / f"{split}.npz", seed)
    text = EXPERIMENT.replace("DATA", str(tmp_path / "data")).replace(
        "head: protonet", "head: protonet\n  batch_norm: support"
    )
    (tmp_path / "my.yaml").write_text(text)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    single = [sys.executable, "-m", "graphfsl.cli.main"]
    several = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "graphfsl.cli.main",
    ]
    for name, command in (("one", single), ("two", several)):
        arguments = [
            "run",
            tmp_path / "my.yaml",
            "trainer.batch=2",
            "trainer.optimizer=sgd",
            "--out",
            tmp_path / name,
        ]
        done = subprocess.run(
            [*command, *map(str, arguments)], env=env, capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("results:") == 1, "only the first process talks"
    one, two = (
        json.loads((tmp_path / n / "results.json").read_text())["rows"] for n in ("one", "two")
    )
    assert one[0]["accuracies"] == two[0]["accuracies"]
    assert not list((tmp_path / "two").glob(".*"))


@pytest.mark.parametrize("kind", ["protonet", "maml"])
def test_accumulation_gives_the_same_gradient(kind: str) -> None:
    whole, parts = step(kind), step(kind, accumulate=4)
    assert all(torch.allclose(parts[k], v, rtol=0, atol=1e-6) for k, v in whole.items())


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="batch=3 is not shared equally by 1 processes x 2 parts"):
        Trainer(batch=3, accumulate=2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="4 processes"):
        Trainer(batch=6)


def test_compiled_training_learns_the_same() -> None:
    """torch.compile fuses operations, so the weights agree to rounding."""
    torch._dynamo.reset()
    eager, compiled = step("protonet"), step("protonet", compile=True)
    assert set(eager) == set(compiled)
    assert all(torch.allclose(compiled[k], v, rtol=0, atol=1e-5) for k, v in eager.items())
    with pytest.raises(InputError, match="inner loop"):
        step("maml", compile=True)


def test_tensorboard_shows_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, metrics = fit(tmp_path, logger="tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("loss")] == [
        (m["step"], m["loss"]) for m in metrics
    ]
    assert [e.step for e in events.Scalars("val")] == [m["step"] for m in metrics if "val" in m]


@pytest.mark.parametrize("logger", ["tensorboard", "wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named(
    logger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, logger, None)
    with pytest.raises(InputError, match=f"pip install {logger}"):
        fit(tmp_path, steps=1, logger=logger)
    with pytest.raises(InputError, match="unknown logger"):
        Trainer(logger="tensorbord")


def test_seeds_run_and_report_mean_and_spread(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for seed, split in enumerate(("train", "val", "test")):
        write_split(tmp_path / "data" / f"{split}.npz", seed)
    (tmp_path / "my.yaml").write_text(EXPERIMENT.replace("DATA", str(tmp_path / "data")))
    command = [
        sys.executable,
        "-m",
        "graphfsl.cli.main",
        "run",
        tmp_path / "my.yaml",
        "seeds=3",
        "seed=4",
        "--out",
        tmp_path / "r",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [
        json.loads((tmp_path / "r" / f"seed-{s}" / "results.json").read_text())["rows"]
        for s in (4, 5, 6)
    ]
    (row,) = json.loads((tmp_path / "r" / "results.json").read_text())["rows"]
    each = [r[0]["accuracy"] for r in rows]
    assert row["seeds"] == 3 and row["seed_accuracies"] == each and len(set(each)) > 1
    assert row["accuracy"] == pytest.approx(np.mean(each), abs=2e-3)
    assert row["spread"] == pytest.approx(np.std(each, ddof=1), abs=2e-3)
    assert f"over 3 seeds: {row['accuracy']:.2f} %" in done.stdout
    # The interval is that of the mean over the same episodes, by hand.
    values = np.mean([r[0]["accuracies"] for r in rows], 0)
    assert row["ci95"] == pytest.approx(
        100 * stats.t.ppf(0.975, len(values) - 1) * stats.sem(values), abs=2e-3
    )
    assert (
        over_seeds([[Row.from_dict(r) for r in same] for same in rows])[0].to_dict()["accuracies"]
        == row["accuracies"]
    )


POSIX = {
    "os.fork",
    "os.preadv",
    "os.pread",
    "os.killpg",
    "os.setsid",
    "os.geteuid",
    "os.getuid",
    "os.uname",
    "os.nice",
}


def test_no_call_that_windows_lacks() -> None:
    """No module or function that only POSIX has, but behind `hasattr`."""
    for path in sorted(Path(graphfsl.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"fcntl", "resource", "pwd", "grp", "termios"} & set(names), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert f"{node.value.id}.{node.attr}" not in POSIX, f"{path}:{node.lineno}"


def test_optional_packages_are_not_imported() -> None:
    """What only an extra brings is asked for when it is used."""
    code = (
        "import sys, graphfsl.cli.main, graphfsl.experiment.measure, graphfsl.nn; "
        "print(*sorted(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    extras = [
        n
        for n in ("timm", "faiss", "ray", "wandb", "mlflow", "tensorboard", "beartype")
        if importlib.util.find_spec(n)
    ]
    assert not set(extras) & set(loaded)
