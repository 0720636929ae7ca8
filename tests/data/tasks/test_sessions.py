"""The task `sessions`: base classes, then a few new ones at a time, without old samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import graphfsl as gf
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.session_lists import read_session_list
from graphfsl.data.tasks import as_task
from graphfsl.io.package_data import class_list
from graphfsl.loops.evaluation import evaluate
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.heads.cec import CEC
from graphfsl.methods.heads.label_propagation import LabelPropagation
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.teen import TEEN
from graphfsl.testing import TinyEncoder
from tests.support.refusal import refused

SMALL = {"task": "sessions", "base": 3, "sessions": 2, "way": 2, "shot": 2, "query": 3}
NAMES = tuple("abcdefghi")


def split(images: bool = False, each: int = 8) -> gf.Split:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(len(NAMES)).repeat_interleave(each)
    if images:
        x = (255 * torch.rand(len(y), 1, 8, 8, generator=g)).byte()
    else:
        x = 3 * torch.randn(len(NAMES), 6, generator=g)[y] + torch.randn(len(y), 6, generator=g)
    return gf.Split(x, y, NAMES, "mine/test")


def unit(**options: Any) -> tuple[Episode, Any]:
    return gf.Episodes(split(), {**SMALL, **options}).batch([0, 1, 2])


def test_an_old_class_is_one_node_whose_weight_counts_its_samples() -> None:
    episode, target = unit(base_shot=4)
    data = gf.Episodes(split(), {**SMALL, "base_shot": 4})
    draw = data.sampler.draw([0, 1, 2])
    assert [int(row.sum()) for row in episode.mask[:, episode.support]] == [3, 3 + 4, 3 + 2 + 4]
    assert episode.session is not None
    assert episode.session[0].tolist() == [0, 0, 0, -1, -1, -1, -1]
    assert episode.session[2].tolist() == [0, 0, 0, 1, 1, 2, 2]
    last = episode.w[2, episode.support]
    assert last.sum(0).tolist() == [4, 4, 4, 2, 2, 2, 2]
    assert (last[:, 3] > 0).sum() == 1 and (last[:, 5] > 0).sum() == 2
    samples = split().x[torch.from_numpy(draw.ids[2, :4])]
    torch.testing.assert_close(episode.x[2, 0], samples.mean(0))
    assert (target.query >= 0).sum(1).tolist() == [9, 15, 21]
    behind = set(draw.ids[2, : 3 * 4 + 4 * 2].tolist())
    assert not behind & set(target.ids[2].tolist()), "no query is behind the support"


def test_images_of_a_class_have_the_same_mean_as_its_node() -> None:
    """While an encoder is trained, the classes of a session are its images."""
    of_images = gf.Episodes(split(images=True), SMALL)
    episode, _ = of_images.batch([2])
    flat = split(images=True).x.flatten(1).float()
    features = gf.Split(flat, split().y, NAMES, "mine/test")
    condensed, _ = gf.Episodes(features, SMALL).batch([2])
    scores = Pipeline(head=ProtoNet())(episode.replace(x=255 * episode.x.flatten(2)))
    torch.testing.assert_close(scores, Pipeline(head=ProtoNet())(condensed), rtol=1e-3, atol=1.0)


def test_sessions_of_a_unit_share_classes_samples_and_queries() -> None:
    draw = gf.Episodes(split(), SMALL).sampler.draw([0, 1, 2, 3])
    assert (draw.classes[0] == draw.classes[2]).all() and (draw.classes[0] != draw.classes[3]).any()
    there = draw.ids[1] >= 0
    assert (draw.ids[1][there] == draw.ids[2][there]).all() and (draw.ids[2] >= 0).all()
    assert draw.session.tolist() == [0, 1, 2, 0]


def test_class_means_never_change_their_scores_of_old_classes() -> None:
    model = Pipeline(head=ProtoNet()).eval()
    episode, target = unit()
    scores = model(episode)
    old = target.query[0] >= 0
    torch.testing.assert_close(scores[0, old][:, :3], scores[2, old][:, :3])
    assert scores[0, :, 3:].isneginf().all(), "classes to come are absent"


def test_the_base_session_is_plain_class_means() -> None:
    found = evaluate(Pipeline(head=ProtoNet()), split(), SMALL, episodes=6)
    draw = gf.Episodes(split(), SMALL).sampler.draw([0])
    x = split().x
    means = x[torch.from_numpy(draw.ids[0, :6])].view(3, 2, -1).mean(1)
    asked = draw.ids[0, 14:] >= 0
    queries = x[torch.from_numpy(draw.ids[0, 14:][asked])]
    truth = torch.from_numpy(draw.label[0, 14:][asked])
    right = torch.cdist(queries, means).argmin(1) == truth
    assert float(found.accuracies[0]) == pytest.approx(float(right.float().mean()))
    row = found.row()
    assert row.episodes == 6 and len(row.values) == 2
    assert {"performance drop", "harmonic mean", "forgetting"} <= row.metrics.keys()


def test_answers_do_not_depend_on_blocks_and_base_means_of_teen_stay() -> None:
    head = TEEN(alpha=0.5)
    whole = evaluate(Pipeline(head=head), split(), SMALL, episodes=6, block=6)
    assert torch.equal(
        whole.accuracies, evaluate(Pipeline(head=head), split(), SMALL, 6, block=1).accuracies
    )


def test_a_frozen_encoder_makes_means_of_features() -> None:
    encoder = TinyEncoder().eval()
    encoder.requires_grad_(False)
    model = Pipeline(encoder, head=CEC(6))
    assert evaluate(model, split(images=True), SMALL, episodes=3).accuracies.isfinite().all()
    with refused("features and no samples", "learner.adapt=null"):
        evaluate(MAML(Pipeline(TinyEncoder(), head=Linear(6, 7))), split(images=True), SMALL, 3)
    with refused("multiple of it"):
        evaluate(model, split(images=True), SMALL, episodes=4)


def test_old_samples_are_gone_in_however_few_episodes() -> None:
    """A graph of old classes' samples would answer otherwise than one of their means."""
    model = Pipeline(TinyEncoder(), head=LabelPropagation(k=3)).eval()
    on_images = split(images=True, each=40)
    found = [gf.evaluate(model, on_images, SMALL, episodes=n).accuracies[:3] for n in (3, 60)]
    assert torch.equal(*found)


def listed(folder: Path, sessions: Any) -> str:
    file = folder / "mine.json"
    file.write_text(json.dumps({"sessions": sessions}))
    return str(file)


def letters(text: str) -> str:
    return text + "." * (8 - len(text))


def test_a_list_says_classes_and_samples(tmp_path: Path) -> None:
    base = {name: letters("ssqqq") for name in "ica"}
    order = listed(tmp_path, [base, ["b", "d"], ["h", "e"]])
    data = gf.Episodes(split(), {**SMALL, "order": order})
    draw = data.sampler.draw([2, 5])
    assert [NAMES[c] for c in draw.classes[0]] == list("icabdhe")
    assert sorted(NAMES[c] for c in draw.classes[1][3:]) == list("bdeh")
    assert draw.ids[0, :2].tolist() in ([64, 65], [65, 64])
    own = draw.ids[0, 14:][draw.label[0, 14:] == 0]
    assert set(own.tolist()) == {66, 67, 68}


@pytest.mark.parametrize(
    ("sessions", "options", "words"),
    [
        ([["a", "b", "c"], ["d", "a"], ["e", "f"]], {}, ("'a'", "session 0", "session 1")),
        ([["a", "b", "c"], ["d", "zebra"], ["e", "f"]], {}, ("'zebra'", "mine/test has not")),
        ([["a", "b", "c"], ["d", "e"], ["f"]], {}, ("as many classes",)),
        ([["a", "b", "c"], ["d", "e"]], {}, ("episode.sessions=1",)),
        ([["a"], []], {}, ("2 sessions or more",)),
        ([{"a": "sq", "b": "sq", "c": "sq"}, ["d", "e"], ["f", "g"]], {}, ("2 letters", "8 samp")),
        ([{"a": "ss", "b": "sq", "c": "sq"}, ["d", "e"], ["f", "g"]], {}, ("'a'", "a sample q")),
        ([["a"], ["d", "e"], ["f", "g"]], {}, ("base session has one class",)),
        ([{"a": "sx"}, ["d", "e"], ["f", "g"]], {}, ("s, q or .",)),
        (
            [dict.fromkeys("abc", letters("ssq")), ["d", "e"], ["f", "g"]],
            {},
            ("1 queries", "episode.query=1"),
        ),
        ([["a", "b", "c"], ["d", "e"], ["f", "g"]], {"shot": 7}, ("8 samples", "episode.shot")),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(
    sessions: Any, options: dict[str, int], words: tuple[str, ...], tmp_path: Path
) -> None:
    task = {**SMALL, **options, "order": listed(tmp_path, sessions)}
    with refused(*words):
        gf.Episodes(split(), task)


def test_a_class_twice_in_one_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"sessions": [{"a": "ss", "b": "sq", "a": "qs"}, ["c"]]}')
    with refused("'a' comes twice in one mapping"):
        gf.Episodes(split(), {**SMALL, "order": str(file)})


def test_a_list_may_begin_with_the_mark_of_windows_and_brackets_without_end_are_refused(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(b'\xef\xbb\xbf{"sessions": [["a", "b"], ["c"]]}')
    assert read_session_list(str(file)).sizes == (2, 1, 1)
    file.write_text("[" * 100_000)
    with refused("no list of sessions that can be read"):
        read_session_list(str(file))


def test_a_file_that_is_none_and_a_split_that_is_too_small() -> None:
    with refused("nowhere.json", "no list of sessions"):
        gf.Episodes(split(), {**SMALL, "order": "nowhere.json"})
    with refused("omniglot_fscil"):
        gf.Episodes(split(), {**SMALL, "order": "omniglot_fscl"})
    with refused("9 classes", "needs 13"):
        gf.Episodes(split(), {**SMALL, "base": 9})


def test_the_omniglot_list_is_the_published_one() -> None:
    order = read_session_list("omniglot_fscil")
    vinyals = class_list("omniglot_vinyals")
    assert order.sizes == (1200, 9, 47) and order.queries == 6
    assert set(order.sessions[0]) == {*vinyals["train"], *vinyals["val"]}
    assert set(order.classes) - set(order.sessions[0]) == set(vinyals["test"])
    assert all(text.count("s") == 5 for text in order.letters.values())


def test_its_words() -> None:
    task = as_task({**SMALL, "base_shot": 4})
    assert str(task) == (
        "3 base classes, then 2 sessions of 2-way 2-shot, base classes of 4 samples, "
        "3 queries of a class"
    )
