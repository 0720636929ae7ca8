"""The commands that do something.

Each imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphfsl.cli.terminal import (
    Experiment,
    Json,
    Out,
    OutFile,
    Overrides,
    Plugins,
    RunFolder,
    app,
    checked_file,
    checked_folder,
    checked_out,
    experiment_names,
    new_console,
    print_table,
)
from graphfsl.io.limits import LARGEST, LARGEST_SIDE

if TYPE_CHECKING:
    from graphfsl.experiment.learner_spec import PartSpec
    from graphfsl.loops.attack import PGD
    from graphfsl.loops.corruption import Corruption

DEFAULT_ENCODER = "efficientnet_lite0"
Encoder = Annotated[
    str, typer.Option(help="one with weights: any model of timm too; {name: …, …} with options")
]
Weights = Annotated[
    Path | None, typer.Option(help="of the encoder: safetensors or torch.save's, never unpickled")
]
Size = Annotated[
    int | None,
    typer.Option(
        min=1, max=LARGEST_SIDE, help="pixels of a side; the encoder's own where it is not given"
    ),
]
Limits = Annotated[
    str | None,
    typer.Option("--range", help="values of black and white, such as 0,4095 for 12 bits"),
]


def _encoder_of(encoder: str, weights: Path | None, run: Path | None) -> PartSpec:
    """The encoder that was asked for, which a run has no use for.

    Raises:
        InputError: for another one beside a run.
    """
    from graphfsl.apply.folder_encoder import encoder_option
    from graphfsl.io.errors import require

    require(
        run is None or encoder == DEFAULT_ENCODER,
        f"a run has its own encoder; give either --encoder {encoder} or the run",
    )
    return encoder_option(encoder, weights, run)


def _pool_encoder(
    source: Path,
    encoder: str,
    weights: Path | None,
    run: Path | None,
    size: int | None,
    limits: str | None,
) -> PartSpec:
    """The encoder of a pool of images; a pool of features has no use for one.

    Raises:
        InputError: for an option of an encoder beside features.
    """
    from graphfsl.apply.label.shards.shard_files import is_shards
    from graphfsl.io.errors import require

    other = None if encoder == DEFAULT_ENCODER else encoder
    options = {
        "--encoder": other,
        "--weights": weights,
        "--run": run,
        "--size": size,
        "--range": limits,
    }
    named = next((name for name, value in options.items() if value is not None), None)
    require(
        named is None or not (source.is_file() or is_shards(source)),
        f"{source} holds features, which nothing encodes; leave {named} out",
    )
    return _encoder_of(encoder, weights, run)


def _studies() -> list[str]:
    from graphfsl.io.package_data import experiments_dir

    return sorted(path.stem for path in (experiments_dir() / "ablations").glob("*.yaml"))


@app.command()
def run(
    experiment: Experiment, overrides: Overrides = None, out: Out = None, plugin: Plugins = None
) -> None:
    """Train an experiment file, keep the best by validation classes, evaluate it.

    The same command resumes. seeds=5 trains five times and reports mean and spread. Under torchrun
    the processes share every step.
    """
    from graphfsl.experiment import runner
    from graphfsl.experiment.experiment import Experiment

    asked = Experiment.read(experiment, overrides or [])
    folder = out or Path("runs") / f"{Path(experiment).stem}-{asked.digest()}"
    runner.run(asked, folder, new_console())


@app.command()
def pretrain(
    experiment: Experiment, overrides: Overrides = None, out: Out = None, plugin: Plugins = None
) -> None:
    """Train only the encoder of an experiment, by its `pretrain` section.

    `run` in the same folder goes on from it. It lies in OUT (runs/) under a name that all
    experiments with the same pretraining share.
    """
    from graphfsl.experiment import runner
    from graphfsl.experiment.experiment import Experiment

    asked = Experiment.read(experiment, overrides or [])
    runner.pretrain(asked, out or Path("runs"), new_console())


RunsAndOverrides = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN... [OVERRIDES]",
        help="directories of trained runs, then key=value, such as episode.way=20",
    ),
]


@app.command()
def evaluate(
    given: RunsAndOverrides,
    on: Annotated[
        str | None, typer.Option(help="data sets for one table, such as glyphs,omniglot")
    ] = None,
    episodes: Annotated[
        Path | None, typer.Option(help="a list written by `graphfsl episodes`")
    ] = None,
    out: OutFile = None,
    as_json: Json = False,
    plugin: Plugins = None,
    attack: Annotated[
        str | None, typer.Option(help="change pixels so that answers are wrong: pgd")
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(
            help="the most that an attack changes a pixel of [0, 1], 8/255 by itself; 8/255,0.1 "
            "for a table of each"
        ),
    ] = None,
    attack_steps: Annotated[
        int | None, typer.Option(min=1, max=LARGEST, help="of the attack, 20 by themselves")
    ] = None,
    attack_on: Annotated[
        str | None,
        typer.Option(help="query (by itself), or support: images that mislead under right labels"),
    ] = None,
    attack_from: Annotated[
        Path | None, typer.Option(help="follow the gradients of this run instead")
    ] = None,
    corrupt: Annotated[
        str, typer.Option(help="corrupt images: fog,jpeg or all for a table of each")
    ] = "",
    level: Annotated[
        int | None, typer.Option(help="of a corruption, from 1 to 5; 3 by itself")
    ] = None,
    corrupt_on: Annotated[
        str | None, typer.Option(help="all images (by itself), or those of query or support alone")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="a further learner of the first run: its overrides, with ; between"),
    ] = None,
) -> None:
    """Evaluate a run's checkpoint in any setting and on any data set.

    Overrides such as episode.way=20 or data.name=… say which; --on A,B,C takes several data sets.
    Several runs, or learners of a run (--against), are shown in one table, with their gain over the
    first one and their mean rank. --attack says how a run answers images that were changed against
    it, --corrupt how it answers bad images.
    """
    from graphfsl.apply.evaluate_runs import Question, evaluate_runs
    from graphfsl.experiment.results import RUN_FILES
    from graphfsl.io.checkpoint import write_atomically, write_json
    from graphfsl.io.errors import require
    from graphfsl.io.plain_text import csv_table

    console = new_console()
    paths, changes = _runs_and_overrides(given)
    question = Question(
        runs=paths,
        changes=changes,
        on=_data_sets(on),
        episodes=episodes,
        against=against or [],
        attacks=_attacks(attack, eps, attack_steps, attack_on, attack_from),
        attack_from=attack_from,
        corruptions=_corruptions(corrupt, level, corrupt_on),
    )
    path = out or question.file
    require(
        path.name not in RUN_FILES or not (path.parent / "config.json").is_file(),
        f"{path} is of the run itself, which would be lost; choose another --out",
    )
    as_csv = path.suffix == ".csv"
    require(
        question.is_compared or not as_csv,
        f"{path} would be a table, which several runs, --corrupt or --eps=8/255,0.1 give; name a "
        ".json",
    )
    found = evaluate_runs(
        question, None if as_json or on or question.is_compared else console.print
    )
    rows = found.rows
    if rows and on and rows[0].setting_from and "way" in rows[0].asked and not as_json:
        console.print(
            f"way and shot are the run's, of {rows[0].setting_from}; episode.way=… sets others"
        )
    facts = [row.to_dict() for row in rows]
    if not as_csv:
        write_json(path, {"overrides": changes, "rows": facts})
    if as_json:
        shown = [{k: v for k, v in f.items() if k not in ("accuracies", "values")} for f in facts]
        print(json.dumps(shown, indent=2))
        return
    if question.is_compared:
        lines = found.table()
        titles = [line["run"] for line in lines]
        turned = _turned(lines, titles)
        if as_csv:
            table = csv_table(["", *titles], [list(line.values()) for line in turned])
            write_atomically(path, table.encode())
        print_table(turned, ("", *titles), False)
    elif on:
        result = f"{rows[0].metric} {rows[0].value.unit}".rstrip()
        asked = [name for name in ("way", "shot", "unlabeled") if name in rows[0].asked]
        lines = [f | {result: r.value.number} for f, r in zip(facts, rows, strict=True)]
        print_table(lines, ("data", *asked, result, "setting", "batch_norm"), False)
    console.print(f"results: {path}")


def _data_sets(on: str | None) -> list[str]:
    """The names of `--on`; InputError where it is given and holds none."""
    from graphfsl.io.errors import require

    if on is None:
        return []
    names = [name.strip() for name in on.split(",") if name.strip()]
    require(names, f"--on names data sets, such as glyphs,omniglot, not {on!r}")
    return names


def _attacks(
    name: str | None, eps: str | None, steps: int | None, on: str | None, source: Path | None
) -> list[PGD]:
    """The attacks that options name, one for each eps; none where none is asked for.

    Raises:
        InputError: for an unknown one, and for options of an attack without one.
    """
    given = {"--eps": eps, "--attack-steps": steps, "--attack-on": on, "--attack-from": source}
    if name is None:
        _check_none_given(given, "an attack; give --attack pgd too")
        return []
    from graphfsl.experiment import run as runs
    from graphfsl.io.errors import unknown
    from graphfsl.loops.attack import PGD, parse_eps

    if name != "pgd":
        raise unknown("attack", name, ["pgd"])
    other = None if source is None else runs.load(source).learner
    every = ("8/255" if eps is None else eps).split(",")
    on, steps = "query" if on is None else on, 20 if steps is None else steps
    return [PGD(parse_eps(one), steps, on=on, source=other) for one in every]


def _corruptions(names: str, level: int | None, on: str | None) -> list[Corruption]:
    """The corruptions that options name; none where none is asked for.

    Raises:
        InputError: for one that there is not, and for options of one without any.
    """
    from graphfsl.functional.corruptions import CORRUPTIONS
    from graphfsl.loops.corruption import Corruption

    asked = [name.strip() for name in names.split(",") if name.strip()]
    if not asked:
        _check_none_given(
            {"--level": level, "--corrupt-on": on}, "a corruption; give --corrupt too"
        )
    every = CORRUPTIONS if asked == ["all"] else asked
    on, level = "all" if on is None else on, 3 if level is None else level
    return [Corruption(name, level, on) for name in every]


def _check_none_given(options: Mapping[str, object], of_what: str) -> None:
    """InputError for an option without that which it is an option of."""
    from graphfsl.io.errors import InputError

    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"{given[0]} is of {of_what}")


@app.command()
def sessions(
    given: RunsAndOverrides,
    order: Annotated[
        str | None,
        typer.Option(help="which classes come when: a list such as omniglot_fscil, or a JSON file"),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="a further learner of the first run: its overrides, with ; between"),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, max=LARGEST, help="how often the sessions are gone through")
    ] = 1,
    out: Out = None,
    plugin: Plugins = None,
) -> None:
    """Show how runs fare whose classes come one session after another.

    After each session they answer with all classes seen so far, and keep no old samples. A table,
    curves and matrices say what becomes of old classes, and of new ones.
    """
    from graphfsl.apply.sessions import sessions as measure_sessions

    runs, changes = _runs_and_overrides(given)
    lines, told, files = measure_sessions(runs, changes, order, against or [], repeats, out)
    numbers = [str(i) for i in range(1, len(lines) + 1)]
    print_table(_turned(lines, numbers), ("", *numbers), False)
    for number, sentence in zip(numbers, told, strict=True):
        print(f"{number} {sentence}")
    for file in files:
        print(file)


def _turned(lines: list[dict[str, str]], names: list[str]) -> list[dict[str, str]]:
    """The table with a column for each line, since there are more numbers than lines.

    What tells the lines apart, their first field, gives way to the names of the columns.
    """
    shown = []
    for what in list(lines[0])[1:]:
        of_each = dict(zip(names, (line[what] for line in lines), strict=True))
        shown.append({"": what, **of_each})
    return shown


def _runs_and_overrides(given: list[str]) -> tuple[list[Path], list[str]]:
    """Arguments in two parts: what has no = is the directory of a run.

    Raises:
        InputError: where no run is named.
    """
    from graphfsl.io.errors import require

    runs = [Path(text) for text in given if "=" not in text or Path(text).is_dir()]
    changes = [text for text in given if Path(text) not in runs]
    require(runs, "name a run, the directory of a trained one, before overrides")
    return runs, changes


@app.command()
def episodes(
    experiment: Annotated[str, typer.Argument(help="an experiment file, or a run directory")],
    overrides: Overrides = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=checked_file, help="the JSON file to write")
    ] = Path("episodes.json"),
    plugin: Plugins = None,
) -> None:
    """Write evaluation episodes as lists of sample ids.

    They are for other libraries, and for `evaluate --episodes`.
    """
    from graphfsl.data.episode_files import write_episodes
    from graphfsl.experiment.experiment import Experiment
    from graphfsl.experiment.run import read_facts

    folder = Path(experiment)
    if folder.is_dir():
        asked = read_facts(folder).experiment.changed(*(overrides or []))
    else:
        asked = Experiment.read(experiment, overrides or [])
    options = asked.evaluation
    split = asked.data.split(options.split)
    write_episodes(out, split, asked.task, options.seed, options.episodes)
    new_console().print(f"{options.episodes} episodes of {split.name}: {out}")


@app.command()
def ablate(
    study: Annotated[
        str,
        typer.Argument(
            help="a study file, or the name of one below experiments/ablations",
            autocompletion=_studies,
        ),
    ],
    overrides: Overrides = None,
    out: Out = None,
    processes: Annotated[int, typer.Option(min=1, help="cells at once on this machine")] = 1,
    ray: Annotated[
        str | None, typer.Option(help="the address of a Ray cluster, or `local`")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Train and compare every cell of a study.

    The same command goes on where it was interrupted.
    """
    from graphfsl.experiment.experiment import digest
    from graphfsl.study.ablate import ablate as run_study
    from graphfsl.study.grid import read_study

    cells = read_study(study, overrides or [])
    name = f"{cells.name}-{digest({'cells': [c.name for c in cells.cells]})}"
    run_study(cells, out or Path("runs") / name, new_console(), processes, ray)


@app.command()
def reproduce(
    paper: Annotated[
        str,
        typer.Argument(
            help="such as snell2017, or an experiment file", autocompletion=experiment_names
        ),
    ] = "",
    overrides: Overrides = None,
    out: Out = None,
    table: Annotated[
        str, typer.Option(help="print the committed results on a data set as Markdown instead")
    ] = "",
    plugin: Plugins = None,
) -> None:
    """Train and evaluate what a paper's table says.

    Published numbers stand beside ours, with steps, time and every deviation.
    """
    from graphfsl.io.errors import InputError, require
    from graphfsl.report import committed_tables
    from graphfsl.report.reproduce import reproduce as reproduce_paper

    if table:
        require(
            not (paper or overrides or out),
            "--table prints what is committed and runs nothing; leave the paper, overrides and "
            "--out out",
        )
        print(committed_tables.table(table), end="")
    elif paper:
        reproduce_paper(paper, overrides or [], out, new_console())
    else:
        raise InputError(
            "reproduce needs a paper, such as snell2017, or --table, such as --table omniglot"
        )


@app.command()
def predict(
    run: RunFolder,
    support: Annotated[Path, typer.Option(help="a folder per class")],
    query: Annotated[Path, typer.Option(help="a folder of images, or one image")],
    overrides: Overrides = None,
    limits: Limits = None,
    unlabeled: Annotated[Path | None, typer.Option(help="a folder of images for the pool")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="print the probability of every class")
    ] = False,
    none: Annotated[
        float | None,
        typer.Option(help="novelty above which an image is of none of the classes (evaluate says)"),
    ] = None,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Classify images by a handful of labeled ones, each by itself where the method allows it.

    BatchNorm takes the statistics of the support where the run's own policy lets queries share
    them; learner.batch_norm=apart or joint chooses otherwise.
    """
    from graphfsl.apply.predict import open_run
    from graphfsl.data.images import image_paths, read_folder_classes
    from graphfsl.data.pixel_range import parse_range
    from graphfsl.io.plain_text import one_line

    queries = image_paths(query)
    predictor = open_run(run, overrides or [], parse_range(limits))
    for note in predictor.notes:
        print(f"graphfsl: {note}", file=sys.stderr)
    pool = image_paths(unlabeled) if unlabeled is not None else []
    answers = predictor.predict(read_folder_classes(support), queries, pool, none)
    found = [
        {
            "image": str(q),
            "label": a.label,
            "confidence": round(a.confidence, 4),
            "probabilities": a.probabilities,
        }
        | ({} if a.novelty is None else {"novelty": round(a.novelty, 6)})
        for q, a in zip(queries, answers, strict=True)
    ]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if everything:
        novelty = () if none is None else ("novelty",)
        classes = map(one_line, answers[0].probabilities)
        print("image", "label", "confidence", *novelty, *classes, sep="\t")
    for q, a in zip(queries, answers, strict=True):
        columns = a.probabilities.values() if everything else ()
        foreign = () if a.novelty is None else (a.novelty,)
        print(
            one_line(str(q)),
            "none of these" if a.label is None else one_line(a.label),
            *(f"{p:.3f}" for p in (a.confidence, *foreign, *columns)),
            sep="\t",
        )


@app.command()
def generate(
    run: RunFolder,
    overrides: Overrides = None,
    support: Annotated[
        Path | None, typer.Option(help="a folder per class, with a few images in each")
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST, help="samples of each class that are drawn; 20 by itself"),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="hold the generator against real samples instead")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", callback=checked_out, help="the folder to write; the file of --measure"
        ),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Draw new samples of classes that a few images show, by a run's trained generator.

    They are images, or features, as the generator's are. A contact sheet and a table say which
    training image is nearest to each, and how far it is. --measure asks how well a classifier tells
    draws from real samples, beside the simplest generator, on classes that it has not seen.
    """
    from dataclasses import asdict

    from graphfsl.apply import generate as generating
    from graphfsl.apply.generator_quality import Quality
    from graphfsl.apply.generator_quality import measure as measure_quality
    from graphfsl.data.images import read_folder_classes
    from graphfsl.io.checkpoint import write_json
    from graphfsl.io.errors import InputError

    if measure == (support is not None):
        raise InputError("give either --support, a folder per class, or --measure")
    if measure and per_class is not None:
        raise InputError("--measure draws as many as there are real samples; leave --per-class out")
    if support is None:
        found = [asdict(quality) for quality in measure_quality(run, overrides or [])]
        path = out or run / "generator.json"
        write_json(path, found)
        columns = tuple(Quality.__dataclass_fields__)
        shown = [{k: v if k == "name" else f"{v:.3f}" for k, v in row.items()} for row in found]
        print_table(shown, columns, False)
        new_console().print(f"results: {path}")
        return
    files, line = generating.generate(
        run,
        read_folder_classes(support),
        per_class or 20,
        out or Path("generated"),
        overrides or [],
    )
    print(line)
    for file in files:
        print(file)


@app.command()
def explain(
    run: RunFolder,
    overrides: Overrides = None,
    episode: Annotated[
        int, typer.Option(min=0, max=LARGEST, help="which of the evaluation's episodes")
    ] = 0,
    query: Annotated[int, typer.Option(min=0, max=LARGEST, help="which of its queries")] = 0,
    out: Out = None,
    plugin: Plugins = None,
) -> None:
    """Show which samples and edges made one answer, and whether that is faithful.

    The samples are those of the support and the unlabeled ones.
    """
    from graphfsl.apply.explain.explain_run import write_explanation

    for file in write_explanation(run, overrides or [], episode, query, out):
        print(file)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="directories of finished runs")],
    out: Out = None,
    plugin: Plugins = None,
) -> None:
    """Write one HTML, Markdown and CSV report of finished runs."""
    from graphfsl.report.write import report_runs

    for file in report_runs(runs, out or Path("report")):
        print(file)


@app.command()
def export(
    run: RunFolder,
    overrides: Overrides = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            callback=checked_folder,
            help="the folder to write, which is not there yet",
        ),
    ] = Path("export"),
    encoder_only: Annotated[
        bool, typer.Option("--encoder-only", help="write the encoder and no head")
    ] = False,
    quantize: Annotated[
        str | None,
        typer.Option(help="int8: the encoder in 8 bits, calibrated on base images; says its cost"),
    ] = None,
    opset: Annotated[int, typer.Option(help="version of ONNX's operators, 18 to 20")] = 20,
    plugin: Plugins = None,
) -> None:
    """Write a run as ONNX graphs for devices, which need neither this library nor torch.

    encoder.onnx, head.onnx, model.json, and classify.py and device.py, which learn classes from
    photographs.
    """
    from graphfsl.apply.export.export_run import export as export_run

    exported = export_run(run, out, overrides or [], encoder_only, quantize, opset)
    for note in exported.notes:
        print(f"graphfsl: {note}", file=sys.stderr)
    for file in exported.files:
        print(file)


@app.command()
def features(
    folder: Annotated[
        Path,
        typer.Argument(help="a folder per class, or train, val and test with a folder per class"),
    ],
    out: Out = None,
    encoder: Encoder = DEFAULT_ENCODER,
    weights: Weights = None,
    run: Annotated[Path | None, typer.Option(help="the encoder of this run instead")] = None,
    size: Size = None,
    limits: Limits = None,
    plugin: Plugins = None,
) -> None:
    """Write an encoder's features of a folder of images as npz files.

    data.name=arrays reads them.
    """
    from graphfsl.apply.folder_encoder import write_folder_features
    from graphfsl.data.pixel_range import parse_range

    chosen = _encoder_of(encoder, weights, run)
    for file in write_folder_features(
        folder, out or Path("features"), chosen, run, size, parse_range(limits)
    ):
        print(file)


@app.command()
def relabel(
    run: RunFolder,
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=checked_file, help="the JSON file to write")
    ] = Path("clusters.json"),
    clusters: Annotated[int, typer.Option(min=2, help="k of k-means")] = 500,
    least: Annotated[
        int, typer.Option(min=1, help="members that a cluster needs to become a class")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, help="of the first centres")] = 0,
    plugin: Plugins = None,
) -> None:
    """Cluster a run's base samples by its encoder's features (CACTUs).

    data.clusters=FILE trains any experiment on clusters in place of labels.
    """
    from graphfsl.apply.relabel import relabel as relabel_run

    new_console().print(f"{relabel_run(run, out, clusters, least, seed)}: {out}")


@app.command()
def label(
    source: Annotated[
        Path, typer.Argument(help="a folder of images, or features as .npz or .safetensors")
    ],
    support: Annotated[
        Path,
        typer.Option(help="CSV with columns sample and label; an empty label: none of the classes"),
    ],
    out: Out = None,
    truth: Annotated[Path | None, typer.Option(help="labels to compare with, as CSV")] = None,
    encoder: Encoder = DEFAULT_ENCODER,
    weights: Weights = None,
    run: Annotated[Path | None, typer.Option(help="the encoder of this run instead")] = None,
    size: Size = None,
    prior: Annotated[
        str, typer.Option(help="how frequent classes are: none (unknown), uniform, or as in labels")
    ] = "none",
    none: Annotated[
        float | None,
        typer.Option(
            help="no label above this score of `none`; not given: above 0.5, where the "
            "labels can tell"
        ),
    ] = None,
    neighbors: Annotated[int, typer.Option(help="edges of each sample")] = 10,
    alpha: Annotated[float, typer.Option(help="how far labels spread, from 0 to 0.999")] = 0.9,
    chunk: Annotated[
        int, typer.Option(help="labels propagated at once: memory and speed, not the answer")
    ] = 64,
    file_format: Annotated[
        str, typer.Option("--format", help="of the labels: csv or parquet")
    ] = "csv",
    limits: Limits = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            min=1, max=LARGEST, help="samples of a shard: a pool larger than memory, in OUT/shards"
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]", help="shards on a Ray cluster; without an address on this machine"
        ),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Label a whole pool of images or features from a handful of labels.

    Each label comes with a confidence, and with the samples that spoke for it.
    """
    from graphfsl.apply.label.label_folder import label as label_files
    from graphfsl.data.pixel_range import parse_range

    chosen = _pool_encoder(source, encoder, weights, run, size, limits)
    options = {"neighbors": neighbors, "alpha": alpha, "prior": prior, "none": none, "chunk": chunk}
    target = out or Path("labels")
    files, line = label_files(
        source,
        support,
        target,
        truth,
        chosen,
        run,
        size,
        file_format,
        parse_range(limits),
        shard_size,
        ray,
        **options,
    )
    new_console().print(line)
    for file in files[:3]:
        print(file)


@app.command()
def suggest(
    source: Annotated[
        Path, typer.Argument(help="a folder of images, or features as .npz or .safetensors")
    ],
    support: Annotated[
        Path | None,
        typer.Option(help="the labels so far: CSV with columns sample and label; none to begin"),
    ] = None,
    count: Annotated[
        int, typer.Option("--n", min=1, max=LARGEST, help="samples that are named")
    ] = 20,
    out: Out = None,
    encoder: Encoder = DEFAULT_ENCODER,
    weights: Weights = None,
    run: Annotated[Path | None, typer.Option(help="the encoder of this run instead")] = None,
    size: Size = None,
    neighbors: Annotated[int, typer.Option(help="edges of each sample")] = 10,
    alpha: Annotated[float, typer.Option(help="how far labels spread, from 0 to 0.999")] = 0.9,
    limits: Limits = None,
    plugin: Plugins = None,
) -> None:
    """Say which samples of a pool to label next, with no label yet or with some.

    They are those from which labels would reach most of the pool, the most useful first.
    """
    from graphfsl.apply.label.suggest_folder import suggest as suggest_files
    from graphfsl.data.pixel_range import parse_range

    chosen = _pool_encoder(source, encoder, weights, run, size, limits)
    target = out or Path("suggestions")
    options = {"neighbors": neighbors, "alpha": alpha}
    files, line = suggest_files(
        source, target, count, support, chosen, run, size, parse_range(limits), **options
    )
    new_console().print(line)
    for file in files:
        print(file)


@app.command()
def segment(
    source: Annotated[
        Path | None,
        typer.Argument(help="a run directory; or, with --clicks, an image; none: the encoder"),
    ] = None,
    overrides: Overrides = None,
    support: Annotated[
        Path | None, typer.Option(help="a folder with images and masks (PNG) of the same names")
    ] = None,
    query: Annotated[Path | None, typer.Option(help="a folder of images, or one image")] = None,
    clicks: Annotated[
        Path | None, typer.Option(help="JSON of places by class; nothing else is needed")
    ] = None,
    out: Out = None,
    encoder: Encoder = DEFAULT_ENCODER,
    weights: Weights = None,
    size: Size = None,
    there: Annotated[
        float, typer.Option(help="sign of presence, from 0 to 1, below which a class is not there")
    ] = 0.5,
    limits: Limits = None,
    plugin: Plugins = None,
) -> None:
    """Find the pixels of classes, from a few images that have masks, or from clicks.

    It writes a mask and an overlay of each image, a table and a page, and says where a class is not
    there. Without a run a pretrained encoder does, whose features are compared with the labeled
    ones and spread over each image.
    """
    from graphfsl.apply.segment import segment_folder as segmenting
    from graphfsl.data.pixel_range import parse_range
    from graphfsl.io.errors import InputError

    target = out or Path("segments")
    if clicks is not None:
        if source is None or support is not None or query is not None:
            raise InputError("--clicks goes with one image: graphfsl segment IMAGE --clicks FILE")
        if overrides or weights or size or there != 0.5 or encoder != DEFAULT_ENCODER:
            raise InputError(
                "nothing is encoded where there are clicks; leave overrides, --encoder, --weights, "
                "--size and --there out"
            )
        files, line = segmenting.segment_by_clicks(source, clicks, target, parse_range(limits))
    elif support is None or query is None:
        raise InputError("give --support and --query, or an image and --clicks")
    else:
        chosen = _encoder_of(encoder, weights, source)
        files, line = segmenting.segment(
            source,
            support,
            query,
            target,
            chosen,
            overrides or [],
            size,
            there,
            parse_range(limits),
        )
    new_console().print(line)
    for file in files:
        print(file)


@app.command()
def annotate(
    folder: Annotated[Path, typer.Argument(help="a folder of images, at any depth")],
    out: Out = None,
    users: Annotated[
        list[str] | None,
        typer.Option("--user", help="who labels; given several times, each has an address"),
    ] = None,
    support: Annotated[
        Path | None, typer.Option(help="labels to begin with: CSV with columns sample and label")
    ] = None,
    host: Annotated[
        str, typer.Option(help="where the page is served; another than this machine needs --token")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="of the page; 0 takes a free one")] = 8765,
    token: Annotated[
        str | None, typer.Option(help="what lets people in, 16 letters or more; else drawn anew")
    ] = None,
    twice: Annotated[
        float, typer.Option(help="the share of samples that two people are asked")
    ] = 0.1,
    encoder: Encoder = DEFAULT_ENCODER,
    weights: Weights = None,
    run: Annotated[Path | None, typer.Option(help="the encoder of this run instead")] = None,
    size: Size = None,
    limits: Limits = None,
    plugin: Plugins = None,
) -> None:
    """Open a page on which people label a folder of images, and the pool follows.

    Answers are kept in OUT (annotations/) as they are given; the same command goes on.
    """
    from graphfsl.apply.annotate.annotate_folder import annotate as serve
    from graphfsl.data.pixel_range import parse_range

    chosen = _encoder_of(encoder, weights, run)
    serve(
        folder,
        out or Path("annotations"),
        new_console().print,
        users or (),
        host,
        port,
        token,
        twice,
        support,
        chosen,
        run,
        size,
        parse_range(limits),
    )


@app.command()
def proposer(
    experiment: Experiment,
    overrides: Overrides = None,
    out: OutFile = None,
    steps: Annotated[int, typer.Option(min=1, max=LARGEST, help="of the training")] = 3000,
    width: Annotated[int, typer.Option(min=1, max=LARGEST, help="filters of each layer")] = 32,
    size: Annotated[
        int | None,
        typer.Option(
            min=8,
            max=LARGEST_SIDE,
            help="pixels of the longer side that it sees; the images' own, or 160 of larger ones",
        ),
    ] = None,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Train a net that proposes regions, on the boxes of an experiment's base classes.

    Classes are not looked at. OUT (proposer.safetensors) goes where proposals are named:
    episode.proposals=FILE, or `detect --proposals FILE`. The table tells how many objects of base
    and of novel classes its proposals reach, beside connected components.
    """
    from graphfsl.apply.detect.train_proposer import train_proposer
    from graphfsl.experiment.experiment import Experiment
    from graphfsl.experiment.overrides import names
    from graphfsl.io.errors import require

    idle = next((one for one in overrides or [] if not names(one, "data", "seed")), None)
    require(
        idle is None,
        f"{idle} changes nothing of what proposes: it is trained on data.… alone, by --steps, "
        "--width and --size; leave it out",
    )
    asked = Experiment.read(experiment, overrides or [])
    console = new_console()
    log = (lambda line: None) if as_json else console.print
    file = out or Path("proposer.safetensors")
    rows = train_proposer(asked, file, steps, width, size, log)
    print_table(rows, tuple(rows[0]), as_json)


@app.command()
def detect(
    run: Annotated[Path | None, typer.Argument(help="a run directory; none: the encoder")] = None,
    overrides: Overrides = None,
    support: Annotated[
        Path | None, typer.Option(help="images with boxes: VOC's XML, COCO's JSON or YOLO's text")
    ] = None,
    query: Annotated[Path | None, typer.Option(help="a folder of images, or one image")] = None,
    out: Out = None,
    encoder: Encoder = DEFAULT_ENCODER,
    weights: Weights = None,
    size: Size = None,
    least: Annotated[
        float, typer.Option(help="probability from which a box is drawn; the JSON has all")
    ] = 0.5,
    proposals: Annotated[
        str,
        typer.Option(
            help="what proposes regions: components, selective_search or a file of weights"
        ),
    ] = "components",
    most: Annotated[int, typer.Option(min=1, max=LARGEST, help="regions of an image")] = 200,
    limits: Limits = None,
    plugin: Plugins = None,
) -> None:
    """Find objects of classes of which a few boxes are known.

    It writes the boxes as COCO's JSON, draws them, and makes a page. All objects of the classes
    must have boxes in the labeled images: what has none there is taken for background.
    """
    from graphfsl.apply.detect import detect_folder as detecting
    from graphfsl.data.pixel_range import parse_range
    from graphfsl.io.errors import InputError

    if support is None or query is None:
        raise InputError("give --support, images with boxes, and --query, images without")
    chosen = _encoder_of(encoder, weights, run)
    files, line = detecting.detect(
        run,
        support,
        query,
        out or Path("detections"),
        chosen,
        overrides or [],
        size,
        least,
        proposals,
        most,
        parse_range(limits),
    )
    new_console().print(line)
    for file in files:
        print(file)


@app.command()
def demo(overrides: Overrides = None, out: Out = None, plugin: Plugins = None) -> None:
    """Meta-train a ProtoNet on embedded data and show what unlabeled images are worth."""
    from graphfsl.cli.demo import demo as show

    show(out or Path("runs/demo"), new_console(), overrides or [])
