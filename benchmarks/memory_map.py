"""Episodes from 779,000 images of 84 x 84 (tieredImageNet's size) in a file, beside as many as fit
RAM.

The file is sparse: it takes no disk, and reading it costs what reading a file costs that the system
has cached. From a cold disk the disk decides. Run in a process of its own (`python -m
benchmarks.memory_map`), since it reports memory.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from graphfsl.data import Episodes, Setting, Split

IMAGES, IN_RAM, SHAPE = 779_000, 40_000, (3, 84, 84)


def held() -> float:
    """GB of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**30


def draw(split: Split, count: int = 600) -> tuple[float, float]:
    """Episodes a second, 5-way 1-shot 15-query, four at once; and the most memory held
    meanwhile.
    """
    episodes, most = Episodes(split, Setting(5, 1, 15)), 0.0
    for _ in episodes.batches(100, 4):
        pass
    start = time.perf_counter()
    for i, _ in enumerate(episodes.batches(count, 4)):
        most = max(most, held()) if i % 10 == 0 else most
    return count / (time.perf_counter() - start), most


def split(x: np.ndarray, name: str) -> Split:
    classes = tuple(map(str, range(351)))
    return Split(x, torch.arange(len(x)) * 351 // len(x), classes, name)  # type: ignore[arg-type]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.npy"
        np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(IMAGES, *SHAPE)).flush()
        disk = split(np.load(file, mmap_mode="r"), "bench/disk")
        rates, memory = [], 0.0
        for _ in range(3):
            rate, most = draw(disk)
            rates.append(rate)
            memory = max(memory, most)
        ram = split(np.zeros((IN_RAM, *SHAPE), np.uint8), "bench/ram")
        print(
            json.dumps(
                {"disk": max(rates), "ram": max(draw(ram)[0] for _ in range(3)), "gb": memory}
            )
        )


if __name__ == "__main__":
    main()
