"""What stopped new users on their way from the README to their own images, and what now carries
them on.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_val_score
from torch import nn

import graphfsl as gf
from graphfsl.core.saving import known_normalisation
from graphfsl.experiment import run
from graphfsl.experiment.data_source import Splits
from graphfsl.experiment.experiment import Experiment
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet

POOL = {"head": "protonet", "refine": "soft_kmeans"}


class Mean(nn.Module):
    """Images -> (M, 2): the mean, and how far it is from 1/2 after normalisation, which no scaling
    undoes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return self.scale * torch.stack([mean, mean.square()], -1)


def gray_levels(name: str) -> gf.Split:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat_interleave(20)
    x = (60 * (y + 1))[:, None, None, None] + torch.randint(
        -50, 50, (60, 1, 4, 4), generator=generator
    )
    return gf.Split(x.to(torch.uint8), y, ("dark", "gray", "bright"), name)


def test_another_data_set_leaves_behind_what_only_the_first_takes() -> None:
    read = Experiment.read(
        "snell2017_cifarfs_5w1s", ["data.name=folder", "data.root=photos"]
    ).to_dict()
    assert "folder" not in read["data"], "an option of `arrays`"
    assert read["data"]["root"] == "photos" and read["data"]["augment"] == {
        "translate": 0.1,
        "flip": True,
    }
    with pytest.raises(InputError, match="'siez'; did you mean 'size'"):
        Experiment.read(
            "snell2017_cifarfs_5w1s", ["data.name=folder", "data.root=photos", "data.siez=32"]
        )


def test_evaluate_normalises_as_training_did() -> None:
    split, transform = gray_levels("gray/train"), gf.Transform([0.9], [0.3])
    learner = gf.Pipeline(Mean(), head=ProtoNet())
    episodes = gf.Episodes(split, way=3, shot=1, query=5, transform=transform)
    gf.Trainer(steps=1, device="cpu").fit(learner, episodes, None)
    asked = {"way": 3, "shot": 1, "query": 5, "episodes": 50}
    told = gf.evaluate(learner, split, transform=transform, **asked).accuracies  # type: ignore[arg-type]
    other = gf.evaluate(learner, split, transform=gf.Transform(), **asked).accuracies  # type: ignore[arg-type]
    assert torch.equal(gf.evaluate(learner, split, **asked).accuracies, told)  # type: ignore[arg-type]
    assert not torch.equal(other, told), "the normalisation matters here"


def test_a_loaded_learner_knows_its_normalisation(tmp_path: Path) -> None:
    split, transform = gray_levels("gray/train"), gf.Transform([0.9], [0.3])
    learner = gf.build(
        {"encoder": {"name": "conv4", "width": 4}, "head": "protonet"}, (1, 16, 16), 3
    )
    learner.save(tmp_path / "a", transform=transform, classes=split.classes)
    gf.load(tmp_path / "a").learner.save(tmp_path / "b")
    for kept in ("a", "b"):
        assert known_normalisation(gf.load(tmp_path / kept).learner)[0] == [0.9]
    assert gf.load(tmp_path / "b").run.classes == split.classes


@pytest.mark.parametrize(
    ("override", "section"),
    [
        ("evaluation.settings=[{way: 999}]", r"evaluation\.settings\[0\]: "),
        ("train_episode.way=99", "train_episode: "),
    ],
)
def test_a_split_that_is_too_small_names_the_section_that_asks(override: str, section: str) -> None:
    settings = Experiment.read("snell2017_glyphs_5w1s", ["data.base_classes=5", override])
    with pytest.raises(InputError, match=f"^{section}.*needs 99+"):
        run.check(settings, Splits())


def test_the_score_is_that_of_labeled_samples() -> None:
    x = np.repeat(np.eye(3), 20, 0) + 0.01 * np.random.default_rng(0).normal(size=(60, 3))
    y = np.repeat([0, 1, 2], 20)
    hidden = np.where(np.arange(60) % 4 == 0, y, -1)
    assert cross_val_score(gf.FewShotClassifier(POOL), x, hidden, cv=3).tolist() == [1, 1, 1]
    texts = np.array([None if c < 0 else f"c{c}" for c in hidden], object)
    classifier = gf.FewShotClassifier(POOL).fit(x, texts)
    weight = np.arange(60.0)
    assert classifier.score(x, texts, sample_weight=weight) == 1
    texts[0] = "c2"  # a label that the answer cannot match
    assert classifier.score(x, texts) == pytest.approx(14 / 15)
    with pytest.raises(InputError, match="no label to compare"):
        classifier.score(x[:3], np.array([None, None, ""], object))


def test_minus_one_without_a_pool_is_told() -> None:
    x, y = np.arange(8.0)[:, None], np.array([0, 0, 1, 1, -1, -1, -1, -1])
    with pytest.warns(UserWarning, match="-1 in y is a class like the others"):
        assert list(gf.FewShotClassifier("protonet").fit(x, y).classes_) == [-1, 0, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # scikit-learn's usual two classes
        gf.FewShotClassifier("protonet").fit(x, np.where(y < 0, -1, 1))
        gf.FewShotClassifier(POOL).fit(x, y)
