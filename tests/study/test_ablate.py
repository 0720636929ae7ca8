"""Studies: every cell on the same episodes, shared trainings, interruption, processes and clusters,
honest findings.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from graphfsl.experiment import encoders
from graphfsl.io import ray_cluster
from graphfsl.io.errors import InputError
from graphfsl.io.lock import locked
from graphfsl.nn import ENCODERS, Conv4
from graphfsl.report.committed_tables import table
from graphfsl.study import cells as ablate
from graphfsl.study.findings import findings
from graphfsl.study.grid import Study, read_study
from tests.support import ROOT
from tests.support.command import EXPERIMENT, Call, write_split

STUDY = """
question: Does the distance matter?
experiment: my.yaml
set: {trainer.steps: 10, evaluation.episodes: 30}
grid:
  learner.head.distance: [sqeuclidean, cosine]
  test.episode.shot: [1, 3]
  seed: [0, 1]
"""

ABLATE = [
    sys.executable,
    "-W",
    "ignore",
    "-m",
    "graphfsl.cli.main",
    "ablate",
    "study.yaml",
    "--out",
]


@pytest.fixture
def study(world: Path) -> Path:
    (world / "study.yaml").write_text(STUDY)
    return world


def cells(out: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(out, "cells.csv").open()))


def test_a_study_equals_its_cells_run_by_hand(study: Path, call: Call) -> None:
    code, out, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0, err
    assert "8 cells, 4 trainings" in out
    assert len(list(Path("a/runs").iterdir())) == 4
    for distance in ("sqeuclidean", "cosine"):
        options = [
            f"learner.head.distance={distance}",
            "seed=1",
            "trainer.steps=10",
            "evaluation.episodes=30",
        ]
        assert call("run", "my.yaml", *options, "--out", distance)[0] == 0
        _, text, _ = call("evaluate", distance, "episode.shot=3", "--json")
        (own,) = [
            c
            for c in cells("a")
            if (c["learner.head.distance"], c["test.episode.shot"], c["seed"])
            == (distance, "3", "1")
        ]
        assert float(own["accuracy"]) == json.loads(text)[0]["accuracy"]
    assert {p.name for p in Path("a").iterdir()} >= {
        "cells.csv",
        "study.json",
        "report.html",
        "report.tex",
        "report.md",
    }
    assert "`learner.head.distance`" in out and "`test.episode.shot`" in out and "`seed`" not in out
    facts = json.loads(Path("a/study.json").read_text())
    (shots,) = [e for e in facts["effects"] if e["axis"] == "test.episode.shot"]
    (distances,) = [e for e in facts["effects"] if e["axis"] == "learner.head.distance"]
    # Holm's, over these two: seeds are repetitions, they are not compared
    for e in facts["effects"]:
        assert e["corrected"] == min(1, 2 * e["p"]) or e["p"] == max(
            x["p"] for x in facts["effects"]
        )
    assert distances["paired"] and shots["paired"] and distances["matched"] == shots["matched"] == 4
    # The difference of means and its interval, by hand from the cells: episode i of 1 and of 3
    # shots has the same classes, so the differences under both are one sample, and so are the
    # shots.
    rows = [json.loads(f.read_text()) for f in Path("a/cells").iterdir()]
    by_axis = {"distance": np.zeros(30), "shot": np.zeros(30)}
    for r in rows:
        sign = (
            1
            if "cosine" in json.dumps(json.loads(Path("a/runs").joinpath(run_of(r)).read_text()))
            else -1
        )
        by_axis["distance"] -= sign * np.array(r["accuracies"]) / 4
        by_axis["shot"] += (1 if r["shot"] == 1 else -1) * np.array(r["accuracies"]) / 4
    for effect, d in ((distances, by_axis["distance"]), (shots, by_axis["shot"])):
        half = 100 * scipy.stats.t.ppf(0.975, 29) * d.std(ddof=1) / 30**0.5
        assert (effect["difference"], effect["half"]) == pytest.approx(
            (100 * d.mean(), half), abs=2e-3
        )


def test_numbers_of_episodes_are_not_compared(study: Path, call: Call) -> None:
    """A method that takes long may have fewer; the others have both, and are paired with it."""
    Path("study.yaml").write_text(
        "experiment: my.yaml\nset: {trainer.steps: 10}\n"
        "grid: {learner.head: [protonet, rfs], evaluation.episodes: [40, 20]}\n"
        "skip: [{learner.head: rfs, evaluation.episodes: 40}]\n"
    )
    code, _, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0, err
    assert [c["episodes"] for c in cells("a")] == ["40", "20", "20"]
    (effect,) = json.loads(Path("a/study.json").read_text())["effects"]
    assert (effect["axis"], effect["paired"], effect["matched"]) == ("learner.head", True, 1)
    # where both have both, the longer cells hold the shorter ones, which are no further pair
    text = Path("study.yaml").read_text().partition("skip:")[0]
    Path("study.yaml").write_text(text)
    call("ablate", "study.yaml", "--out", "b")
    (both,) = json.loads(Path("b/study.json").read_text())["effects"]
    Path("study.yaml").write_text(text.replace("[40, 20]", "[40]"))
    call("ablate", "study.yaml", "--out", "c")
    (wanted,) = json.loads(Path("c/study.json").read_text())["effects"]
    assert both == wanted and both["matched"] == 1


def test_a_key_of_the_evaluation_changes_what_is_measured(study: Path, call: Call) -> None:
    """Cells that share a training were once all measured as the first of them."""
    Path("study.yaml").write_text(
        "experiment: my.yaml\nset: {trainer.steps: 10, evaluation.episodes: 30}\n"
        "grid: {evaluation.split: [val, test], evaluation.seed: [0, 1]}\n"
    )
    code, out, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0 and "4 cells, 1 trainings" in out, err
    assert [c["data"] for c in cells("a")] == ["data/val"] * 2 + ["data/test"] * 2
    (run,) = Path("a/runs").iterdir()
    for cell in cells("a"):
        changes = [f"{axis}={cell[axis]}" for axis in ("evaluation.split", "evaluation.seed")]
        _, text, _ = call("evaluate", str(run), *changes, "--json")
        assert float(cell["accuracy"]) == json.loads(text)[0]["accuracy"]


def test_cells_are_paired_by_episode_where_data_and_seed_are_one() -> None:
    """2,000 simulated episodes: what two settings share is in every interval; two data sets share
    nothing.
    """
    random, n = np.random.default_rng(0), 2000
    shared = random.normal(size=n)

    def row(data: str, shot: int, head: str, episodes: int = n) -> dict[str, Any]:
        noise = random.normal(size=episodes) + (shared[:episodes] if head == "b" else 0)
        plain = {
            "setting": "inductive",
            "data": data,
            "seed": 0,
            "shot": shot,
            "episodes": episodes,
        }
        return plain | {
            "cell": {"where": f"{data}{shot}", "head": head},
            "accuracies": noise.tolist(),
            "accuracy": 0.0,
        }

    def head(*rows: dict[str, Any]) -> dict[str, Any]:
        study = Study("s", "q", {"where": [1, 2], "head": ["a", "b"]}, [], 1)
        return next(e for e in findings(study, rows).effects if e["axis"] == "head")

    one = [row("x", shot, h) for shot in (1, 5) for h in "ab"]
    two = [row(data, 1, h) for data in "xy" for h in "ab"]
    # (a - b) of each has variance 3; the mean of two that share 1 of it has 2, of two apart 1.5.
    assert head(*one)["half"] == pytest.approx(196 * (2 / n) ** 0.5, rel=0.05)
    assert head(*two)["half"] == pytest.approx(196 * (1.5 / n) ** 0.5, rel=0.05)
    fewer = [row("x", 1, "a"), row("x", 1, "b", 500)]
    assert head(*fewer)["half"] == pytest.approx(196 * (3 / 500) ** 0.5, rel=0.1)


def test_data_of_one_name_in_other_folders_are_not_paired(study: Path, call: Call) -> None:
    """Two folders `data` with other images, each of which has a best cell of its own."""
    for number, folder in enumerate(("x/data", "y/data")):
        Path(folder).mkdir(parents=True)
        write_split(Path(folder, "test.npz"), 10 + number)
    Path("study.yaml").write_text(
        "experiment: my.yaml\nset: {trainer.steps: 10, evaluation.episodes: 30}\n"
        "grid: {test.data.root: [x/data, y/data], test.episode.shot: [1, 3]}\n"
    )
    code, _, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0, err
    assert [c["data"] for c in cells("a")] == ["data/test 1"] * 2 + ["data/test 2"] * 2
    effects = json.loads(Path("a/study.json").read_text())["effects"]
    assert {e["axis"]: e["paired"] for e in effects} == {
        "test.data.root": False,
        "test.episode.shot": True,
    }
    lines = Path("a/report.md").read_text().splitlines()
    for folder in ("x/data", "y/data"):
        assert any(line.startswith(f"| {folder} |") and "**" in line for line in lines)


def run_of(row: dict[str, Any]) -> str:
    """The config.json of the run whose weights made a row."""
    return next(
        f"{p.name}/config.json"
        for p in Path("a/runs").iterdir()
        if row["config"] in set(_digests(p))
    )


def _digests(run: Path) -> list[str]:
    from graphfsl.experiment.experiment import Experiment

    config = json.loads((run / "config.json").read_text())["config"]
    return [Experiment.of(config, [f"episode.shot={s}"]).digest() for s in (1, 3)]


def test_interrupted_studies_end_with_the_same_table(study: Path, call: Call) -> None:
    assert call("ablate", "study.yaml", "--out", "whole")[0] == 0
    for signal_ in (signal.SIGKILL, signal.SIGTERM):
        child = subprocess.Popen(
            [*ABLATE, "killed"],
            cwd=study,
            env=_env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        before = len(list(Path("killed").glob("cells/*.json")))
        while child.poll() is None and len(list(Path("killed").glob("cells/*.json"))) <= before:
            time.sleep(0.005)
        child.send_signal(signal_)
        _, err = child.communicate()
        if signal_ is signal.SIGTERM and child.returncode:
            assert child.returncode == 130 and err.count("\n") == 1 and "goes on" in err
    code, out, err = call("ablate", "study.yaml", "--out", "killed")
    assert code == 0, err
    assert re.search(r"[1-8] cells are done already", out)
    assert Path("killed/cells.csv").read_bytes() == Path("whole/cells.csv").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_ends_the_processes_at_once(study: Path, call: Call, name: str) -> None:
    """A terminal sends Ctrl-C to all of them, a scheduler SIGTERM to the first."""
    text = Path("study.yaml").read_text()
    Path("study.yaml").write_text(text.replace("trainer.steps: 10,", "trainer.steps: 100000,"))
    child = subprocess.Popen(
        [*ABLATE, "a", "--processes", "2"],
        cwd=study,
        env=_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while child.poll() is None and len(list(Path("a").glob("runs/*/metrics.jsonl"))) < 2:
        time.sleep(0.01)
    (os.killpg if name == "SIGINT" else os.kill)(child.pid, signal.Signals[name])
    _, err = child.communicate(timeout=30)  # at the end of the last process, since all write there
    assert child.returncode == 130 and err.count("\n") == 1 and "goes on" in err, err
    assert not list(Path("a").rglob(".*")), "a lock or a temporary"


def _env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("how", ["processes", "ray"])
def test_processes_and_clusters_give_the_serial_table(study: Path, call: Call, how: str) -> None:
    if how == "ray":
        pytest.importorskip("ray", reason="the extra `ray` is not installed")
    assert call("ablate", "study.yaml", "--out", "serial")[0] == 0
    flags = ["--ray", "local"] if how == "ray" else ["--processes", "2"]
    command = [*ABLATE, how, *flags]
    done = subprocess.run(command, cwd=study, env=_env(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(how, "cells.csv").read_bytes() == Path("serial/cells.csv").read_bytes()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_one_line(address: str) -> None:
    with pytest.raises(InputError, match=f"--ray {address}: nobody answers there"):
        ray_cluster._reach(address)


def test_a_cluster_that_was_started_elsewhere_writes_here(study: Path) -> None:
    unit = ablate.units(read_study("study.yaml"), Path("a"))[0]
    with ProcessPoolExecutor(1, get_context("spawn"), os.chdir, ("/",)) as pool:
        done = pool.submit(
            ablate._from_elsewhere, unit, str(study), {"GRAPHFSL_CACHE": "cache"}
        ).result()
    assert not [r for r in done.values() if isinstance(r, ablate.Failure)] and all(
        f.is_file() for f in done
    )
    assert (unit.path / "model.safetensors").is_file()


def test_a_cell_that_fails_is_reported_and_tried_again(study: Path, call: Call) -> None:
    Path("study.yaml").write_text(
        "experiment: my.yaml\nset: {trainer.steps: 10, evaluation.episodes: 20}\ngrid: "
        "{trainer.lr: [0.01, 1.0e+15]}\n"
    )
    code, out, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0, err
    (line,) = [x for x in out.splitlines() if x.startswith("failed: trainer.lr=1000000000000000.0")]
    assert any(word in line for word in ("diverged", "NaN", "the loss is"))
    assert [bool(c["accuracy"]) for c in cells("a")] == [True, False]
    assert (
        json.loads(Path("a/study.json").read_text())["failures"][0][0]
        == "trainer.lr=1000000000000000.0"
    )
    assert "1 cells are done already" in call("ablate", "study.yaml", "--out", "a")[1]


def test_a_study_of_which_every_cell_failed_is_no_success(study: Path, call: Call) -> None:
    Path("study.yaml").write_text(
        "experiment: my.yaml\nset: {trainer.steps: 10}\ngrid: {trainer.lr: [1.0e+14, 1.0e+15]}\n"
    )
    code, _, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 2 and "every cell failed; the first: " in err
    assert "Traceback" not in err and Path("a/cells.csv").is_file()


def test_two_processes_do_not_work_through_one_study(study: Path, call: Call) -> None:
    """Cells of the second one would fail, and its report would say so of sound options."""
    with locked(Path("a")):
        code, out, err = call("ablate", "study.yaml", "--out", "a")
        assert code == 2 and "another process works in a; wait for it" in err and not out
        assert [f.name for f in Path("a").iterdir()] == [".lock"]
    code, out, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0 and not Path("a/.lock").exists(), err


def test_an_inner_loop_that_diverges_is_told_and_stops_no_other_cell(
    world: Path, call: Call
) -> None:
    """No or 20 steps of a rate of 1,000, from weights that were trained without an inner loop."""
    Path("my.yaml").write_text(
        "data: {name: sinusoid}\n"
        "learner: {encoder: mlp, head: regressor, adapt: {name: maml, steps: 0, lr: 1000.0}}\n"
        "episode: {task: functions, shot: 5, query: 10}\n"
        "trainer: {steps: 2, val_every: 2, val_episodes: 2}\n"
        "evaluation: {episodes: 4}\n"
    )
    Path("study.yaml").write_text(
        "experiment: my.yaml\n"
        "grid: {test.episode.shot: [5, 10], test.learner.adapt.steps_test: [20, 0]}\n"
    )
    code, out, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0 and "failed" not in out, err
    assert "diverges: test.episode.shot=5, test.learner.adapt.steps_test=20: episode 0" in out
    made = cells("a")
    assert [c["MSE"] == "diverges" for c in made] == [True, False, True, False]
    assert {c["setting"] for c in made} == {"inductive"}
    assert {c["unit"] for c in made} == {""}, "a squared error has none"
    assert "2 of 4 cells; in 2 the inner loop diverges." in Path("a/report.md").read_text()
    first = Path("a/cells.csv").read_bytes()
    assert "2 cells are done already" in call("ablate", "study.yaml", "--out", "a")[1]
    assert Path("a/cells.csv").read_bytes() == first


def test_a_damaged_cell_is_measured_again(study: Path, call: Call) -> None:
    assert call("ablate", "study.yaml", "--out", "a")[0] == 0
    table, file = Path("a/cells.csv").read_bytes(), next(Path("a/cells").iterdir())
    cut = file.read_text()[:300]
    for text in ("", "{}", "null", "[1]", '{"accuracies": 1}', cut):
        file.write_text(text)
        code, out, err = call("ablate", "study.yaml", "--out", "a")
        assert code == 0 and "7 cells are done already" in out, f"{text}: {err}"
        assert Path("a/cells.csv").read_bytes() == table


def test_kinds_of_settings_are_never_ranked_together(study: Path, call: Call) -> None:
    Path("study.yaml").write_text("""
experiment: my.yaml
set: {trainer.steps: 10, evaluation.episodes: 30}
grid:
  test.learner.refine: [null, soft_kmeans]
  test.episode.unlabeled: [0, 3, 5]
  test.learner.batch_norm: [running, joint]
""")
    code, out, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 0, err
    kinds = {c["setting"] for c in cells("a")}
    assert kinds == {
        "inductive",
        "transductive",
        "semi-supervised",
        "semi-supervised + transductive",
    }
    findings_ = [x for x in out.splitlines() if x.startswith("• ")]
    gains = [x for x in findings_ if "a gain, not a ranking" in x]
    assert any("soft_kmeans (semi-supervised) beside none (inductive)" in x for x in gains)
    assert any("joint (transductive) beside running (inductive)" in x for x in gains)
    for x in set(findings_) - set(gains):
        assert re.match(
            r"• (Inductive|Transductive|Semi-supervised|Semi-supervised \+ "
            r"transductive): ",
            x,
        ), x
    facts = json.loads(Path("a/study.json").read_text())
    for e in facts["effects"]:
        assert e["setting"] in kinds or " against " in e["setting"]
    # Of each kind, on each set of episodes, at least one row is the best.
    s = read_study("study.yaml")
    rows = [
        r.replace(cell=c.levels)
        for c, r in zip(s.cells, ablate.rows_of(s, Path("a")), strict=True)
        if r
    ]
    best = findings(s, rows).best
    for kind in kinds:
        for unlabeled in {r.asked["unlabeled"] for r in rows if r.setting == kind}:
            own = [
                i
                for i, r in enumerate(rows)
                if r.setting == kind and r.asked["unlabeled"] == unlabeled
            ]
            top = max(own, key=lambda i: rows[i].score)
            assert best[top]


BAD = [
    (
        "grid: {learner.haed: [a]}",
        "cell learner.haed=a: unknown slot of learner 'haed'; did you mean 'head'?",
    ),
    ("grid: {learner.head: [protonet, protonett]}", "did you mean 'protonet'?"),
    ("grid: {episode.shot: [1, 300]}", "cell episode.shot=300: "),
    ("grid: {test.episode.way: [3, 50]}", "cell test.episode.way=50: "),
    (
        "grid: {test.learner.encoder.width: [8, 16]}",
        "cell test.learner.encoder.width=16: the trained learner is of another",
    ),
    ("grid: {}", "grid must map each axis"),
    ("grid: {seed: 3}", "grid must map each axis"),
    ("grid: {seed: [0]}\nskipp: []", "unknown key of a study 'skipp'; did you mean 'skip'?"),
    ("grid: {seed: [0]}\nskip: 0", "skip must be a list of {axis: level}"),
    ("grid: {seed: [0]}\nset: 0", "set map keys to values"),
    ("grid: {seed: [0]}\nalso: 0", "also must be a list of metrics"),
    ("grid: {seed: [0]}\nskip: [{sed: 0}]", "unknown axis in skip 'sed'; did you mean 'seed'?"),
    ("grid: {seed: [0]}\nskip: [{seed: 1}]", "skip names the level 1"),
    ("grid: {seed: [0]}\nskip: [{seed: 0}]", "the skip rules leave no cell"),
    ("grid: {seed: [0, 0]}", "two cells are the same"),
    (
        "grid: {learner.head: [protonet, {name: protonet}]}",
        "two cells are the same: learner.head=protonet;",
    ),
    (
        "grid: {trainer: [{steps: 3}, {steps: 3, device: cpu}]}",
        "two cells are the same: trainer=steps 3, and trainer=steps 3, device cpu; leave one out",
    ),
    ("grid: {seed: [0]}\nthreads: 0", "threads must be a whole number"),
    ("grid: {seed: [0]}\nset: [1]", "set map keys to values"),
    ("grid: {seed: [0]}\nset: {trainer.stepz: 3}", "did you mean 'steps'?"),
    (
        "grid: {test.evaluation.settings: [[{shot: 1}, {shot: 3}]]}",
        "cell test.evaluation.settings=shot 1 + shot 3: a cell is evaluated in one setting, not",
    ),
    ("grid: {seed: [0]}\nalso: [accuracy]", "accuracy is compared as it is; leave it out of also"),
    ("grid: {seed: [0]}\nalso: [macro-F2]", "unknown metric 'macro-F2'; did you mean 'macro-F1'?"),
]


@pytest.mark.parametrize(("text", "says"), BAD, ids=[b[0].replace("\n", "; ") for b in BAD])
def test_every_cell_is_checked_before_the_first_trains(
    study: Path, call: Call, text: str, says: str
) -> None:
    Path("study.yaml").write_text(f"experiment: my.yaml\n{text}\n")
    code, _, err = call("ablate", "study.yaml", "--out", "a")
    assert code == 2 and err.count("\n") == 1 and says in err, err
    assert not Path("a").exists()


def test_a_study_that_is_not_there(study: Path, call: Call) -> None:
    code, _, err = call("ablate", "glyph_width_distance")
    assert code == 2 and "did you mean 'glyphs_width_distance.yaml'?" in err
    Path("study.yaml").write_text("grid: {seed: [0]}\n")
    assert "experiment must name an experiment file" in call("ablate", "study.yaml")[2]


def test_shipped_studies_are_what_the_walk_says() -> None:
    width, pool = (
        read_study(ROOT / f"experiments/ablations/{name}.yaml")
        for name in ("glyphs_width_distance", "glyphs_unlabeled")
    )
    assert (len(width.cells), len({c.training for c in width.cells})) == (48, 24)
    assert (len(pool.cells), len({c.training for c in pool.cells})) == (14, 1)


@pytest.mark.slow  # a minute: it builds the learner of every cell of every study
def test_every_shipped_study_can_be_read() -> None:
    for path in (ROOT / "experiments/ablations").glob("*.yaml"):
        assert read_study(path).cells


def _blocks(text: str, language: str) -> list[str]:
    return [
        block
        for name, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
        if name == language
    ]


def test_a_committed_study_is_a_table_of_its_settings(tmp_path: Path) -> None:
    lines = [
        "learner.refine,episode.unlabeled,train_episode.label_seed,setting,accuracy,ci95,episodes"
    ]
    lines += [f",{u},{seed},inductive,{50 + seed},1.0,600" for u in (5, 10) for seed in (0, 1)]
    lines += [
        f"soft,{u},{seed},semi-supervised,{60 + u + seed},2.0,600"
        for u in (5, 10)
        for seed in (0, 1)
    ]
    (tmp_path / "pools.csv").write_text("\n".join(lines))
    text = table("pools", tmp_path)
    assert text.split("\n\n")[0] == "Inductive:"
    assert (
        "| refine | unlabeled 5 | unlabeled 10 |"
    ) in text and "| none | 50.50 ± 1.00 | 50.50 ± 1.00 |" in text
    assert text.index("Semi-supervised:") < text.index("| soft | 65.50 ± 2.00 | 70.50 ± 2.00 |")


def test_the_walk_from_a_question_to_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """Every command of the tutorial, with fewer steps and episodes."""
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    lines = [x for block in _blocks(text, "console") for x in block.strip().splitlines()]
    commands = [line.removeprefix("$ ") for line in lines]
    assert len(commands) == 5 and all(c.startswith("graphfsl ") for c in commands)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    less = [
        "trainer.steps=3",
        "trainer.val_every=3",
        "trainer.val_episodes=5",
        "evaluation.episodes=20",
    ]
    for command in commands:
        words = shlex.split(command)[1:]
        if words[0] in ("run", "ablate"):
            words = [
                w
                for w in words
                if not w.startswith("trainer.steps") and w not in ("--processes", "2")
            ]
            words += [
                *less,
                *(
                    ["grid.seed=[0]", "grid.learner.encoder.width=[8, 16]"]
                    if "width" in words[1]
                    else []
                ),
            ]
        code, out, err = call(*words)
        assert code == 0 and out, f"{command}: {err}"
    assert len(cells("runs/study")) == 8 and len(cells("runs/pool")) == 14
    (shown,) = _blocks(text, "yaml")
    for line in (x.strip() for x in shown.splitlines()):
        assert line in (ROOT / "experiments/ablations/glyphs_width_distance.yaml").read_text(), line


def test_reproduce_prints_published_beside_ours(world: Path, call: Call) -> None:
    text = EXPERIMENT.replace("DATA", str(world / "data"))
    paper = (
        "paper: {title: A paper, year: 2017, steps: 50000}\ndeviations: [fewer steps, "
        "another data set]\n"
    )
    (world / "my.yaml").write_text(paper + text)
    code, out, err = call("reproduce", "my.yaml", "--out", "r")
    assert code == 0, err
    (row,) = json.loads(next(Path("r").glob("my-*/results.json")).read_text())["rows"]
    for wanted in (
        "90.00",
        f"{row['accuracy']:.2f}",
        f"{row['difference']:+.2f}",
        "a paper",
        "deviation: fewer steps",
        "deviation: another data set",
        "steps: 20 (paper: 50,000)",
        "minutes",
    ):
        assert wanted in out, wanted
    code, _, err = call("reproduce", "snel2017")
    assert code == 2 and "did you mean 'snell2017'?" in err
    with pytest.raises(InputError, match="not in an installed package"):
        table("glyphs", world)
    assert "unknown table 'nowhere'" in call("reproduce", "--table", "nowhere")[2]
    assert "reproduce needs a paper" in call("reproduce")[2]


def test_a_study_builds_each_encoder_once_for_its_check(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders._on_meta.cache_clear()
    encoders._probed.cache_clear()
    built: list[bool] = []

    class Counted(Conv4):
        def __init__(self, in_channels: int = 3, width: int = 8) -> None:
            built.append(True)
            super().__init__(in_channels, width)

    monkeypatch.setitem(ENCODERS, "conv4", Counted)
    ablate.check_cells(read_study("study.yaml"))
    assert len(built) <= 6, (
        "for the shapes of a checked configuration and of the data, and a frozen one"
    )


def test_the_check_of_many_cells_shows_progress(study: Path) -> None:
    from rich.console import Console

    console = Console(record=True, force_terminal=True, width=80)
    ablate.check_cells(read_study("study.yaml"), console)
    assert "checking cells" in console.export_text()


def test_a_study_refuses_other_data(study: Path, call: Call) -> None:
    few = (
        "ablate",
        "study.yaml",
        "grid={seed: [0, 1]}",
        "trainer.steps=2",
        "evaluation.episodes=2",
        "--out",
        "a",
    )
    assert call(*few)[0] == 0
    shutil.copytree("data", "moved/data")
    assert call(*few, f"data.root={study / 'moved/data'}")[0] == 0, "equal content at another place"
    with np.load("data/test.npz") as file:
        held = dict(file)
    held["images"][0] = 255 - held["images"][0]
    np.savez("data/test.npz", **held)
    code, _, err = call(*few)
    assert code == 2 and "holds cells of other data: in arrays/test images of class" in err, err
