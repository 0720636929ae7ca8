"""Packages of other authors: found by name once they are given, and never by what a configuration
says.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import graphfsl as gf
from graphfsl.core import plugins, registry
from graphfsl.io.errors import InputError
from graphfsl.nn import ENCODERS
from tests.support import ROOT
from tests.support.command import Call

HEAD = '''"""Negative distances to class means. Author 2024, https://example.org"""

from pathlib import Path

from graphfsl.core import Episode, Head
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes

__all__ = ["FarMeans"]
Path(__file__).with_name("imported").touch()


class FarMeans(Head):
    """s_ic = -scale |x_i - c|^2.

    scale: of the distances.
    score: features (B, n, d), label weights (B, n, C) -> scores (B, n, C).
    Source: nowhere.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def score(self, episode: Episode):
        means = prototypes(episode.x, episode.w)
        return hide_absent(-self.scale * squared_euclidean(episode.x, means), episode.w)
'''
ENCODER = '''"""A linear encoder."""

from torch import nn

__all__ = ["FlatLinear"]


class FlatLinear(nn.Module):
    """One linear layer on the mean pixel.

    in_channels: of the images. width: of the vectors.
    """

    def __init__(self, in_channels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, width)

    def forward(self, x):
        return self.linear(x.mean((-1, -2)))
'''


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugins.VARIABLE, "")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a plugin that `import` would find."""
    folder = tmp_path / "site" / "other_author"
    for slot, name, code in (
        ("heads", "far_means", HEAD),
        ("encoders", "flat_linear", ENCODER),
    ):
        (folder / slot).mkdir(parents=True)
        (folder / slot / f"{name}.py").write_text(code)
        (folder / slot / "__init__.py").touch()
    (folder / "__init__.py").write_text("from pathlib import Path\nPath(__file__ + '.ran').touch()")
    monkeypatch.syspath_prepend(folder.parent)
    yield folder
    registry.find.cache_clear()
    for module in [m for m in sys.modules if m.partition(".")[0] == "other_author"]:
        del sys.modules[module]


def ran(package: Path) -> list[str]:
    """What of the plugin was imported."""
    return [p.name for p in package.rglob("*") if p.suffix == ".ran" or p.name == "imported"]


def test_a_plugin_that_is_given_brings_parts_and_encoders(package: Path) -> None:
    section = {"encoder": {"name": "flat_linear", "width": 4}, "head": "far_means"}
    learner = gf.build(section, (1, 6, 6), 3, plugins=["other_author"])
    assert type(learner.head).__name__ == "FarMeans" and learner.encoder.linear.out_features == 4
    assert ("head", "far_means") in registry.methods() and "flat_linear" in list(ENCODERS)
    assert ("encoder", "flat_linear") not in registry.methods(), "an encoder is no method"
    same = gf.build(section | {"head": "protonet"}, (1, 6, 6), 3)
    same.encoder.load_state_dict(learner.encoder.state_dict())
    x, w = torch.rand(1, 9, 1, 6, 6), torch.eye(3).repeat(3, 1)[None]
    episode = gf.Episode(x, w, 3, 6)
    torch.testing.assert_close(learner(episode), same(episode))


def test_giving_a_plugin_imports_nothing(package: Path) -> None:
    registry.use_plugins("other_author")
    assert registry.names("head")[-1] == "far_means" and not ran(package)
    registry.get("head", "protonet")
    assert not ran(package), "a name of graphfsl's own"
    registry.get("head", "far_means")
    assert len(ran(package)) == 2


def test_a_saved_learner_needs_its_plugin_and_a_configuration_imports_none(
    package: Path, tmp_path: Path
) -> None:
    gf.build({"head": "far_means"}, (4,), 3, plugins="other_author").save(tmp_path / "saved")
    assert gf.load(tmp_path / "saved").learner.head.scale == 1.0
    os.environ[plugins.VARIABLE] = ""
    for module in [m for m in sys.modules if m.partition(".")[0] == "other_author"]:
        del sys.modules[module]
    for file in package.rglob("*"):
        if file.name in ran(package):
            file.unlink()
    with pytest.raises(InputError, match=r"unknown head 'far_means'.*by --plugin PACKAGE"):
        gf.load(tmp_path / "saved")
    assert not ran(package)
    assert gf.load(tmp_path / "saved", plugins=["other_author"]).learner.head.scale == 1.0


@pytest.mark.parametrize(
    "section",
    [
        {"head": "other_author.heads.far_means.FarMeans"},
        {"head": "other_author.heads.far_means"},
        {"head": {"name": "other_author.heads.far_means"}},
        {"head": "protonet", "refine": ["other_author.heads.far_means"]},
        {"head": "protonet", "adapt": "other_author.heads.far_means"},
        {"head": "protonet", "encoder": "other_author.encoders.flat_linear"},
    ],
    ids=str,
)
def test_a_dotted_name_is_one_line_and_runs_nothing(package: Path, section: dict) -> None:
    for given in ((), ("other_author",)):
        with pytest.raises(InputError, match=r"a configuration imports nothing") as error:
            gf.build(section, (3, 8, 8), 3, plugins=given)
        line = str(error.value)
        assert "--plugin other_author" in line and "plugins=['other_author']" in line
        assert "\n" not in line and not ran(package)


def test_the_command_line_takes_a_plugin(package: Path, tmp_path: Path, call: Call) -> None:
    experiment, out = tmp_path / "far.yaml", tmp_path / "episodes.json"
    experiment.write_text(
        "data: {name: glyphs}\n"
        "learner: {encoder: {name: flat_linear, width: 4}, head: {name: far_means, scale: 2}}\n"
        "episode: {way: 3, shot: 1, query: 2}\n"
        "evaluation: {episodes: 2}\n"
    )
    words = ("episodes", experiment, "--out", out)
    code, _, line = call(*words)
    assert code == 2 and "--plugin PACKAGE" in line and line.count("\n") == 1 and not out.exists()
    assert call(*words, "--plugin", "other_author")[0] == 0 and out.is_file()
    shown = call("methods", "far_means", "--plugin", "other_author")[1]
    assert "of the distances" in shown and "learner.head='{name: far_means" in shown
    assert "of the vectors" in call("encoders", "flat_linear", "--plugin", "other_author")[1]


def test_an_installed_plugin_is_found_by_its_entry_point(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = package.parent / "other_author-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other-author\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nanything = other_author\n")
    plugins.installed.cache_clear()
    try:
        assert plugins.installed() == ["other_author"]
        assert "far_means" in registry.names("head") and "flat_linear" in ENCODERS
        assert not ran(package)
        assert type(gf.build({"head": "far_means"}, (4,), 3).head).__name__ == "FarMeans"
    finally:
        plugins.installed.cache_clear()


def test_a_plugin_that_is_none_or_takes_a_name_is_refused(package: Path) -> None:
    for name in ("no_such_package", "json.decoder", "other_author/heads", "", "../site", 3):
        with pytest.raises(InputError, match=r"no package|name of a package"):
            registry.use_plugins([name])  # type: ignore[list-item]
    with pytest.raises(InputError, match="'json' holds no part"):
        registry.use_plugins(["json"])
    assert plugins.given() == []
    (package / "heads" / "protonet.py").write_text(HEAD)
    with pytest.raises(InputError, match=r"head 'protonet' is defined twice: in graphfsl\."):
        registry.use_plugins(["other_author"])
    (package / "heads" / "protonet.py").unlink()
    registry.find.cache_clear()
    (package / "encoders" / "conv4.py").write_text(ENCODER)
    registry.use_plugins(["other_author"])
    with pytest.raises(InputError, match="has an encoder 'conv4', as graphfsl has"):
        gf.build({"encoder": "conv4", "head": "protonet"}, (3, 32, 32), 3)


def test_the_processes_of_a_study_have_the_same_plugins(package: Path) -> None:
    registry.use_plugins("other_author")
    code = "from graphfsl.core import registry; print(registry.names('head')[-1])"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{package.parent}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "far_means"
