"""Regression: functions of which a few points are known, drawn by formula or read from images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.kernel_ridge import KernelRidge as Reference
from torch import nn

import graphfsl as gf
from graphfsl.core.episode import Episode, ValueTarget, stack
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.episode_files import read_episodes, write_episodes
from graphfsl.data.sets.gaussian_process import GaussianProcess
from graphfsl.data.tasks import as_task
from graphfsl.experiment.run import load as load_run
from graphfsl.functional.ridge import kernel_ridge
from graphfsl.io.errors import InputError
from graphfsl.loops.training_state import State
from graphfsl.methods.heads.kernel_ridge import KernelRidge
from graphfsl.methods.heads.regressor import Regressor
from graphfsl.nn import MLP
from graphfsl.report.function_figure import function_figure

Call = Callable[..., tuple[int, str, str]]
PARTS = ("train", "val", "test")


def images(name: str = "mine/train", shape: tuple[int, ...] = (1, 6, 5)) -> gf.Split:
    """Twelve images of noise, of two classes."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (12, *shape), dtype=np.uint8))
    return gf.Split(x, torch.arange(12) % 2, ("a", "b"), name)


def waves(part: str = "train", **options: Any) -> gf.Episodes:
    return gf.Episodes(gf.load_data("sinusoid", part), {"task": "functions", **options})


def pixels(split: gf.Split, **options: Any) -> gf.Episodes:
    return gf.Episodes(split, {"task": "functions", **options})


# ---- sine waves ----


def test_the_sine_waves_are_these() -> None:
    """The numbers that committed results rest on."""
    found = []
    for part in PARTS:
        draw = waves(part, shot=4, query=3).sampler.draw([0, 1, 7])
        numbers = np.concatenate([draw.parameters.flatten(), draw.points.flatten()])
        found.append(hashlib.sha256(numbers.round(9).tobytes()).hexdigest()[:16])
    assert len(set(found)) == 3
    assert found == PINNED


PINNED = ["328e9f700c549c7b", "e9ceae6c10ceb29a", "120f26625a5b58ba"]


def test_values_are_those_of_the_formula() -> None:
    episodes = waves(shot=6, query=5)
    draw = episodes.sampler.draw(np.arange(2000))
    amplitude, phase = draw.parameters.T
    for numbers, low, high in ((amplitude, 0.1, 5), (phase, 0, np.pi), (draw.points, -5, 5)):
        assert low < numbers.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < numbers.max() < high
        assert abs(numbers.mean() - (low + high) / 2) < 0.03 * (high - low)
    episode, target = episodes.batch(range(3))
    for b in range(3):
        for i in range(11):
            y = amplitude[b] * np.sin(draw.points[b, i, 0] - phase[b])
            assert float(episode.x[b, i, 0]) == pytest.approx(draw.points[b, i, 0], abs=1e-6)
            seen = episode.values[b, i, 0] if i < 6 else target.query[b, i - 6, 0]
            assert float(seen) == pytest.approx(y, abs=1e-5)
    assert not episode.values[:, 6:].any()
    assert episode.w[:, :6].eq(1).all() and not episode.w[:, 6:].any()


@pytest.mark.parametrize("source", ["waves", "pixels"])
def test_an_episode_is_a_function_of_its_number(source: str) -> None:
    episodes = waves() if source == "waves" else pixels(images())
    several, target = episodes.batch([5, 0, 3])
    for at, i in enumerate([5, 0, 3]):
        one, own = episodes.batch([i])
        assert torch.equal(one.x[0], several.x[at])
        assert torch.equal(one.values[0], several.values[at])
        assert torch.equal(own.query[0], target.query[at])
    assert not torch.equal(several.x[0], several.x[1])


def test_known_points_do_not_depend_on_how_many_are_asked_for() -> None:
    for make in (waves, lambda **options: pixels(images(), **options)):
        few, _ = make(shot=5, query=2).batch([1])
        many, _ = make(shot=5, query=9).batch([1])
        grid, _ = make(shot=5, query=9, query_points="grid").batch([1])
        assert torch.equal(few.x[:, :5], many.x[:, :5])
        assert torch.equal(few.x[:, :5], grid.x[:, :5])
        assert torch.equal(few.values[:, :5], grid.values[:, :5])


def test_a_grid_spans_the_domain() -> None:
    episode, _ = waves(shot=2, query=11, query_points="grid").batch([0, 1])
    assert episode.x[:, 2:, 0].tolist() == [pytest.approx(list(range(-5, 6)))] * 2


# ---- images ----


def test_values_are_pixels_and_queries_are_others() -> None:
    split = images(shape=(3, 6, 5))
    episodes = pixels(split, shot=12, query=18)
    draw = episodes.sampler.draw(np.arange(4))
    episode, target = episodes.batch(range(4))
    values = torch.cat([episode.values[:, :12], target.query], 1)
    for b in range(4):
        image, seen = split.x[draw.ids[b, 0]], set()
        for (row, column), value in zip(episode.x[b].tolist(), values[b], strict=True):
            place = round((row + 1) / 2 * 5), round((column + 1) / 2 * 4)
            seen.add(place)
            torch.testing.assert_close(value, image[:, *place] / 255)
        assert len(seen) == 30  # all pixels, each once
    assert len(set(draw.ids[:, 0])) > 1


def test_a_grid_of_all_pixels_is_the_image() -> None:
    split = images(shape=(1, 4, 4))
    episodes = pixels(split, shot=3, query=16, query_points="grid")
    _, target = episodes.batch([2])
    (number,) = episodes.sampler.draw([2]).ids[0]
    assert torch.equal(target.query.view(1, 4, 4), split.x[number] / 255)
    _, coarse = pixels(split, shot=3, query=4, query_points="grid").batch([2])
    assert torch.equal(coarse.query.view(1, 2, 2), split.x[number][:, ::3, ::3] / 255)


def test_an_image_is_augmented_as_a_whole() -> None:
    """Mirrored left to right, the value at a pixel is that of its mirror image."""
    split = images()
    options = {"task": "functions", "shot": 10, "query": 20}
    plain, _ = gf.Episodes(split, options).batch(range(8))
    turned, _ = gf.Episodes(split, options, transform=gf.Transform(flip=True)).batch(range(8))
    assert torch.equal(plain.x, turned.x)
    changed = (plain.values - turned.values).abs().amax((1, 2)) > 0.01
    assert 0 < int(changed.sum()) < 8


# ---- the error ----


def test_the_error_of_padded_tasks_is_that_of_each() -> None:
    torch.manual_seed(0)
    small, large = waves(shot=2, query=3).batch([0]), waves(shot=4, query=5).batch([1])
    both = stack([small[0], large[0]])
    truth = torch.zeros(2, 5, 1)
    truth[0, :3], truth[1] = small[1].query[0], large[1].query[0]
    answers = torch.randn(2, 5, 1)
    target = ValueTarget(truth)
    expected = [float((answers[0, :3] - truth[0, :3]).square().mean())]
    expected.append(float((answers[1] - truth[1]).square().mean()))
    assert target.squared_errors(answers, both).tolist() == pytest.approx(expected)
    scores = torch.cat([torch.randn(2, 4, 1), answers], 1)
    assert float(target.loss(scores, both)) == pytest.approx(np.mean(expected))


def test_answers_of_another_length_are_refused() -> None:
    episode, target = pixels(images(shape=(3, 6, 5))).batch([0])
    with pytest.raises(InputError, match="1 numbers a node, but 3 are asked for"):
        target.squared_errors(torch.zeros(1, 10, 1), episode)


# ---- kernel ridge regression ----


def test_kernel_ridge_is_that_of_scikit_learn() -> None:
    episode, _ = waves(shot=8, query=5).batch([0, 1])
    episode = episode.to(dtype=torch.float64)
    head = KernelRidge(length=0.7, lamda=0.3).double()
    answers = head(episode).detach().numpy()
    for b in range(2):
        x, y = episode.x[b].numpy(), episode.values[b].numpy()
        model = Reference(alpha=0.3, kernel="rbf", gamma=1 / (2 * 0.7**2)).fit(x[:8], y[:8])
        np.testing.assert_allclose(answers[b], model.predict(x[8:]), atol=1e-6)


def test_without_a_penalty_it_passes_through_what_is_known() -> None:
    episode, _ = pixels(images(), shot=9, query=4).batch(range(3))
    episode = episode.to(dtype=torch.float64)
    scores = KernelRidge(length=0.3, lamda=1e-9).double().score(episode)
    torch.testing.assert_close(scores[:, :9], episode.values[:, :9], atol=1e-5, rtol=0)


def test_a_node_of_weight_two_counts_as_two() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1, 5, 2, generator=g, dtype=torch.float64) for _ in range(2))
    twice, values = torch.cat([x, x[:, :1]], 1), torch.cat([y, y[:, :1]], 1)
    penalty = torch.tensor(0.4, dtype=torch.float64)

    def fitted(x: torch.Tensor, weight: list[float], y: torch.Tensor) -> torch.Tensor:
        kernel = (-torch.cdist(x, x)).exp()
        dual = kernel_ridge(kernel, torch.tensor([weight], dtype=torch.float64), y, penalty)
        return (-torch.cdist(x[:, :5], x)).exp() @ dual

    weighted = fitted(x, [2.0, 1, 1, 1, 1], y)
    torch.testing.assert_close(weighted, fitted(twice, [1.0] * 6, values))
    left_out = fitted(x, [1.0, 1, 1, 1, 0], y.index_fill(1, torch.tensor([4]), float("nan")))
    torch.testing.assert_close(left_out[:, :4], fitted(x[:, :4], [1.0] * 4, y[:, :4])[:, :4])


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    learner = gf.build({"encoder": "mlp", "head": "kernel_ridge"}, (1,), 1)
    gf.Trainer(steps=3, lr=0.01).fit(learner, waves())
    learner.save(tmp_path)
    episode, _ = waves().batch([0])
    for loaded in (load_run(tmp_path), gf.load(tmp_path)):
        assert torch.equal(loaded.learner.eval()(episode), learner.eval()(episode))
    classes = {"a": [np.zeros(1)], "b": [np.ones(1)]}
    with pytest.raises(InputError, match="answers with values"):
        gf.load(tmp_path).predict(classes, [np.zeros(1)])
    for source in (str(tmp_path), gf.load(tmp_path)):
        with pytest.raises(InputError, match="answers with values"):
            gf.FewShotClassifier(source).fit(np.zeros((4, 1)), [0, 0, 1, 1])


def test_graphs_rewrite_points_before_it() -> None:
    """What stands in other slots is asked for features, not for classes."""
    learner = gf.build(
        {"encoder": "mlp", "graph": "message_passing", "head": "kernel_ridge"}, (1,), 1
    )
    loss = learner.loss(*waves().batch([0, 1]))
    loss.backward()
    assert all(p.grad is not None for p in learner.encoder.parameters())
    for slot, part in (("refine", "soft_kmeans"), ("augment", "prototype_vae")):
        with pytest.raises(InputError, match="works on classes, but KernelRidge answers"):
            gf.build({"head": "kernel_ridge", slot: part}, (1,), 1)


def test_maml_adapts_the_regressor_to_a_function() -> None:
    """One inner step with a gradient written out by hand."""
    section = {
        "encoder": {"name": "mlp", "widths": [5]},
        "head": "regressor",
        "adapt": {"name": "maml", "lr": 0.1, "params": "head.*"},
    }
    learner = gf.build(section, (1,), 1).double().eval()
    episode, _ = waves(shot=4, query=3).batch([0])
    episode = episode.to(dtype=torch.float64)
    net = learner.innermost
    z = net.encoder(episode.x[0]).detach()
    w, b = (p.detach() for p in (net.head.linear.weight, net.head.linear.bias))
    error = z[:4] @ w.T + b - episode.values[0, :4]
    w = w - 0.1 * 2 / 4 * error.T @ z[:4]
    b = b - 0.1 * 2 / 4 * error.sum(0)
    torch.testing.assert_close(learner(episode)[0], z[4:] @ w.T + b)


def test_the_regressor_has_as_many_outputs_as_it_is_told() -> None:
    split, section = images(shape=(3, 6, 5)), {"encoder": "mlp", "adapt": "maml"}
    episodes = pixels(split, shot=6, query=5)
    learner = gf.build(section | {"head": {"name": "regressor", "outputs": 3}}, (2,), 1)
    assert torch.isfinite(learner.loss(*episodes.batch([0, 1])))
    with pytest.raises(InputError, match="3 are asked for"):
        gf.build(section | {"head": "regressor"}, (2,), 1).loss(*episodes.batch([0, 1]))
    with pytest.raises(InputError, match=r"set learner\.adapt"):
        gf.build({"head": "regressor"}, (2,), 1)
    for wrong in ({"outputs": 0}, {"std": 0.0}):
        with pytest.raises(InputError, match="regressor"):
            Regressor(4, **wrong)
    small = Regressor(50, std=0.01)
    assert small.linear.weight.abs().max().item() <= 0.02 and not small.linear.bias.any()


def test_it_is_not_asked_for_classes() -> None:
    head = KernelRidge()
    episode = Episode(torch.zeros(1, 3, 2), torch.eye(3, 2)[None], 2, 1)
    with pytest.raises(InputError, match="the episode is of classes"):
        head(episode)
    with pytest.raises(InputError, match="answers with values"):
        gf.FewShotClassifier("kernel_ridge").fit(np.ones((4, 1)), [0, 0, 1, 1])


# ---- the encoder ----


def test_mlp_is_the_papers_network() -> None:
    net = MLP(1, std=0.01)
    assert [tuple(p.shape) for p in net.parameters()] == [(40, 1), (40,), (40, 40), (40,)]
    weights = net.layers[1].weight
    assert 0.008 < weights.std().item() < 0.01 and weights.abs().max().item() <= 0.02
    assert not any(layer.bias.any() for layer in net.layers)
    x = torch.randn(7, 1)
    by_hand = x
    for layer in net.layers:
        by_hand = torch.clamp(by_hand @ layer.weight.T + layer.bias, min=0)
    torch.testing.assert_close(net(x), by_hand)


def test_mlp_reads_vectors_and_flattened_images() -> None:
    section = {"encoder": {"name": "mlp", "widths": [6]}, "head": "protonet"}
    assert gf.build(section, (9,), 3).encoder.layers[0].in_features == 9
    assert gf.build(section, (3, 4, 5), 3).encoder.layers[0].in_features == 60
    with pytest.raises(InputError, match="one that reads vectors, such as mlp"):
        gf.build({"encoder": "conv4", "head": "protonet"}, (9,), 3)
    for wrong in ([], [0], [4, -1]):
        with pytest.raises(InputError, match="widths"):
            MLP(2, wrong)
    with pytest.raises(InputError, match="std must be above 0"):
        MLP(2, std=0.0)


def test_mlp_trains_on_features_of_classes() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    split = gf.Split(rng.normal(size=(60, 4)) + 3 * np.eye(4)[y], y, ("a", "b", "c"), "rows/train")
    learner = gf.build({"encoder": "mlp", "head": "protonet"}, (4,), 3)
    before = [p.clone() for p in learner.parameters()]
    gf.Trainer(steps=2).fit(learner, gf.Episodes(split, way=3, shot=1, query=2))
    assert any(not torch.equal(p, q) for p, q in zip(before, learner.parameters(), strict=True))
    assert gf.evaluate(learner, split, way=3, shot=1, query=2, episodes=20).mean > 0.6


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"shot": 0}, "episode.shot must be"),
        ({"query_points": "grit"}, "did you mean 'grid'"),
        ({"way": 5}, "unknown option of episode 'way'"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        as_task({"task": "functions", **options})


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"shot": 20, "query": 11}, "images of 30 pixels, but 31 are asked for"),
        ({"query": 10, "query_points": "grid"}, "such as 9, not 10"),
        ({"query": 36, "query_points": "grid"}, "too small for a grid of 6 x 6"),
    ],
)
def test_an_image_that_is_too_small(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        pixels(images(), **options)


def test_a_set_without_functions() -> None:
    rows = gf.Split(torch.zeros(4, 3), [0, 0, 1, 1], ("a", "b"), "rows/train")
    with pytest.raises(InputError, match="neither functions nor images"):
        pixels(rows)
    with pytest.raises(InputError, match="did you mean 'val'"):
        gf.load_data("sinusoid", "vall")


# ---- the commands ----

EXPERIMENT = {
    "data": {"name": "sinusoid"},
    "learner": {"encoder": {"name": "mlp", "widths": [8]}, "head": "kernel_ridge"},
    "episode": {"task": "functions", "shot": 6, "query": 25, "query_points": "grid"},
    "train_episode": {"query": 6, "query_points": "random"},
    "trainer": {"steps": 12, "batch": 2, "val_every": 4, "val_episodes": 6, "checkpoint_every": 4,
                "log_every": 4, "lr": 0.05},
    "evaluation": {"episodes": 8},
}  # fmt: skip
SOURCES = {"waves": [], "images": ["data={name: arrays, root: images}"]}
both = pytest.mark.parametrize("source", SOURCES)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for i, part in enumerate(PARTS):
        x = np.random.default_rng(i).integers(0, 256, (6, 6, 5), dtype=np.uint8)
        np.savez(f"images/{part}.npz", images=x, labels=np.arange(6) % 2)
    Path("e.yaml").write_text(json.dumps(EXPERIMENT))
    return tmp_path


@both
def test_it_is_trained_resumed_evaluated_and_reported(place: Path, call: Call, source: str) -> None:
    words = ("run", "e.yaml", *SOURCES[source], "--out")
    code, out, err = call(*words, "whole")
    assert code == 0, err
    assert "functions of sinusoid/train" in out if source == "waves" else "6 samples" in out

    def stopped(state: State, line: dict[str, Any]) -> None:
        record(state, line)
        if line["step"] == 8:
            raise KeyboardInterrupt

    record = State.record
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "record", stopped)
        assert call(*words, "part")[0] == 130
    assert call(*words, "part")[0] == 0
    one, two = (Path(p, "model.safetensors").read_bytes() for p in ("whole", "part"))
    assert one == two
    (row,) = json.loads(Path("whole/results.json").read_text())["rows"]
    assert row["task"] == "functions" and row["metric"] == "MSE" and row["ci95"] > 0
    code, out, err = call("evaluate", "whole", "episode.shot=3", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["shot"] == 3 and json.loads(out)[0]["MSE"] > 0
    assert call("report", "whole", "--out", "report")[0] == 0
    assert "| MSE |" in Path("report/report.md").read_text()


@both
def test_its_episodes_are_listed_and_read_back(place: Path, call: Call, source: str) -> None:
    code, _, err = call("run", "e.yaml", *SOURCES[source], "--out", "r")
    assert code == 0, err
    assert call("episodes", "e.yaml", *SOURCES[source], "--out", "e.json")[0] == 0
    code, out, err = call("evaluate", "r", "--episodes", "e.json", "--json")
    assert code == 0, err
    own = json.loads(Path("r/results.json").read_text())["rows"][0]
    assert json.loads(out)[0]["MSE"] == own["MSE"]
    listed = json.loads(Path("e.json").read_text())
    listed["episodes"][0]["points"].pop()
    Path("e.json").write_text(json.dumps(listed))
    code, _, err = call("evaluate", "r", "--episodes", "e.json")
    assert code == 2 and "is not a list of episodes" in err and err.count("\n") == 1


def test_the_encoder_of_functions_is_not_pretrained(place: Path, call: Call) -> None:
    code, _, err = call("run", "e.yaml", "pretrain.objective=cross_entropy", "--out", "r")
    assert code == 2 and "no whole samples" in err and not Path("r/model.safetensors").exists()


def test_training_and_test_together_are_still_waves(place: Path, call: Call) -> None:
    code, _, err = call("run", "e.yaml", "data.base=trainval", "--out", "r")
    assert code == 0, err
    assert json.loads(Path("r/results.json").read_text())["rows"][0]["data"] == "sinusoid/test"


def test_a_learner_of_the_users_own_answers() -> None:
    """Any head that declares `answers` and reads `values`."""

    class Mean(gf.core.Head):
        answers = "values"

        def score(self, episode: Episode) -> torch.Tensor:
            known = episode.w * episode.values
            mean = known.sum(1, keepdim=True) / episode.w.sum(1, keepdim=True)
            return mean.expand(-1, episode.x.shape[1], -1)

    found = gf.evaluate(
        Pipeline(nn.Identity(), head=Mean()),
        gf.load_data("sinusoid", "test"),
        {"task": "functions", "shot": 10, "query": 100, "query_points": "grid"},
        episodes=200,
    )
    # E[A^2] / 2, which a constant that fits each wave would leave, and the error of its estimate
    assert 4.0 < found.mean < 5.2 and str(found).startswith("10-shot regression: ")


# ---- the figure ----


def test_the_figure_has_a_panel_for_each_task_and_a_line_for_each_answer() -> None:
    episode, target = waves(shot=5, query=20, query_points="grid").batch(range(3))
    answers = {"before": torch.zeros(3, 20, 1), "after 1 step": target.query}
    svg = function_figure(episode, target, answers, columns=2)
    assert svg == function_figure(episode, target, answers, columns=2)
    assert svg.count('id="axes_') == 2
    for name in ("true function", "before", "after 1 step", "known points"):
        assert f"<!-- {name} -->" in svg
    with pytest.raises(InputError, match="shape"):
        function_figure(episode, target, {"before": torch.zeros(3, 19, 1)})
    with pytest.raises(InputError, match="functions of one number"):
        function_figure(*pixels(images()).batch([0]), {})


# ---- as many known points as each episode draws ----


def test_each_episode_draws_how_many_points_are_known() -> None:
    asked = {"shot": 2, "max_shot": 5, "query": 3}
    episodes = waves(**asked)
    drawn = episodes.sampler.draw(np.arange(400))
    assert set(drawn.known.tolist()) == {2, 3, 4, 5}
    assert max(np.bincount(drawn.known)) < 140
    episode, target = episodes.batch(range(6))
    assert episode.n_support == 5 and target.query.shape == (6, 3, 1)
    for b in range(6):
        known = int(drawn.known[b])
        assert episode.w[b, :, 0].tolist() == [1.0] * known + [0.0] * (8 - known)
        assert episode.mask[b].tolist() == [True] * known + [False] * (5 - known) + [True] * 3
        assert not episode.values[b, known:].any()
        # the same functions and points as where all five are known
        full, truth = waves(shot=5, query=3).batch([b])
        assert torch.equal(full.x[0], episode.x[b])
        assert torch.equal(truth.query[0], target.query[b])
    with pytest.raises(InputError, match=r"episode\.max_shot must be a whole number of at least 4"):
        as_task({"task": "functions", "shot": 4, "max_shot": 3})
    title = as_task({"task": "functions", "shot": 3, "max_shot": 20}).title
    assert title == "3- to 20-shot regression"


def test_points_that_are_not_known_change_nothing() -> None:
    episode, target = waves(shot=2, max_shot=6, query=4).batch([0])
    known = int(episode.w.sum())
    assert known < 6
    kept = [*range(known), *range(6, 10)]
    alone = Episode(
        episode.x[:, kept], episode.w[:, kept], known, 4, values=episode.values[:, kept]
    )
    section = {"encoder": {"name": "mlp", "widths": [5]}, "head": "regressor", "adapt": "maml"}
    for learner in (section, {"head": "kernel_ridge"}, {"head": "cnp"}, {"head": "anp"}):
        torch.manual_seed(0)
        model = gf.build(learner, (1,), 1).eval()
        torch.testing.assert_close(model(episode), model(alone))
        torch.testing.assert_close(model.loss(episode, target), model.loss(alone, target))


def test_a_list_of_episodes_keeps_how_many_are_known(tmp_path: Path) -> None:
    split, asked = gf.load_data("sinusoid", "test"), {"shot": 2, "max_shot": 4, "query": 3}
    task = as_task({"task": "functions", **asked})
    file = tmp_path / "episodes.json"
    write_episodes(file, split, task, 0, 5)
    again = read_episodes(file, split).draw(np.arange(5)).arrays["known"]
    drawn = waves("test", **asked).sampler.draw(np.arange(5)).arrays["known"]
    assert (again == drawn).all()
    told = json.loads(file.read_text())
    told["episodes"][0]["known"] = 9
    file.write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"outside of shot\.\.max_shot"):
        read_episodes(file, split)


# ---- draws of a Gaussian process ----


def test_draws_of_the_gaussian_process_have_its_kernel() -> None:
    """Exactly: a value is linear in independent amplitudes, whose variances are known."""
    family = GaussianProcess()
    x = np.linspace(-2, 2, 33)[None, :, None]
    deviation = family.draw(np.full((1, family.parameters), scipy.stats.norm.cdf(1.0)))
    each = [family.values(deviation * one, x)[0, :, 0] for one in np.eye(family.parameters)]
    found = sum(np.outer(own, own) for own in each)
    apart = x[0] - x[0].T
    np.testing.assert_allclose(found, np.exp(-(apart**2) / (2 * 0.4**2)), atol=1e-12)
    episode, _ = gf.Episodes(gf.load_data("gaussian_process", "val"), {"task": "functions"}).batch(
        [0]
    )
    assert episode.x.abs().max() <= 2
    with pytest.raises(InputError, match="split"):
        gf.load_data("gaussian_process", "tset")
