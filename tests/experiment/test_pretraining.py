"""One pretrained encoder for all runs that ask for the same, resumed where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from graphfsl.cli.terminal import app
from graphfsl.data import load
from graphfsl.data.batches import partly_labeled
from graphfsl.experiment import run as runs
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.pretraining import folder
from graphfsl.io.checkpoint import load_checkpoint
from graphfsl.io.errors import InputError
from graphfsl.loops.encode import encode_split
from graphfsl.methods.heads.simple_shot import SimpleShot


def settings(*overrides: str) -> Experiment:
    return Experiment.of(
        {
            "data": {"name": "glyphs", "mean": [0.0], "std": [1.0]},
            "pretrain": {
                "objective": "cross_entropy",
                "trainer": {"steps": 4, "batch": 16, "val_episodes": 4},
            },
            "learner": {
                "encoder": {"name": "conv4", "width": 4, "frozen": True},
                "head": "simple_shot",
            },
            "episode": {"way": 3, "shot": 1, "query": 2},
            "evaluation": {"episodes": 4},
        },
        overrides,
    )


def test_the_same_pretraining_has_the_same_folder_and_only_that() -> None:
    here = folder(settings(), Path("r"))
    same = (
        "learner.head=protonet",
        "learner.encoder.frozen=false",
        "trainer.steps=9",
        "evaluation.episodes=9",
    )
    for other in (*same, "trainer.device=cpu", "episode.shot=2"):
        assert folder(settings(other), Path("r")) == here, other
    shared = settings("data.augment={rotate: 5}"), settings("pretrain.augment={rotate: 5}")
    assert folder(shared[0], Path("r")) == folder(shared[1], Path("r")) != here
    for other in (
        "seed=1",
        "learner.encoder.width=8",
        "pretrain.objective=nca",
        "pretrain.trainer.steps=5",
    ):
        assert folder(settings(other), Path("r")) != here, other


def cli(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    if isinstance(done.exception, InputError):
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def write(path: Path, *overrides: str) -> str:
    path.write_text(json.dumps(settings(*overrides).to_dict()))
    return str(path)


def test_two_heads_share_one_pretraining(tmp_path: Path) -> None:
    file, out = write(tmp_path / "e.yaml"), str(tmp_path / "runs")
    assert cli("pretrain", file, "--out", out)[0] == 0
    (pretraining,) = Path(out).iterdir()
    before = (pretraining / "model.safetensors").stat().st_mtime_ns
    for head in ("simple_shot", "protonet"):
        assert cli("run", file, f"learner.head={head}", "--out", f"{out}/{head}")[0] == 0
    assert len(list(Path(out).glob("pretrain-*"))) == 1
    assert (pretraining / "model.safetensors").stat().st_mtime_ns == before
    one, two = (runs.load(Path(out) / head).learner for head in ("simple_shot", "protonet"))
    for a, b in zip(one.encoder.parameters(), two.encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    results = json.loads((Path(out) / "protonet" / "results.json").read_text())
    assert results["rows"][0]["steps"] == 4 and results["pretraining_seconds"] > 0
    statistics, _ = load_checkpoint(pretraining / "statistics.safetensors")
    assert statistics["class_covariances"].shape == (len(statistics["class_means"]), 4, 4)
    torch.testing.assert_close(statistics["mean"], one.head.mean)


def test_no_hidden_label_reaches_fit_base_nor_the_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those that pretraining may not see nor those that meta-training may not."""
    seen: list[Tensor] = []
    monkeypatch.setattr(SimpleShot, "fit_base", lambda self, x, y: seen.append(y))
    few = (
        "pretrain.objective={name: consistency, labeled_fraction: 0.5}",
        "train_episode={labeled_fraction: 0.5, label_seed: 1}",
    )
    code, said = cli("run", write(tmp_path / "e.yaml", *few), "--out", str(tmp_path / "runs" / "a"))
    assert code == 0, said
    base = load("glyphs", "train")
    first, second = (partly_labeled(base, 0.5, seed).y >= 0 for seed in (0, 1))
    assert torch.equal(seen[0], base.y[first & second]) and len(seen[0]) < int(first.sum()) < len(
        base.y
    )
    run = runs.load(tmp_path / "runs" / "a")
    features = encode_split(run.learner, base, run.transform).x
    (pretraining,) = (tmp_path / "runs").glob("pretrain-*")
    statistics, _ = load_checkpoint(pretraining / "statistics.safetensors")
    torch.testing.assert_close(statistics["mean"], features[first].mean(0))


def test_too_small_a_labeled_fraction_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    file = write(
        tmp_path / "e.yaml", "pretrain.objective={name: consistency, labeled_fraction: 0.001}"
    )
    code, said = cli("run", file, "--out", str(tmp_path / "runs" / "a"))
    assert (
        code == 2
        and ("without a label") in said
        and not list((tmp_path / "runs").glob("pretrain-*/*.safetensors"))
    )


def test_an_encoder_that_is_not_frozen_goes_on_learning(tmp_path: Path) -> None:
    changes = (
        "learner.encoder.frozen=false",
        "learner.head=meta_baseline",
        "trainer.steps=3",
        "trainer.val_episodes=4",
    )
    file = write(tmp_path / "e.yaml", *changes)
    assert cli("run", file, "--out", str(tmp_path / "runs" / "a"))[0] == 0
    (pretraining,) = (tmp_path / "runs").glob("pretrain-*")
    first, _ = load_checkpoint(pretraining / "model.safetensors")
    run = runs.load(tmp_path / "runs" / "a")
    moved = run.learner.encoder.convs[0].weight - first["encoder.convs.0.weight"]
    assert 0 < moved.abs().max() < 0.02, "three small steps from where pretraining ended"
    assert run.steps == 4 + 3


def test_generations_teach_each_other(tmp_path: Path) -> None:
    file = write(tmp_path / "e.yaml", "pretrain.objective=distillation", "pretrain.generations=2")
    assert cli("pretrain", file, "--out", str(tmp_path / "runs"))[0] == 0
    (path,) = (tmp_path / "runs").iterdir()
    losses = [
        json.loads((path / f"generation-{g}" / "metrics.jsonl").read_text().splitlines()[-1])[
            "loss"
        ]
        for g in (1, 2)
    ]
    assert losses[0] != losses[1], "the second has a teacher"


def test_an_interrupted_pretraining_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    found = []
    for name, stop in (("whole", None), ("stopped", 4)):
        every = ("pretrain.trainer.checkpoint_every=2", "pretrain.trainer.log_every=1")
        chosen = settings("pretrain.trainer.steps=8", *every)

        def log(line: dict[str, Any], stop: int | None = stop) -> None:
            if line["step"] == stop:
                raise KeyboardInterrupt

        if stop:
            with pytest.raises(KeyboardInterrupt):
                runs.pretrain_alone(chosen, tmp_path / name, log)
        path = runs.pretrain_alone(chosen, tmp_path / name)
        found.append(load_checkpoint(path / "model.safetensors")[0])
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]), key


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("pretrain.objective=cross_entropi", "did you mean 'cross_entropy'"),
        (
            "pretrain.objektive=nca",
            "unknown option of pretrain 'objektive'; did you mean 'objective'",
        ),
        ("pretrain.trainer.stepz=3", "did you mean 'steps'"),
        ("pretrain.trainer.device=cpu", "set trainer.device"),
        ("pretrain.generations=0", "pretrain.generations must be 1 or more, not 0"),
        ("pretrain.augment={turn: 3}", "unknown option of data.augment 'turn'"),
        ("learner.encoder=pixels", "pretrain needs an encoder with parameters"),
        ("pretrain.objective={name: nca, per_class: 1}", "per_class 2 or more"),
        ("pretrain=3", "pretrain must be a mapping"),
    ],
)
def test_mistakes_are_one_line(change: str, says: str, tmp_path: Path) -> None:
    code, line = cli(
        "run", write(tmp_path / "e.yaml"), change, "--out", str(tmp_path / "runs" / "x")
    )
    assert code == 2 and says in line and "\n" not in line.strip(), line
    assert not (tmp_path / "runs").exists()


def test_pretrain_asks_for_the_section(tmp_path: Path) -> None:
    code, line = cli("pretrain", "demo.yaml", "--out", str(tmp_path / "runs"))
    assert code == 2 and "no section `pretrain`" in line
