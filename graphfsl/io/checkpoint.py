"""Checkpoints: safetensors with their facts as JSON in the header, renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from graphfsl.io.errors import InputError, require
from graphfsl.io.files import read_regular
from graphfsl.io.limits import LARGEST

TOLD = ("step", "loss", "seconds")  # what every line of metrics says
TEXTS = ("metric", "unit")  # what validation measures, where it is not an accuracy
HALVED = "halved"  # the fact that says that float32 tensors are stored as float16
FORMAT = 1  # of run directories and checkpoints; a reader refuses what is newer than itself


def write_atomically(path: Path, data: bytes, new_folder: bool = True) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it.

    It has a temporary name beside `path` until it is complete.

    Args:
        path: of the file.
        data: its bytes.
        new_folder: make the folder where there is none; a run whose directory was taken away must
            not begin another.

    Raises:
        InputError: where it cannot be written.
    """
    temporary = _beside(path)
    try:
        if new_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; free space or choose another folder"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A new name beside `path`.

    It is known before the file is there, so that an interruption while it is made leaves nothing.
    """
    return path.parent / f".{path.name}-{secrets.token_hex(4)}"


def check_unused(out: Path) -> None:
    """Refuse a folder that holds something, before anything is computed for it.

    Raises:
        InputError: names it.
    """
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    require(empty, f"{out} is there already; remove it, or choose another --out")


def check_place(path: Path) -> None:
    """Refuse a path where no file or folder can be made, before anything is computed for it.

    Nothing is left behind, no folder either.

    Raises:
        InputError: as `write_atomically`.
    """
    absolute = path.absolute()
    try:
        there = next(place for place in (absolute, *absolute.parents) if place.exists())
        folder = absolute.parent if there == absolute and not there.is_dir() else there
        tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}-").close()
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; free space or choose another folder"
        ) from None


def check_writable(path: Path) -> None:
    """Refuse a file that `write_atomically` could not write, before anything is computed for it.

    Raises:
        InputError: as `write_atomically`, and where a folder is there.
    """
    check_place(path)
    require(not path.is_dir(), f"cannot write {path}: it is a folder; name a file")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that is there with all that the block writes into it, or not at all.

    The block writes into the one that it is given, which is renamed to `path` in the end. An empty
    folder that is there before is replaced, and a link stays one: what it leads to is made.

    Raises:
        InputError: where it cannot be made.
    """
    if path.is_symlink():
        path = path.resolve()  # a folder cannot be renamed to a link
    folder = _beside(path)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(0o700)
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror}; free space or choose another folder"
            ) from None
        yield folder
        folder.chmod(0o755)
        if path.is_dir():
            path.rmdir()
        folder.rename(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def append(path: Path, text: str) -> None:
    """Add text to the end of a file and bring it to the disk.

    Where it does not fit whole, nothing is added.
    """
    try:
        with path.open("ab", buffering=0) as file:
            end, data = file.seek(0, os.SEEK_END), text.encode()
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; free space or choose another folder"
        ) from None


# a list of numbers as `json.dumps` indents it, one on each line; no string holds a line break
NUMBERS = re.compile(r"\[\n *-?\d[-+.\deE]*(?:,\n *-?\d[-+.\deE]*)*\n *\]")


def json_text(value: Any) -> str:
    """Indented JSON with each list of numbers on one line: a thousand accuracies fill a page else.

    Raises:
        ValueError: for NaN and infinity, which JSON does not have.
    """
    text = json.dumps(value, indent=2, allow_nan=False)
    return NUMBERS.sub(lambda numbers: re.sub(r"\s+", " ", numbers[0]), text) + "\n"


def write_json(path: Path, value: Any, new_folder: bool = True) -> None:
    """Write a value as JSON, as `json_text` puts it.

    Raises:
        ValueError: for NaN and infinity, which JSON does not have.
    """
    write_atomically(path, json_text(value).encode(), new_folder)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: where it is missing or damaged.
    """
    try:
        return json.loads(read_regular(path))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} not found; is {path.parent} a run directory?") from None
    except InputError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(
            f"{path} is not readable JSON ({error}); restore it or write it again"
        ) from None


def read_lines(path: Path, count: int | None = None) -> list[dict[str, Any]]:
    """The first `count` lines of a run's metrics.jsonl, or without it all of them.

    Raises:
        InputError: where one is missing, or holds values of the wrong kind.
    """
    lines: list[Any] = []
    try:
        text = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        lines = [json.loads(line) for line in text[:count]]
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error}); restore it, or train again in another folder"
        ) from None
    for number, line in enumerate(lines, 1):
        require(
            _is_of_metrics(line),
            f"{path} is damaged (line {number}); restore it, or train again in another folder",
        )
    require(
        count is None or len(lines) >= count,
        f"{path} lacks some of {count} lines of metrics; restore it, or train "
        f"again in another folder",
    )
    return lines


def _is_of_metrics(line: Any) -> bool:
    """Whether a value is a mapping to numbers, or None, which has those of TOLD; TEXTS are text."""
    if (
        not isinstance(line, dict)
        or not isinstance(line.get("step"), int)
        or any(line.get(k) is None for k in TOLD)
    ):
        return False
    return all(
        v is None
        or isinstance(v, str if k in TEXTS else float)
        or (isinstance(v, int) and abs(v) <= LARGEST)
        for k, v in line.items()
    )


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors by name, and JSON facts, into a folder that exists.

    A checksum of both goes with them.
    """
    plain = {
        k: t.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
        for k, t in tensors.items()
    }
    told = facts | {"format": FORMAT}
    told["checksum"] = checksum(plain, told)
    write_atomically(path, save(plain, {"graphfsl": json.dumps(told)}), new_folder=False)


def save_halved(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a checkpoint as `save_checkpoint` does, in half the size.

    Float32 tensors are stored as float16, and `load_checkpoint` gives them back as float32. All
    others are stored as they are.

    Raises:
        InputError: where a value is too large for float16.
    """
    stored = {}
    for name, tensor in tensors.items():
        stored[name] = tensor.half() if tensor.dtype == torch.float32 else tensor
        require(
            not tensor.isfinite().all() or stored[name].isfinite().all(),
            f"{path}: {name!r} holds values that are too large for float16",
        )
    save_checkpoint(path, stored, facts | {HALVED: True})


def checksum(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """A digest (SHA-256) of the facts and of each tensor's name, type, shape and bytes.

    The order of either does not matter.
    """
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a file.

    Raises:
        InputError: where it is missing, cut short, changed or something else.
    """
    require(
        path.is_file(),
        f"checkpoint {path} not found; is {path.parent} the directory of a run that has trained?",
    )
    try:
        # Opened once: a training may put the next checkpoint into its place at any moment.
        content = path.read_bytes()
        tensors = load(content)
        facts = json.loads(_header(content)["__metadata__"]["graphfsl"])
        check_format(facts.get("format", FORMAT), path)
        written = facts.pop("checksum", None)  # there is none in files of earlier versions
        if written is not None and written != checksum(tensors, facts):
            raise ValueError("its checksum is not that of its content")
        facts.pop("format", None)
        if facts.pop(HALVED, False):
            tensors = {k: t.float() if t.dtype == torch.float16 else t for k, t in tensors.items()}
        return tensors, facts
    except InputError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"checkpoint {path} is broken or not from graphfsl ({error}); restore it or train again"
        ) from None


def _header(content: bytes) -> dict[str, Any]:
    """The JSON that a safetensors file begins with, behind its length in eight bytes."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header


def check_format(number: Any, path: Path) -> None:
    """Refuse a file of a format that this version does not know.

    Raises:
        InputError: names the file.
    """
    if not isinstance(number, int) or number > FORMAT:
        raise InputError(
            f"{path} is of format {number}, this graphfsl reads up to {FORMAT}; upgrade graphfsl"
        )


def load_weights(learner: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Load weights into a module; all must be there and fit.

    Raises:
        InputError: names the first that does not fit or is not finite.
    """
    for prefix, module in learner.named_modules():
        make_room = getattr(module, "make_room", None)  # of what is as long as what was learned
        if make_room is not None:
            before = f"{prefix}." if prefix else ""
            inside = {n.removeprefix(before): t for n, t in tensors.items() if n.startswith(before)}
            make_room(inside)
    own = learner.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        have, need = (
            f"{t[name].dtype} {tuple(t[name].shape)}" if name in t else "nothing"
            for t in (tensors, own)
        )
        require(
            have == need,
            f"{where} is of another architecture: {name!r} holds {have} there, the learner "
            f"needs {need}; leave out the parts and options that it was not trained with, or train "
            "a run with them",
        )
        require(
            tensors[name].is_meta or tensors[name].isfinite().all(),
            f"{where}: {name!r} holds NaN or infinity; restore it or train again",
        )
    learner.load_state_dict(tensors)
