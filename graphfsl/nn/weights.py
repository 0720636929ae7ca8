"""Weights of an encoder from a file: safetensors, or what `torch.save` wrote.

The latter is taken apart and never run.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from graphfsl.io import inert_pickle
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import check_regular, check_unpacked
from graphfsl.io.inert_pickle import Call

DTYPES = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
KNOWN = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *DTYPES,
}
# Which of several sets of weights that fit is meant: by where it stands in the file, and by what
# stands before names.
TABLES = ("", "state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
PREFIXES = (
    "",
    "module.",
    "encoder.",
    "module.encoder.",
    "backbone.",
    "module.backbone.",
    "net.encoder.",
)
DEEPEST = 4  # dictionaries within dictionaries
Table = dict[str, Tensor]


_reads: ContextVar[bool] = ContextVar("reads", default=True)


@contextmanager
def without_reading() -> Iterator[None]:
    """Within this block encoders are built as if with their weights.

    A checkpoint is going to bring them.
    """
    token = _reads.set(False)
    try:
        yield
    finally:
        _reads.reset(token)


def reads_weights() -> bool:
    """Whether an encoder that is built now reads its weights.

    Not on the meta device, nor in `without_reading`.
    """
    return _reads.get() and torch.get_default_device().type != "meta"


def load_encoder_weights(
    encoder: nn.Module,
    path: str,
    convert: Callable[[Table], Table] | None = None,
    classifier: Set[str] = frozenset(),
) -> None:
    """Load every weight of an encoder from a file, by name.

    What stands before all names, such as `module.` or `encoder.`, does not matter, nor do layers
    behind the encoder (a classifier, a projection).

    Args:
        encoder: what takes them.
        path: a safetensors file, or one of `torch.save`: of a state dict, or of a checkpoint that
            holds one, such as {"state_dict": …, "epoch": …}.
        convert: tried first, from names of other codes to the encoder's.
        classifier: layers that may be left over though the encoder has some that begin like them.

    Raises:
        InputError: where the file is none, lacks a weight or holds it in another shape, holds
            layers that the encoder does not have, NaN or infinity, or two sets of weights that fit.
    """
    tables, own = read_weights(Path(path)), encoder.state_dict()
    found = _converted(own, tables, path, convert, classifier) or _matching(
        own, tables, path, classifier
    )
    for name, tensor in found.items():
        require(
            tensor.isfinite().all(), f"{path}: {name!r} holds NaN or infinity; restore the file"
        )
    encoder.load_state_dict(own | found)


def read_weights(path: Path) -> dict[str, Table]:
    """The tensors of a file, by the place that they stand in: place -> name -> tensor.

    A place is where a dictionary of them stands; "" is the file itself.

    Of a file of `torch.save` only tensors are read; whatever else is in it is neither imported nor
    called.
    """
    data = _bytes_of(path)
    if path.suffix == ".safetensors" or data[8:9] == b"{":
        try:
            return {"": load(data)}
        except (SafetensorError, ValueError, KeyError) as error:
            raise InputError(f"{path} is not a readable safetensors file ({error})") from None
    zipped = zipfile.is_zipfile(io.BytesIO(data))
    require(
        zipped or data[:1] == b"\x80",
        f"{path} is no safetensors file and none of torch.save, or cut short; save a state dict",
    )
    try:
        value = _zipped(path, data) if zipped else _legacy(path, data, None)
    except InputError:
        raise
    except Exception as error:  # what is broken makes each step of it raise almost anything
        raise InputError(
            f"{path} is a damaged file of torch.save ({type(error).__name__}); save it again"
        ) from None
    if isinstance(value, Call):
        raise InputError(
            f"{path} holds a whole {value.name.split()[-1]}, not its weights; save its state_dict()"
        )
    tables = dict(_tables(value, "", 0))
    require(tables, f"{path} holds no weights by name; save a state dict, model.state_dict()")
    return tables


def file_digest(path: str) -> str:
    """A digest of the content of a file of weights."""
    return hashlib.blake2b(_bytes_of(Path(path)), digest_size=16).hexdigest()


def _bytes_of(path: Path) -> bytes:
    if not path.is_dir():
        check_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"weights {path} cannot be read ({error.strerror}); give a file of weights"
        ) from None


def read_legacy(path: Path) -> Table:
    """The tensors of a state dict in PyTorch's format before 1.6, name -> tensor, in order.

    All else is refused.
    """
    return dict(_legacy(path, _bytes_of(path), KNOWN))


def _tables(value: Any, at: str, depth: int) -> Iterator[tuple[str, Table]]:
    if isinstance(value, dict) and depth <= DEEPEST:
        own = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if own:
            yield at, own
        for key, inner in value.items():
            yield from _tables(inner, f"{at}.{key}" if at else str(key), depth + 1)


def _zipped(path: Path, data: bytes) -> Any:
    """PyTorch's format since 1.6: a zip of one pickle and a file for each storage."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        check_unpacked(path, archive)
        pickled = next(
            (n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl"), None
        )
        if pickled is None:
            raise InputError(f"{path} is a zip, but none of torch.save; save a state dict")
        folder = pickled.removesuffix("data.pkl")
        if (
            f"{folder}byteorder" in archive.namelist()
            and archive.read(f"{folder}byteorder") != b"little"
        ):
            raise InputError(
                f"{path} was written with the bytes of each number turned round; "
                f"save it as safetensors"
            )
        value = inert_pickle.read(path, None, io.BytesIO(archive.read(pickled)))

        def storage(dtype: torch.dtype, key: str) -> Tensor:
            return torch.frombuffer(
                bytearray(archive.read(f"{folder}data/{key}") or bytes(8)), dtype=dtype
            )

        return _with_tensors(value, storage)


def _legacy(path: Path, data: bytes, known: Set[str] | None) -> Any:
    """The value of a file in the format before 1.6.

    Five pickles (two marks, the machine, the value without its numbers, the keys of the storages)
    and the storages, each behind its length.
    """
    file = io.BytesIO(data)
    for _ in range(3):
        inert_pickle.read(path, set(), file)
    value = inert_pickle.read(path, known, file)
    dtypes: dict[str, torch.dtype] = {}

    def note(dtype: torch.dtype, key: str) -> Tensor:
        dtypes[key] = dtype
        return torch.empty(0)

    _with_tensors(value, note)
    storages = {}
    for key in inert_pickle.read(path, set(), file):
        if key not in dtypes:
            raise InputError(
                f"{path} holds numbers beside those of a state dict, which are not read; save the "
                "state dict alone, as safetensors"
            )
        count = int.from_bytes(file.read(8), "little")
        bytes_of = bytearray(file.read(count * dtypes[key].itemsize) or bytes(8))
        storages[key] = torch.frombuffer(bytes_of, dtype=dtypes[key])
    return _with_tensors(value, lambda dtype, key: storages[key])


def _with_tensors(value: Any, storage: Callable[[torch.dtype, str], Tensor]) -> Any:
    """The value, where in dictionaries a tensor stands for each call that would make one.

    storage: gives the numbers of a type and a key; none for a type that is only asked for.
    """
    match value:
        case dict():
            return {k: _with_tensors(v, storage) for k, v in value.items()}
        case Call("torch._utils _rebuild_parameter", (inner, *_)):
            return _with_tensors(inner, storage)
        case Call(
            "torch._utils _rebuild_tensor_v2",
            (Call("persistent", ("storage", Call(kind), key, *_)), offset, size, stride, *_),
        ) if kind in DTYPES:
            held = storage(DTYPES[kind], key)
            return held.as_strided(size, stride, offset).contiguous() if len(held) else held
    return value


def _converted(
    own: Table,
    tables: Mapping[str, Table],
    path: str,
    convert: Callable[[Table], Table] | None,
    classifier: Set[str],
) -> Table | None:
    """The encoder's weights of converted tables; None where the names are of neither."""
    if convert is None:
        return None
    try:
        bare = {
            at: {k.removeprefix("module."): v for k, v in table.items()}
            for at, table in tables.items()
        }
        return _matching(own, {at: convert(table) for at, table in bare.items()}, path, classifier)
    except Exception:  # the names of another code make a conversion raise almost anything
        return None


def _matching(own: Table, tables: Mapping[str, Table], path: str, classifier: Set[str]) -> Table:
    """Of each own name the tensor in the file, but for counts of batches that it may lack."""
    needed = [k for k in own if not k.endswith("num_batches_tracked")]
    fitting: dict[tuple[str, str], Table] = {}
    wrong: list[tuple[int, str]] = []
    for at, table in tables.items():
        for prefix, count in _prefixes(table, needed).items():
            problem = _problem(own, needed, table, prefix, classifier)
            if problem is None:
                fitting[at, prefix] = {k: table[prefix + k] for k in own if prefix + k in table}
            else:
                wrong.append((-count, problem))
    if not fitting:
        problem = min(wrong, default=(0, f"lacks {needed[0]!r}"), key=lambda w: w[0])[1]
        raise InputError(f"{path} is of another model: it {problem}")
    told = [k for k in fitting if k[0] in TABLES and k[1] in PREFIXES]
    if len(fitting) > 1 and not told:
        names = ", ".join(
            sorted(".".join(filter(None, (at, prefix.rstrip(".")))) for at, prefix in fitting)
        )
        raise InputError(
            f"{path} holds more than one set of weights that fit: {names}; save the "
            f"one that is meant"
        )
    best = min(
        told, key=lambda k: (TABLES.index(k[0]), PREFIXES.index(k[1])), default=next(iter(fitting))
    )
    return fitting[best]


def _prefixes(table: Table, needed: list[str]) -> Counter[str]:
    """What stands before the needed names in a table, and before how many of them."""
    before: dict[str, list[str]] = {}
    for name in table:
        parts = name.split(".")
        for k in range(len(parts)):
            before.setdefault(".".join(parts[k:]), []).append("".join(f"{p}." for p in parts[:k]))
    return Counter(prefix for name in needed for prefix in before.get(name, ()))


def _problem(
    own: Table, needed: list[str], table: Table, prefix: str, classifier: Set[str]
) -> str | None:
    """Why the tensors behind a prefix are not the encoder's; None where they are."""
    for name in needed:
        if prefix + name not in table:
            return f"lacks {prefix + name!r}"
        have, need = table[prefix + name], own[name]
        if have.shape != need.shape or have.is_floating_point() != need.is_floating_point():
            kind = f"{have.dtype} {tuple(have.shape)}".removeprefix("torch.")
            return f"holds {prefix + name!r} as {kind}, where the encoder needs {tuple(need.shape)}"
    ours = {name.partition(".")[0] for name in own}
    for name in (k.removeprefix(prefix) for k in table if k.startswith(prefix)):
        behind = any(name.startswith(f"{c}.") for c in classifier)
        if name not in own and not behind and name.partition(".")[0] in ours:
            return f"holds {prefix + name!r} besides"
    return None
