"""Files of plain arrays, npz and safetensors, of which nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from graphfsl.io.errors import InputError
from graphfsl.io.files import check_unpacked


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by name.

    Args:
        path: of a .safetensors file; anything else is read as npz.

    Raises:
        InputError: where it is damaged, holds pickled objects or would not fit into memory.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with zipfile.ZipFile(path) as archive:
            check_unpacked(path, archive)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except InputError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        KeyError,
        TypeError,
        SafetensorError,
    ) as error:
        raise InputError(
            f"{path} is not a readable file of plain arrays ({error}); write it again"
        ) from None
