"""Pictures of samples for a page: decoded, made smaller and encoded anew, and kept for a while."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict

import numpy as np
from PIL import Image

from graphfsl.apply.label.pool_files import Pool
from graphfsl.data.images import decode
from graphfsl.io.errors import InputError
from graphfsl.io.files import read_regular

SIDES = {"small": 256, "large": 1600}  # most pixels of a side
LEAST = {"small": 96, "large": 512}  # smaller ones are enlarged, pixel by pixel, up to about this
QUALITY = 85
KEPT = 64 * 2**20  # bytes of pictures in memory
AT_ONCE = 2  # images that are decoded at once: a large one takes hundreds of megabytes


class Pictures:
    """JPEGs of the samples of a pool, by number. No byte of a file leaves as it is.

    Args:
        pool: of images.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._kept: OrderedDict[tuple[int, str, str], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(AT_ONCE)

    def jpeg(self, n: int, kind: str, version: str) -> bytes:
        """The picture of a sample.

        Args:
            n: the sample.
            kind: "small" or "large".
            version: of its file, see `SampleFiles`.

        Raises:
            InputError: where the file cannot be read any more.
        """
        key = (n, kind, version)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._decoding:
            picture = self._encoded(n, kind)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = picture
                self._bytes += len(picture)
            while self._bytes > KEPT:
                _, old = self._kept.popitem(last=False)
                self._bytes -= len(old)
        return picture

    def _encoded(self, n: int, kind: str) -> bytes:
        path = self._pool.images[n]
        try:
            data = read_regular(path)
        except OSError as error:
            name = self._pool.names[n]
            raise InputError(f"{name} cannot be read any more ({error.strerror})") from None
        array = decode(data, None, 3, str(path), self._pool.range)
        image = Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))
        image.thumbnail((SIDES[kind], SIDES[kind]))
        if times := LEAST[kind] // max(image.size):
            image = image.resize((image.width * times, image.height * times), Image.Resampling.BOX)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        return file.getvalue()
