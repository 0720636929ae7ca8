"""The confounded world: what is painted how, who wears which hue, and what removing it is worth."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
import torch

import graphfsl as gf
from graphfsl.data.sets import glyphs
from graphfsl.data.split import Split
from graphfsl.data.tasks.tinted import Tinted
from graphfsl.data.tinting import HUES, tinted, tinted_split
from graphfsl.io.errors import InputError


@pytest.fixture(scope="module")
def letters() -> Split:
    return tinted_split(glyphs.load("test"), "tinted_glyphs", 12)


def test_ink_is_painted_and_paper_stays_white() -> None:
    drawings = torch.tensor([[[[0, 255], [51, 0]]]], dtype=torch.uint8)
    painted = tinted(drawings)
    assert painted.shape == (HUES, 3, 2, 2)
    for hue in range(HUES):
        colour = torch.tensor(colorsys.hsv_to_rgb(hue / HUES, 1, 1))
        assert (painted[hue, :, 0, 0] == 255).all() and (painted[hue, :, 1, 1] == 255).all()
        torch.testing.assert_close(painted[hue, :, 0, 1] / 255, colour, atol=0.005, rtol=0)
        # a fifth of the ink leaves four fifths of the paper
        wanted = 0.8 + 0.2 * colour
        torch.testing.assert_close(painted[hue, :, 1, 0] / 255, wanted, atol=0.005, rtol=0)


def test_a_split_holds_every_drawing_in_every_hue(letters: Split) -> None:
    drawings = glyphs.load("test")
    assert len(letters.x) == 62 * 12 * HUES and letters.shape == (3, 28, 28)
    assert letters.classes == drawings.classes and letters.variants == HUES
    of_one = letters.x[: 12 * HUES].unflatten(0, (12, HUES))
    assert (letters.y[: 12 * HUES] == 0).all()
    # the darkest channel of a pixel is white less its ink
    ink = 255 - of_one.amin(2)
    assert (ink == drawings.x[:48:4]).all()


@pytest.mark.parametrize("correlation", [0.0, 0.2, 1.0])
def test_hues_go_along_with_classes_as_asked(letters: Split, correlation: float) -> None:
    task = Tinted(way=5, shot=2, query=4, correlation=correlation)
    drawn = task.draws(letters, 0).draw(np.arange(200))
    hue, drawing = drawn.ids % HUES, drawn.ids // HUES
    k = drawn.n_support
    of_class = hue[:, :k].reshape(200, 5, 2)
    assert (of_class[..., 0] == of_class[..., 1]).all()
    assert all(len(set(row)) == 5 for row in of_class[..., 0].tolist())
    own = np.take_along_axis(of_class[..., 0], drawn.label[:, k:], 1)
    assert abs((hue[:, k:] == own).mean() - correlation) < 0.02
    # where it is not that of the own class it is that of another one, of each as often
    assert (hue[:, k:, None] == of_class[:, None, :, 0]).any(-1).all()
    for row in drawing.tolist():
        assert len(set(row)) == len(row)
    again = task.draws(letters, 0).draw(np.array([7, 3]))
    assert (again.ids == drawn.ids[[7, 3]]).all()
    task.check_draw(drawn, letters)


def test_the_same_drawings_at_every_correlation(letters: Split) -> None:
    """So that differences between correlations are paired."""
    found = [Tinted(correlation=rho).draws(letters, 1).draw([0, 1]) for rho in (0.0, 1.0)]
    assert (found[0].ids // HUES == found[1].ids // HUES).all()
    assert (found[0].label == found[1].label).all()


def test_a_support_in_all_hues_is_that_of_an_intervention(letters: Split) -> None:
    """Class means no longer know which hue the class had, so that hue misleads nobody."""
    plain = Tinted(shot=2, query=4, correlation=0.0)
    done = Tinted(shot=2, query=4, correlation=0.0, support_hues=HUES)
    before, after = (task.draws(letters, 0).draw(np.arange(30)) for task in (plain, done))
    k = before.n_support
    assert after.n_support == k * HUES == done.demands.support
    of_support = after.ids[:, : k * HUES].reshape(30, k, HUES)
    assert (of_support // HUES == before.ids[:, :k, None] // HUES).all()
    assert (np.sort(of_support % HUES, -1) == np.arange(HUES)).all()
    assert (of_support[..., 0] == before.ids[:, :k]).all()
    assert (after.ids[:, k * HUES :] == before.ids[:, k:]).all()
    done.check_draw(after, letters)

    learner = gf.build({"encoder": "pixels", "head": "protonet"}, (3, 28, 28), 5)
    # the whole circle of hues is the same from wherever it starts
    episode, _ = gf.Episodes(letters, done).batch([0])
    turned = episode.x.clone()
    shown = turned[:, : k * HUES].unflatten(1, (k, HUES)).roll(3, 2)
    turned[:, : k * HUES] = shown.flatten(1, 2)
    again = episode.with_tensors({"x": turned})
    torch.testing.assert_close(learner(again), learner(episode))
    found = [100 * gf.evaluate(learner, letters, t, episodes=60).mean for t in (plain, done)]
    assert found[0] < 25 and found[1] > found[0] + 15


def test_a_learner_that_sees_hue_is_misled_and_nuisance_projection_mends_it(letters: Split) -> None:
    base = tinted_split(glyphs.load("val"), "tinted_glyphs", 6)

    def accuracy(parts: list[Any], correlation: float) -> float:
        augment = [{"name": "feature_transform"}, *parts]
        learner = gf.build(
            {"encoder": "pixels", "augment": augment, "head": "simple_shot"}, (3, 28, 28), 5
        )
        x = base.x.flatten(1) / 255
        learner.fit_base(x, base.y)
        task = Tinted(shot=5, correlation=correlation)
        return 100 * gf.evaluate(learner, letters, task, episodes=60).mean

    torch.manual_seed(0)
    random = {"name": "nuisance", "rank": 3, "directions": "random"}
    plain, mended, control = (accuracy(p, 0.0) for p in ([], [{"name": "nuisance"}], [random]))
    assert plain < 25 and mended > plain + 20
    assert abs(control - plain) < 1
    # the price, where hue would have told the class
    assert accuracy([], 1.0) > accuracy([{"name": "nuisance"}], 1.0) + 5


def test_mistakes_are_one_line(letters: Split) -> None:
    for options, why in (
        ({"correlation": 1.5}, "must lie in"),
        ({"way": 1}, "at least 2"),
        ({"shot": 0}, "at least 1"),
        ({"support_hues": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=why):
            Tinted(**options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="shows each drawing in 8 hues, but the support of 9"):
        Tinted(way=9).draws(letters, 0)
    with pytest.raises(InputError, match="support_hues 3 are not spread evenly; set it to 8"):
        Tinted(support_hues=3).draws(letters, 0)
    with pytest.raises(InputError, match="shows each drawing in 1 hue, but"):
        Tinted().draws(glyphs.load("test"), 0)


def test_a_recolored_query_is_the_same_drawing_in_the_hue_of_another_class(letters: Split) -> None:
    """And what is measured is how many answers are others then, beside the accuracy as it was."""
    plain = Tinted(shot=2, query=3, correlation=0.0)
    task = Tinted(shot=2, query=3, correlation=0.0, recolored=True)
    before, after = (one.draws(letters, 0).draw(np.arange(40)) for one in (plain, task))
    k, q = before.n_support, before.n_query
    assert (after.ids[:, : k + q] == before.ids).all() and after.n_query == 2 * q
    first, second = after.ids[:, k : k + q], after.ids[:, k + q :]
    assert (first // HUES == second // HUES).all() and (first != second).all()
    of_support = after.ids[:, :k] % HUES
    assert (second[:, :, None] % HUES == of_support[:, None]).any(-1).all()
    task.check_draw(after, letters)

    section = {"encoder": "pixels", "head": {"name": "simple_shot", "transform": "un"}}
    learner = gf.build(section, letters.shape, 5)
    told = gf.evaluate(learner, letters, task, episodes=20)
    alone = gf.evaluate(learner, letters, plain, episodes=20)
    assert told.mean == pytest.approx(alone.mean)
    episode, _ = gf.Episodes(letters, task).batch(range(20))
    answers = learner.eval()(episode).argmax(-1)
    changed = (answers[:, : 5 * 3] != answers[:, 5 * 3 :]).double().mean()
    assert float(told.measured["answers that hue changes"].mean()) == pytest.approx(float(changed))
    assert changed > 0.5, "raw pixels take hue for class"
    with pytest.raises(InputError, match="recolored must be true or false, not 2"):
        Tinted(recolored=2)  # type: ignore[arg-type]
