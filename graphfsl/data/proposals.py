"""Where in an image an object may be, whatever its class.

Proposals without training have a name. Those of a net have the path of its weights: what
`graphfsl proposer` trained, or a detector of torchvision.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torchvision.ops import nms

from graphfsl.functional.ink import ink_of
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.nn.objectness import objectness_of_file
from graphfsl.nn.torchvision_detector import detector_of_file

DILATIONS = (0, 1, 2)  # times that ink is widened, so that parts of one object may lie apart
SAME = 0.9  # intersection over union above which two proposals are one
SMALLEST = 4  # pixels of a side of a proposal
KEPT = 4096  # images whose proposals are remembered
LOOKED_AT = 1280  # pixels of the longer side of an image of which regions are proposed
SEARCHED = 320  # pixels of the longer side that selective search looks at


def components(image: np.ndarray) -> np.ndarray:
    """The boxes of connected parts that are brighter, or darker, than what is around them.

    The threshold is Otsu's, and the background is what most of the border is. Ink is widened by
    each of DILATIONS, so that an object may be one part or several, and may touch another. Of a
    colour image brightness and chroma are looked at, each by itself. Images of more than LOOKED_AT
    pixels a side are made smaller by a whole number first, which bounds time and memory.

    Args:
        image: (C, H, W) uint8.

    Returns:
        (m, 4) left, top, right, bottom, the largest first.
    """
    small, step = reduced(image)
    return enlarged(_components(small), step, image)


def reduced(image: np.ndarray) -> tuple[np.ndarray, int]:
    """An image (C, H, W) uint8 of at most LOOKED_AT pixels a side, and how many a pixel is of.

    A pixel is the mean of a block of so many a side, which is smaller at the right and below.
    """
    step = math.ceil(max(image.shape[1:]) / LOOKED_AT)
    if step == 1:
        return image, 1
    return np.stack([np.asarray(Image.fromarray(plane).reduce(step)) for plane in image]), step


def enlarged(boxes: np.ndarray, step: int, image: np.ndarray) -> np.ndarray:
    """The boxes (m, 4) of a reduced image in the image (C, H, W) itself."""
    height, width = image.shape[1:]
    edges = np.array([width, height, width, height], np.float32)
    whole: np.ndarray = np.minimum(boxes * np.float32(step), edges)
    return whole


def _components(image: np.ndarray) -> np.ndarray:
    """`components` of an image as it is."""
    planes = [image.mean(0)]
    if len(image) == 3:
        planes.append(image.max(0).astype(np.float64) - image.min(0))
    boxes: list[list[int]] = []
    for plane in planes:
        boxes += _parts(plane)
    found = np.array(boxes, np.float32).reshape(-1, 4)
    sides = found[:, 2:] - found[:, :2]
    found = found[(sides.min(1) >= SMALLEST) & (sides.max(1) >= 2 * SMALLEST)]
    area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    found = found[np.argsort(-area, kind="stable")]
    # of boxes that are almost the same the larger one is kept
    boxes_of, order = torch.from_numpy(found), torch.arange(len(found), 0, -1).float()
    kept: np.ndarray = found[nms(boxes_of, order, SAME).numpy()]
    return kept


def _parts(plane: np.ndarray) -> list[list[int]]:
    """The boxes of the connected parts of one plane (H, W)."""
    ink = ink_of(plane)
    boxes = []
    for times in DILATIONS:
        wide = ndimage.binary_dilation(ink, np.ones((3, 3)), iterations=times) if times else ink
        label, _ = ndimage.label(wide, np.ones((3, 3)))
        parts = [part for part in ndimage.find_objects(label * ink) if part is not None]
        boxes += [[x.start, y.start, x.stop, y.stop] for y, x in parts]
    return boxes


def selective_search(image: np.ndarray) -> np.ndarray:
    """Boxes of segments that are joined again and again (Uijlings et al. 2013), by opencv-contrib.

    It looks at an image of at most SEARCHED pixels a side, which takes about a second.

    Args:
        image: (C, H, W) uint8.

    Returns:
        (m, 4), in the order of opencv.

    Raises:
        InputError: where opencv-contrib is not installed.
    """
    cv2 = _opencv()
    height, width = image.shape[1:]
    scale = min(1.0, SEARCHED / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colour = np.repeat(image, 3, 0) if len(image) == 1 else image
    pixels = np.ascontiguousarray(colour[::-1].transpose(1, 2, 0))  # opencv has blue first
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    search.switchToSelectiveSearchFast()
    cv2.setRNGSeed(0)
    found = np.asarray(search.process(), np.float32).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    found *= np.array([width / size[0], height / size[1]] * 2, np.float32)
    large: np.ndarray = found[(found[:, 2:] - found[:, :2]).min(1) >= SMALLEST]
    return large


def _opencv() -> Any:
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError:
        cv2 = None
    if not hasattr(cv2, "ximgproc"):
        raise InputError("selective search needs opencv-contrib: pip install graphfsl[proposals]")
    return cv2


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "components": components,
    "selective_search": selective_search,
}
WEIGHTS = (".safetensors", ".pth", ".pt")  # how the files of nets end
_remembered: OrderedDict[tuple[str, bytes], np.ndarray] = OrderedDict()


def check_kind(kind: str, name: str = "kind of proposals") -> None:
    """Refuse what neither is a name in KINDS nor could be a file of weights.

    Args:
        kind: of the proposals.
        name: what it is called.

    Raises:
        InputError: says what is known.
    """
    if kind not in KINDS and not kind.endswith(WEIGHTS):
        known = [*KINDS, f"a file of weights ({', '.join(WEIGHTS)})"]
        raise unknown(name, kind, known)


@functools.lru_cache(maxsize=4)
def _of_net(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Proposals by the net whose weights a file holds.

    Raises:
        InputError: where it cannot be read, or holds none of such a net.
    """
    require(
        Path(path).is_file(),
        f"weights of proposals {path} not found; give a file that `graphfsl proposer` wrote, or of "
        "a detector of torchvision",
    )
    net = detector_of_file(path) or objectness_of_file(path)

    def propose(image: np.ndarray) -> np.ndarray:
        small, step = reduced(image)
        found: np.ndarray = net.propose(torch.from_numpy(small)).numpy()
        return enlarged(found, step, image)

    return propose


def proposals(image: np.ndarray, kind: str) -> np.ndarray:
    """The proposals (m, 4) of an image (C, H, W) uint8, remembered by its pixels.

    Args:
        image: the pixels.
        kind: a name in KINDS, or the path of a net's weights.

    Raises:
        InputError: for an unknown kind, or weights that are none.
    """
    check_kind(kind)
    sides = repr(image.shape).encode()  # the same bytes may be wide or high
    key = (kind, hashlib.blake2b(sides + image.tobytes(), digest_size=16).digest())
    if key not in _remembered:
        propose = KINDS[kind] if kind in KINDS else _of_net(kind)
        _remembered[key] = propose(image)
        if len(_remembered) > KEPT:
            _remembered.popitem(last=False)
    return _remembered[key]
