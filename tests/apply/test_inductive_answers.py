"""Runs whose BatchNorm policy lets queries share statistics answer each query by itself, unless
asked not to.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graphfsl.apply.estimator import FewShotClassifier
from graphfsl.apply.predict import load
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment import run
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.measure import measure_policies
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.sinkhorn_balance import SinkhornBalance
from graphfsl.report.committed_tables import table
from graphfsl.report.results_csv import write_records
from graphfsl.testing import TinyEncoder, unlike_fresh
from tests.support.command import EXPERIMENT, Call, write_split

CHANGES = {
    "apart": ["learner.head=linear", "learner.adapt.name=maml", "learner.adapt.steps=1"],
    "joint": ["learner.batch_norm=joint"],
    "support": ["learner.batch_norm=support"],
    "running": [],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under each policy, hardly trained; images of a support and of queries of one class
    only.
    """
    root = tmp_path_factory.mktemp("policies")
    for seed, split in enumerate(("train", "val", "test")):
        write_split(root / f"{split}.npz", seed)
    (root / "my.yaml").write_text(EXPERIMENT.replace("DATA", str(root)))
    short = ["trainer.steps=2", "trainer.batch=2", "trainer.val_every=2", "trainer.val_episodes=2"]
    for name, changes in CHANGES.items():
        run.train(*run.prepare(Experiment.read(root / "my.yaml", [*changes, *short]), root / name))
    with np.load(root / "test.npz") as file:
        images, labels = file["images"], file["labels"]
    for c in range(3):
        for i, x in enumerate(images[labels == c][:5]):
            folder = root / ("query" if i else f"labeled/{c}")
            folder.mkdir(parents=True, exist_ok=True)
            if c == 0 or not i:
                Image.fromarray(x).save(folder / f"{c}-{i}.png")
    return root


def images(root: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    classes = {p.name: sorted(p.iterdir()) for p in sorted((root / "labeled").iterdir())}
    return classes, sorted((root / "query").iterdir())


def probabilities(answers: list[Any]) -> np.ndarray:
    return np.array([list(a.probabilities.values()) for a in answers])


@pytest.mark.parametrize("policy", CHANGES)
def test_one_image_is_answered_as_in_a_folder(runs: Path, policy: str) -> None:
    support, query = images(runs)
    replaced = policy in ("apart", "joint")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        predictor = load(runs / policy)
    notes = [str(w.message) for w in said if "BatchNorm policy" in str(w.message)]
    assert len(notes) == replaced and all(
        f"learner.batch_norm={policy} brings it back" in n for n in notes
    )
    assert (
        predictor.learner.batch_norm == ("support" if replaced else policy)
        and not predictor.learner.transductive
    )
    together = probabilities(predictor.predict(support, query))
    alone = np.concatenate([probabilities(predictor.predict(support, [q])) for q in query])
    assert np.allclose(together, alone, atol=1e-5)


def test_overrides_of_the_learner_are_taken(runs: Path) -> None:
    support, query = images(runs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = load(runs / "joint", ["learner.batch_norm=joint"])
    assert own.learner.batch_norm == "joint" and own.learner.transductive
    together = probabilities(own.predict(support, query))
    alone = np.concatenate([probabilities(own.predict(support, [q])) for q in query])
    assert not np.allclose(together, alone, atol=1e-5)
    refined = load(runs / "running", ["learner.refine=sinkhorn_balance"])
    assert (
        refined.learner.transductive
        and refined.run.experiment.learner.refine[0].name == "sinkhorn_balance"
    )
    for wrong, message in (
        ("learner.batch_norm=apartt", "did you mean 'apart'"),
        ("learner.encoder.width=16", "another architecture"),
        ("episode.way=4", r"not with 'episode\.way=4'"),
        ("learner.batch_norm", "key=value"),
    ):
        with pytest.raises(InputError, match=message):
            load(runs / "joint", [wrong])


@pytest.mark.parametrize("policy", ["apart", "joint", "support"])
def test_weights_without_averages_are_refused_under_running(runs: Path, policy: str) -> None:
    for door in (
        lambda: load(runs / policy, ["learner.batch_norm=running"]),
        lambda: measure_policies(run.load(runs / policy), ["learner.batch_norm=running"]),
        lambda: FewShotClassifier(runs / policy, batch_norm="running").fit(
            np.zeros((2, 16, 16, 3), np.uint8), [0, 1]
        ),
    ):
        with pytest.raises(InputError, match=rf"trained under batch_norm={policy}.*train anew"):
            door()


def test_averages_of_older_weights_are_refused_too(runs: Path) -> None:
    """Averages that pretraining left are not of the weights that training under another policy made
    of them.
    """
    trained = run.load(runs / "joint")
    unlike_fresh(trained.learner)
    for m in trained.learner.modules():
        if hasattr(m, "num_batches_tracked"):
            m.num_batches_tracked.fill_(7)
    with pytest.raises(InputError, match="no BatchNorm averages of its weights"):
        measure_policies(trained, ["learner.batch_norm=running"])


def test_predict_says_how_it_answers(runs: Path, call: Call) -> None:
    given = ("--support", runs / "labeled", "--query", runs / "query", "--json")
    code, out, err = call("predict", runs / "apart", *given)
    assert code == 0, err
    together = {Path(a["image"]).name: a for a in json.loads(out)}
    assert err.count("\n") == 1 and "`support` takes its place" in err
    for image in sorted((runs / "query").iterdir()):
        one = json.loads(
            call(
                "predict", runs / "apart", "--support", runs / "labeled", "--query", image, "--json"
            )[1]
        )
        assert (one[0]["label"], one[0]["confidence"]) == (
            together[image.name]["label"],
            pytest.approx(together[image.name]["confidence"], abs=2e-4),
        )
    code, out, err = call("predict", runs / "apart", "learner.batch_norm=apart", *given)
    assert (
        code == 0
        and ("takes its place") not in err
        and "an answer depends on the other queries" in err
    )
    code, out, err = call("predict", runs / "running", "learner.refine=sinkhorn_balance", *given)
    assert (
        code == 0
        and "transductive" in err
        and ("as many of every class") in err
        and len(json.loads(out)) == 4
    )
    assert call("predict", runs / "running", *given)[2] == ""
    code, _, err = call("predict", runs / "running", "data.name=glyphs", *given)
    assert code == 2 and "not with 'data.name=glyphs'" in err


def test_results_show_both_policies(runs: Path, tmp_path: Path, call: Call) -> None:
    trained, few = run.load(runs / "apart"), ["evaluation.episodes=4"]
    own, inductive = (row.to_dict() for row in measure_policies(trained, few))
    assert (own["batch_norm"], own["setting"], own["published"]) == ("apart", "transductive", 90.0)
    assert (inductive["batch_norm"], inductive["setting"], inductive["published"]) == (
        "support",
        "inductive",
        None,
    )
    (row,) = measure_policies(trained, [*few, "learner.batch_norm=support"])
    asked = row.to_dict()
    assert (
        asked["accuracies"] == inductive["accuracies"]
        and asked["config"] == inductive["config"] != own["config"]
    )
    assert [r.batch_norm for r in measure_policies(run.load(runs / "running"), few)] == ["running"]
    code, out, err = call("evaluate", runs / "apart", *few, "--out", tmp_path / "e.json")
    assert code == 0 and "apart BatchNorm" in out and "support BatchNorm" in out, err
    folder = tmp_path / "results" / "r"
    folder.mkdir(parents=True)
    facts = {"rows": [own, inductive], "config": trained.experiment.to_dict()}
    (folder / "results.json").write_text(json.dumps(facts))
    write_records(tmp_path / "results")
    text = table(own["data"].split("/")[0], tmp_path / "results")
    inductive_rows, transductive_rows = text.split("Transductive:")
    assert (
        "support BatchNorm" in inductive_rows
        and "90.0" not in inductive_rows
        and "90.0" in transductive_rows
    )


def learner(batch_norm: str) -> Pipeline:
    torch.manual_seed(0)
    return unlike_fresh(Pipeline(TinyEncoder(), head=ProtoNet(), batch_norm=batch_norm))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["object", "adapted", "mapping", "run"])
def test_the_estimator_answers_inductively_and_says_so(runs: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    shape = (16, 16, 3) if kind == "run" else (8, 8)
    x, y = rng.integers(0, 256, (12, *shape)).astype(np.uint8), np.arange(12) % 3
    source: Any = {
        "object": learner("joint"),
        "adapted": MAML(Pipeline(TinyEncoder(), head=Linear(6, 3)), 1),
        "mapping": {
            "encoder": {"name": "conv4_stride2", "width": 4},
            "head": "protonet",
            "batch_norm": "joint",
        },
        "run": runs / "apart",
    }[kind]
    with pytest.warns(
        UserWarning,
        match=r"`support` takes its place.*batch_norm='(joint|apart)' "
        r"brings it back",
    ):
        model = FewShotClassifier(source).fit(x[:6], y[:6])
    together = model.predict_proba(x[6:])
    alone = np.concatenate([model.predict_proba(x[i : i + 1]) for i in range(6, 12)])
    assert np.allclose(together, alone, atol=1e-5) and model.learner_.batch_norm == "support"
    own = "apart" if kind in ("adapted", "run") else "joint"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="encoder '.*' is untrained")
        model = FewShotClassifier(source, batch_norm=own).fit(x[:6], y[:6])
    alone = np.concatenate([model.predict_proba(x[i : i + 1]) for i in range(6, 12)])
    assert (
        not np.allclose(model.predict_proba(x[6:]), alone, atol=1e-4)
        and model.learner_.transductive
    )
    assert not isinstance(source, (Pipeline, MAML)) or source.batch_norm == own, (
        "the caller's learner was changed"
    )
    with pytest.raises(InputError, match="did you mean 'joint'"):
        FewShotClassifier(source, batch_norm="jont").fit(x[:6], y[:6])


def test_another_policy_keeps_the_range_of_the_images(runs: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (16, 16, 3)).astype(np.uint16)
    own = load(runs / "joint", range=[0, 4095])
    y = np.arange(4) % 2
    model = FewShotClassifier(own, batch_norm="apart").fit([deep, deep // 2] * 2, y)
    assert (
        torch.equal(model._predictor.image(deep), own.image(deep))
        and model.learner_.batch_norm == "apart"
    )


def test_a_predictor_has_decided_already(runs: Path) -> None:
    x, y = (
        np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3)).astype(np.uint8),
        np.arange(9) % 3,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = FewShotClassifier(load(runs / "joint", ["learner.batch_norm=joint"])).fit(
            x[:6], y[:6]
        )
        assert model.learner_.batch_norm == "joint"
        predictor = load(runs / "joint", ["learner.batch_norm=support"])
        assert (
            FewShotClassifier(predictor, batch_norm="apart").fit(x[:6], y[:6]).learner_.batch_norm
            == "apart"
        )
        assert predictor.learner.batch_norm == "support"


def test_what_is_transductive_by_design_stays_so() -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (12, 8, 8)).astype(np.uint8), np.arange(12) % 3
    net = Pipeline(TinyEncoder(), head=ProtoNet(), refine=SinkhornBalance(), batch_norm="apart")
    with pytest.warns(UserWarning, match="takes its place"):
        model = FewShotClassifier(net).fit(x[:6], y[:6])
    assert model.learner_.batch_norm == "support" and model.learner_.transductive
    assert not np.allclose(model.predict_proba(x[6:])[:1], model.predict_proba(x[6:7]), atol=1e-4)


def test_maml_under_running_is_refused_before_anything_is_written(
    runs: Path, call: Call, tmp_path: Path
) -> None:
    maml = [*CHANGES["apart"], "learner.batch_norm=running"]
    code, _, err = call("run", runs / "my.yaml", *maml, "--out", tmp_path / "r")
    assert (
        code == 2
        and ("no BatchNorm averages") in err
        and not (tmp_path / "r" / "config.json").exists()
    )
