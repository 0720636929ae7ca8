"""An ONNX graph as a device runs it, in a process of its own without torch.

`python -m benchmarks.onnx_calls FILE C H W` prints, as JSON, the milliseconds of a call with one
image, the median of 200 on one thread, and the MiB that the process held before and at the most.
Milliseconds are processor time: what else a shared machine does plays no part.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np
import onnxruntime

from benchmarks.peak_memory import peak_memory

CALLS, WARMING = 200, 20


def measured(file: str, shape: tuple[int, ...]) -> dict[str, float]:
    before = peak_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    graph = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((1, *shape), np.float32)
    times = []
    for _ in range(WARMING + CALLS):
        start = time.process_time()
        graph.run(None, {"images": image})
        times.append(1000 * (time.process_time() - start))
    ms = statistics.median(times[WARMING:])
    return {"ms": ms, "before": before, "peak": peak_memory()}


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], tuple(map(int, sys.argv[2:])))))
