"""What the command line tells of itself: lists, pages of methods with every option explained,
completion, help.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import typer.main

import graphfsl
import graphfsl.core
from graphfsl import data
from graphfsl.cli import catalogue
from graphfsl.cli import main as cli
from graphfsl.core import registry
from graphfsl.io.package_data import experiment_files, experiment_name, find_experiment
from graphfsl.nn import ENCODERS
from tests.support import ROOT
from tests.support.command import Call

PAGES = [
    *(catalogue.method(name)[0] for _, name in registry.find()),
    *map(catalogue.encoder, ENCODERS),
    *map(catalogue.data_set, data.names()),
]


@pytest.mark.parametrize("entry", PAGES, ids=[f"{e.kind}-{e.name}" for e in PAGES])
def test_every_option_says_what_it_means(entry: catalogue.Entry) -> None:
    silent = [o.name for o in entry.options if not o.meaning]
    assert not silent, f"the documentation of {entry.name} does not say what {', '.join(silent)} is"


def test_meanings_of_a_docstring() -> None:
    doc = """A sum.

    a, b: the summands. scale: a factor; for instance
        a: 2 is not the start of another entry here: nor is this.
    c: alone.

    result: not an option."""
    found = catalogue.meanings(doc, ("a", "b", "scale", "c"))
    assert (
        found["b"] == "the summands"
        and found["c"] == "alone"
        and found["scale"].startswith("a factor; for")
    )
    assert "result" not in found and catalogue.meanings(None, ("a",)) == {} == catalogue.meanings(
        doc, ()
    )


def test_meanings_of_a_docstring_with_sections() -> None:
    doc = """Add two numbers.

        b: is no option here, but a line of an equation

    Args:
        a, b: the summands, of which
            the second is folded.

        scale: a factor.

    Returns:
        scale: is none either.
    """
    found = catalogue.meanings(doc, ("a", "b", "scale"))
    assert found["a"] == found["b"] == "the summands, of which the second is folded"
    assert found["scale"] == "a factor"


def test_a_page_shows_the_equation_and_no_section() -> None:
    text = "Add.\n\n    a + b\n\nwith numbers.\n\nArgs:\n    a: one.\n\nSource:\n    old."
    entry = catalogue.Entry("sum", "head", "", text, [], [])
    shown = catalogue.page(entry)
    assert "Add.\n\n    a + b\n\nwith numbers." in shown
    assert "Args:" not in shown and "old." not in shown


def test_a_page_shows_types_defaults_and_a_line_to_copy(call: Call) -> None:
    code, out, err = call("methods", "protonet")
    assert code == 0, err
    assert "arxiv.org/abs/1703.05175" in out and "p(y = k | x)" in out
    assert (
        ("distance: str = sqeuclidean") in out
        and "scale: float = 10.0" in out
        and "temperature of the cosine" in out
    )
    assert "learner.head='{name: protonet, distance: sqeuclidean}'" in out
    facts = json.loads(call("methods", "protonet", "--json")[1])
    assert [o["name"] for o in facts[0]["options"]] == ["distance", "scale", "learned"]
    assert "rotations: bool | None = null" in call("data", "omniglot")[1]
    assert "model: str (must be given)" in call("encoders", "timm")[1]


def test_a_slot_is_named_as_in_a_configuration(call: Call) -> None:
    found = json.loads(call("methods", "head", "--json")[1])
    assert {m["slot"] for m in found} == {"head"} and "protonet" in {m["name"] for m in found}
    assert {m["slot"] for m in json.loads(call("methods", "--json")[1])} == set(catalogue.USE) - {
        "encoder"
    }
    assert call("methods", "heads")[::2] == (
        2,
        "graphfsl: unknown method or slot 'heads'; did you mean 'head'?\n",
    )


@pytest.mark.parametrize("command", ["methods", "encoders", "data"])
def test_an_unknown_name_is_one_line(call: Call, command: str) -> None:
    known = {"methods": "protonet", "encoders": "conv4", "data": "glyphs"}[command]
    code, out, err = call(command, f"{known}t")
    assert code == 2 and out == "" and err.count("\n") == 1 and f"did you mean {known!r}" in err


@pytest.mark.parametrize("command", ["methods", "encoders", "data", "experiments"])
def test_lists_fit_a_terminal(command: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = call(command)
    lines = out.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 80
    known = {"methods": "protonet", "encoders": "conv4", "data": "glyphs"}
    name = known.get(command, "protonet/snell2017_omniglot_20w1s")
    assert any(name in line.split()[:2] for line in lines), "a name stands on one line"


def test_run_takes_the_names_that_reproduce_takes(world: Path, call: Call) -> None:
    code, _, err = call("run", "snell2017")
    assert code == 2 and "4 experiments" in err and "protonet/snell2017_glyphs_5w1s" in err
    code, _, err = call("run", "snell2017_glyphs_5w1")
    assert code == 2 and "did you mean 'snell2017_glyphs_5w1s'" in err
    overrides = ["episode.way=2", "data.root=data", "data.name=arrays", "data.augment=null"]
    trainer = [
        "trainer.steps=1",
        "trainer.val_every=1",
        "trainer.val_episodes=2",
        "train_episode.way=2",
    ]
    learner = [
        "learner.encoder.width=4",
        "evaluation.episodes=2",
        "evaluation.settings=[{}]",
        "episode.query=1",
    ]
    code, out, err = call("run", "snell2017_glyphs_5w1s", *overrides, *trainer, *learner)
    assert code == 0, err
    assert "runs/snell2017_glyphs_5w1s-" in out
    for file in experiment_files():
        assert find_experiment(experiment_name(file)) == file


def test_version_and_module() -> None:
    for command in (["--version"], ["methods", "protonet"]):
        done = subprocess.run(
            [sys.executable, "-m", "graphfsl", *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith(
            f"graphfsl {graphfsl.__version__}\n" if "--version" in command else "protonet\n"
        )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == graphfsl.__version__


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run snell", "snell2017_omniglot_20w1s"),
        ("methods prot", "protonet"),
        ("ablate omniglot_r", "omniglot_relay"),
    ],
)
def test_the_shell_completes_names(words: str, expected: str) -> None:
    code = "import sys; sys.argv = ['graphfsl']; from graphfsl.cli.main import main; main()"
    asked = {
        "_GRAPHFSL_COMPLETE": "complete_bash",
        "COMP_WORDS": f"graphfsl {words}",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | asked,
        capture_output=True,
        text=True,
    )
    assert expected in done.stdout.split() and all(
        word.startswith(words.split()[1]) for word in done.stdout.split()
    )


def test_every_argument_has_help() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), (
                f"graphfsl {name}: {parameter.name} has no help"
            )


def test_a_place_where_nothing_can_be_written_is_refused_before_any_work(
    world: Path, call: Call
) -> None:
    """A finished computation without a place for it would be lost."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    writers = [n for n, c in commands.items() if any(p.name == "out" for p in c.params)]
    assert len(writers) >= 15
    for name in writers:
        needed = [p for p in commands[name].params if p.required and p.param_type_name != "option"]
        code, _, err = call(name, *("nowhere" for _ in needed), "--out", "my.yaml/inside")
        assert code == 2 and "cannot write my.yaml/inside: Not a directory" in err, f"{name}: {err}"
    assert {p.name for p in world.iterdir()} == {"data", "my.yaml"}


@pytest.mark.parametrize("package", [graphfsl, graphfsl.core], ids=lambda p: p.__name__)
def test_tools_see_the_names_that_the_package_gives(package: ModuleType) -> None:
    """What `__getattr__` imports is what a type checker reads; py.typed says that it may."""
    tree = ast.parse(Path(str(package.__file__)).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    assert seen.keys() == set(package.__all__) <= set(dir(package))
    for name, (module, attribute) in seen.items():
        assert getattr(package, name) is getattr(sys.modules[module], attribute)
    with pytest.raises(AttributeError, match="has no attribute 'Heads'"):
        _ = package.Heads
    assert (ROOT / "graphfsl/py.typed").is_file()


def test_a_module_of_the_contract_imports_no_other_that_it_does_not_need() -> None:
    code = (
        "import sys, graphfsl.core, graphfsl.core.registry\n"
        "assert 'torch' not in sys.modules\n"
        "from graphfsl.core import Episode, Head\n"
        "print([m for m in ('adapt', 'pipeline') if f'graphfsl.core.{m}' in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
