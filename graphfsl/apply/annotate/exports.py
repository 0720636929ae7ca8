"""What people's answers become: tables, folders for training, and files of other programs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from graphfsl.apply.annotate.answers import NONE, Answer
from graphfsl.apply.annotate.safe_names import SafeNames
from graphfsl.apply.annotate.workbench import Workbench
from graphfsl.apply.label.pool_files import write_table
from graphfsl.io.checkpoint import whole_folder, write_atomically
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import read_regular

MODEL = "graphfsl"  # how Label Studio calls whose predictions they are
CHOICE, IMAGE = "choice", "image"  # names in Label Studio's configuration
LABEL_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <Choices name="choice" toName="image">{choices}
  </Choices>
</View>
"""


@dataclass(frozen=True)
class Labelled:
    """A sample as it is exported.

    Attributes:
        sample: its path below the folder.
        path: of its file.
        label: the name of its class, "" for none of the classes.
        confidence: 1 where a person said so, else of the prediction.
        given: whether a person said so.
        counts: whether the label is a person's, or surely enough predicted, and the file is there.
        user: whose answer it is; "" where nobody's.
        how: how it came, see `Answer`; "predicted" where nobody answered.
        at: when it was answered.
    """

    sample: str
    path: Path
    label: str
    confidence: float
    given: bool
    counts: bool
    user: str = ""
    how: str = "predicted"
    at: str = ""
    is_gone: bool = False  # whether its file went away


def exported(bench: Workbench, bar: float) -> list[Labelled]:
    """The samples of a pool: what people said, and what is predicted of the others.

    Args:
        bench: the pool.
        bar: a prediction counts from this score on.
    """
    with bench.lock:
        answers = {name: (answer, label) for name, answer, label in bench.given_answers()}
        found = []
        for n, (name, path) in enumerate(zip(bench.pool.names, bench.pool.images, strict=True)):
            gone = bench.files.is_gone(n)
            if name in answers:
                answer, label = answers[name]
                person = (answer.user, answer.how, answer.at)
                found.append(Labelled(name, path, label, 1.0, True, not gone, *person, gone))
                continue
            value, score = bench.guess(n)
            label = bench.answers.classes.get(value, "") if value and value != NONE else ""
            score = score or 0.0
            agreed = not bench.answers.disagrees(name)
            counts = bool(label) and score >= bar and agreed and not gone
            how = "predicted" if agreed else "disagreed"
            found.append(Labelled(name, path, label, score, False, counts, how=how, is_gone=gone))
        return found


def write_answers(path: Path, answers: Sequence[tuple[str, Answer, str]]) -> None:
    """The answers as the table that `label` and `suggest` read.

    Args:
        path: of the CSV file.
        answers: (sample, answer, class or "") of each label.
    """
    columns: dict[str, Sequence[Any]] = {
        "sample": [sample for sample, _, _ in answers],
        "label": [name for _, _, name in answers],
        "given": [1] * len(answers),
        "how": [answer.how for _, answer, _ in answers],
        "user": [answer.user for _, answer, _ in answers],
        "at": [answer.at for _, answer, _ in answers],
    }
    write_table(path, columns)


def export(
    out: Path,
    samples: Sequence[Labelled],
    called: str,
    validation: float = 0.2,
    links: bool = True,
) -> Path:
    """Write everything that is known of a pool into a folder of its own, whole or not at all.

        labelled.csv                          every sample, its label, confidence and origin
        images/train/<class>/…                links to the files, or copies, and
        images/train/metadata.jsonl           what Hugging Face's `imagefolder` reads
        images/validation/…                   the same of the others
        names.csv                             class -> folder
        label_studio.json, label_studio.xml   tasks and configuration for Label Studio

    Of a sample the same side of the split is taken each time, and of files that are equal, byte by
    byte; but each class keeps one to train on.

    Args:
        out: the folder below which the new one is made, with the next number.
        samples: of the pool.
        called: what the confidence is: "confidence", or "score" where nothing bears it out.
        validation: the share of labelled samples that is kept for validation.
        links: link to the files; False copies them.

    Returns:
        The new folder.

    Raises:
        InputError: where it cannot be written, or there is nothing to write.
    """
    require(0 <= validation < 1, f"the share for validation must be 0 to 1, not {validation}")
    counted = [sample for sample in samples if sample.counts]
    require(counted, "no sample has a label yet")
    folder = out / _next_number(out)
    try:
        with whole_folder(folder) as target:
            _write_table(target, samples, called)
            _write_images(target, counted, validation, links)
            tasks = label_studio_tasks(samples)
            write_atomically(target / "label_studio.json", _json(tasks))
            config = label_studio_config({sample.label for sample in counted if sample.label})
            write_atomically(target / "label_studio.xml", config.encode())
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        raise InputError(
            f"cannot write {folder}: {what}; free space, or take links in place of copies"
        ) from None
    return folder


def _next_number(out: Path) -> str:
    numbers = [int(path.name) for path in out.glob("*") if path.name.isdecimal()]
    return f"{max(numbers, default=0) + 1:03d}"


def _write_table(target: Path, samples: Sequence[Labelled], called: str) -> None:
    columns: dict[str, Sequence[Any]] = {
        "sample": [sample.sample for sample in samples],
        "label": [sample.label for sample in samples],
        called: [float(sample.confidence) for sample in samples],
        "given": [int(sample.given) for sample in samples],
        "counts": [int(sample.counts) for sample in samples],
        "how": [sample.how for sample in samples],
        "user": [sample.user for sample in samples],
    }
    write_table(target / "labelled.csv", columns)


def _write_images(
    target: Path, samples: Sequence[Labelled], validation: float, links: bool
) -> None:
    """A folder per class on either side, and Hugging Face's metadata; samples of none are out."""
    folders = SafeNames()
    folder_of: dict[str, str] = {}
    for name in sorted({sample.label for sample in samples if sample.label}):
        folder_of[name] = folders.of(name)
    names = {name: SafeNames() for name in folder_of}
    validated = _validated(samples, validation)
    metadata: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for sample in samples:
        if not sample.label:
            continue
        side = "validation" if sample.sample in validated else "train"
        path = PurePosixPath(sample.sample)
        text = "__".join([*path.parts[:-1], path.stem])
        name = names[sample.label].of(text, path.suffix)
        inside = f"{folder_of[sample.label]}/{name}"
        _place(sample.path, target / "images" / side / inside, links)
        line: dict[str, Any] = {"file_name": inside, "label": sample.label}
        line |= {"confidence": round(sample.confidence, 4), "given": sample.given}
        metadata[side].append(line)
    for side, lines in metadata.items():
        if lines:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_atomically(target / "images" / side / "metadata.jsonl", text.encode())
    columns = {"class": list(folder_of), "folder": list(folder_of.values())}
    write_table(target / "names.csv", columns)


def _validated(samples: Sequence[Labelled], validation: float) -> set[str]:
    """The samples that are kept for validation; each class has one at least to train on."""
    first = _first_of_equals(samples)
    share = {name: _share_of(of) for name, of in first.items()}
    last: dict[str, float] = {}
    for sample in samples:
        last[sample.label] = max(share[sample.sample], last.get(sample.label, 0.0))
    kept = set(last.values())
    return {name for name, number in share.items() if number < validation and number not in kept}


def _first_of_equals(samples: Sequence[Labelled]) -> dict[str, str]:
    """Of each sample the first, by name, whose file holds the same bytes."""
    of_size: dict[int, list[Labelled]] = {}
    for sample in sorted(samples, key=lambda one: one.sample):
        of_size.setdefault(sample.path.stat().st_size, []).append(sample)
    first: dict[str, str] = {}
    for several in of_size.values():
        seen: dict[bytes, str] = {}
        for sample in several:
            content = b""  # where there is one of this size, it need not be read
            if len(several) > 1:
                content = hashlib.sha256(read_regular(sample.path)).digest()
            first[sample.sample] = seen.setdefault(content, sample.sample)
    return first


def _place(file: Path, at: Path, links: bool) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    if links:
        at.symlink_to(os.path.realpath(file))
    else:
        shutil.copyfile(file, at)


def _share_of(sample: str) -> float:
    """A number in [0, 1) that belongs to a sample."""
    digest = hashlib.sha256(f"split {sample}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


# Label Studio


def label_studio_tasks(samples: Sequence[Labelled]) -> list[dict[str, Any]]:
    """Tasks with annotations of what people said, and predictions of the others.

    The image is `/data/local-files/?d=PATH`, of Label Studio's local files with the pool's folder
    as their root.

    Args:
        samples: of the pool.
    """
    tasks = []
    for sample in samples:
        address = f"/data/local-files/?d={quote(sample.sample)}"
        task: dict[str, Any] = {"data": {"image": address, "sample": sample.sample}}
        result = choice(sample.label) if sample.label else []
        if sample.given:
            task["annotations"] = [{"result": result, "was_cancelled": False}]
        elif sample.label:
            task["predictions"] = [prediction(result, sample.confidence)]
        tasks.append(task)
    return tasks


def choice(name: str, control: str = CHOICE, image: str = IMAGE) -> list[dict[str, Any]]:
    """A class as Label Studio's result of a `Choices` control."""
    value = {"choices": [name]}
    return [{"from_name": control, "to_name": image, "type": "choices", "value": value}]


def prediction(result: list[dict[str, Any]], score: float) -> dict[str, Any]:
    """A prediction as Label Studio reads it."""
    return {"model_version": MODEL, "score": round(float(score), 4), "result": result}


def label_studio_config(names: set[str]) -> str:
    """The labelling interface that fits `label_studio_tasks`, as XML."""
    from xml.sax.saxutils import quoteattr

    choices = "".join(f"\n    <Choice value={quoteattr(name)}/>" for name in sorted(names))
    return LABEL_CONFIG.format(choices=choices)


def _json(value: Sequence[Mapping[str, Any]]) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()
