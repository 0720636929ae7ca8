"""The commands that do something.

Each imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from graphfsl.cli.terminal import (
    Experiment,
    Json,
    Out,
    Overrides,
    Plugins,
    RunFolder,
    app,
    experiment_names,
    new_console,
    print_table,
)
from graphfsl.io.limits import LARGEST, LARGEST_SIDE

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


@app.command()
def evaluate(
    run: RunFolder,
    overrides: Overrides = None,
    on: Annotated[str, typer.Option(help="data sets for one table, such as glyphs,omniglot")] = "",
    episodes: Annotated[
        Path | None, typer.Option(help="a list written by `graphfsl episodes`")
    ] = None,
    out: Out = None,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Evaluate a run's checkpoint in any setting and on any data set.

    Overrides such as episode.way=20 or data.name=… say which; --on A,B,C takes several data sets.
    """
    from graphfsl.data import takes_root
    from graphfsl.experiment import run as runs
    from graphfsl.experiment.experiment import digest
    from graphfsl.experiment.measure import measure_policies
    from graphfsl.experiment.overrides import names
    from graphfsl.io.checkpoint import write_json
    from graphfsl.io.errors import InputError

    console, changes = new_console(), overrides or []
    if on and (named := next((c for c in changes if names(c, "data.name")), None)):
        raise InputError(f"--on names the data sets; leave {named} out")
    trained = runs.load(run)
    rows = []
    for name in [n.strip() for n in on.split(",") if n.strip()] or [""]:
        # One root for several sets: it says nothing to those that need no files.
        own = [c for c in changes if not (name and c.startswith("data.root=")) or takes_root(name)]
        own = [f"data.name={name}", *own] if name else own
        rows += measure_policies(trained, own, None if as_json or on else console.print, episodes)
    if rows and on and rows[0].setting_from and "way" in rows[0].asked and not as_json:
        console.print(
            f"way and shot are the run's, of {rows[0].setting_from}; episode.way=… sets others"
        )
    question = (
        {"changes": changes}
        | ({"on": on} if on else {})
        | ({"episodes": str(episodes)} if episodes else {})
    )
    path = out or run / "evaluations" / f"{digest(question)}.json"
    facts = [row.to_dict() for row in rows]
    write_json(path, {"overrides": changes, "rows": facts})
    if as_json:
        shown = [{k: v for k, v in f.items() if k not in ("accuracies", "values")} for f in facts]
        print(json.dumps(shown, indent=2))
        return
    if on:
        result = f"{rows[0].metric} {rows[0].value.unit}".rstrip()
        asked = [name for name in ("way", "shot", "unlabeled") if name in rows[0].asked]
        lines = [f | {result: r.value.number} for f, r in zip(facts, rows, strict=True)]
        print_table(lines, ("data", *asked, result, "setting", "batch_norm"), False)
    console.print(f"results: {path}")


@app.command()
def episodes(
    experiment: Annotated[str, typer.Argument(help="an experiment file, or a run directory")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="the JSON file to write")] = Path(
        "episodes.json"
    ),
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
    from graphfsl.io.errors import InputError
    from graphfsl.report import committed_tables
    from graphfsl.report.reproduce import reproduce as reproduce_paper

    if table:
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
    out: Out = None,
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
def features(
    folder: Annotated[
        Path,
        typer.Argument(help="a folder per class, or train, val and test with a folder per class"),
    ],
    out: Out = None,
    encoder: Encoder = "efficientnet_lite0",
    weights: Weights = None,
    run: Annotated[Path | None, typer.Option(help="the encoder of this run instead")] = None,
    size: Size = None,
    limits: Limits = None,
    plugin: Plugins = None,
) -> None:
    """Write an encoder's features of a folder of images as npz files.

    data.name=arrays reads them.
    """
    from graphfsl.apply.folder_encoder import encoder_option, write_folder_features
    from graphfsl.data.pixel_range import parse_range

    chosen = encoder_option(encoder, weights, run)
    for file in write_folder_features(
        folder, out or Path("features"), chosen, run, size, parse_range(limits)
    ):
        print(file)


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
    encoder: Encoder = "efficientnet_lite0",
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
    plugin: Plugins = None,
) -> None:
    """Label a whole pool of images or features from a handful of labels.

    Each label comes with a confidence, and with the samples that spoke for it.
    """
    from graphfsl.apply.folder_encoder import encoder_option
    from graphfsl.apply.label.label_folder import label as label_files
    from graphfsl.data.pixel_range import parse_range

    chosen = encoder_option(encoder, weights, run)
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
    encoder: Encoder = "efficientnet_lite0",
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
    from graphfsl.apply.folder_encoder import encoder_option
    from graphfsl.apply.label.suggest_folder import suggest as suggest_files
    from graphfsl.data.pixel_range import parse_range

    chosen = encoder_option(encoder, weights, run)
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
    encoder: Encoder = "efficientnet_lite0",
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
    from graphfsl.apply.folder_encoder import encoder_option
    from graphfsl.apply.segment import segment_folder as segmenting
    from graphfsl.data.pixel_range import parse_range
    from graphfsl.io.errors import InputError

    target = out or Path("segments")
    if clicks is not None:
        if source is None or support is not None or query is not None:
            raise InputError("--clicks goes with one image: graphfsl segment IMAGE --clicks FILE")
        files, line = segmenting.segment_by_clicks(source, clicks, target, parse_range(limits))
    elif support is None or query is None:
        raise InputError("give --support and --query, or an image and --clicks")
    else:
        chosen = encoder_option(encoder, weights, source)
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
def detect(
    run: Annotated[Path | None, typer.Argument(help="a run directory; none: the encoder")] = None,
    overrides: Overrides = None,
    support: Annotated[
        Path | None, typer.Option(help="images with boxes: VOC's XML, COCO's JSON or YOLO's text")
    ] = None,
    query: Annotated[Path | None, typer.Option(help="a folder of images, or one image")] = None,
    out: Out = None,
    encoder: Encoder = "efficientnet_lite0",
    weights: Weights = None,
    size: Size = None,
    least: Annotated[
        float, typer.Option(help="probability from which a box is drawn; the JSON has all")
    ] = 0.5,
    proposals: Annotated[
        str, typer.Option(help="what proposes regions: components or selective_search")
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
    from graphfsl.apply.folder_encoder import encoder_option
    from graphfsl.data.pixel_range import parse_range
    from graphfsl.io.errors import InputError

    if support is None or query is None:
        raise InputError("give --support, images with boxes, and --query, images without")
    chosen = encoder_option(encoder, weights, run)
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
