"""Learn classes from a few photographs each, and classify others.

    python classify.py enrol CLASS PHOTO...    keeps the class in classes.npz
    python classify.py classify PHOTO...       prints photo, class, and the probability of each

device.py, beside it, reads photographs and runs the graphs.
"""

import sys
from typing import Any

import device
import numpy as np

KNOWN = device.HERE / "classes.npz"  # features (k, d) of the classes' photographs, and names (k,)


def known() -> tuple[Any, Any]:
    """Features and names of what is enrolled."""
    if not KNOWN.exists():
        return np.empty((0, device.MODEL["features"]), np.float32), np.array([], str)
    kept = np.load(KNOWN, allow_pickle=False)
    if str(kept["model"]) != device.MODEL["model"]:
        sys.exit(f"{KNOWN} holds features of another encoder; remove it and enrol again")
    return kept["features"], kept["names"]


def enrol(name: str, *photographs: str) -> None:
    """Learn a class, in place of an earlier one of that name."""
    new, (z, names) = device.features(photographs), known()
    features = np.concatenate([z[names != name], new])
    names = np.append(names[names != name], [name] * len(new))
    part = KNOWN.with_suffix(".part.npz")  # renamed when it is whole
    np.savez(part, features=features, names=names, model=device.MODEL["model"])
    part.replace(KNOWN)


def classify(*photographs: str) -> None:
    """Print the class of each photograph."""
    queries, (z, names) = device.features(photographs), known()
    classes = np.unique(names)
    if len(classes) < 2:
        sys.exit(f"{len(classes)} class is enrolled; at least 2 are needed")
    labels = (names[:, None] == classes).astype(np.float32)
    answers = device.probabilities(z, labels, queries)
    for path, p in zip(photographs, answers, strict=True):
        each = " ".join(f"{name}={value:.4f}" for name, value in zip(classes, p, strict=True))
        print(path, classes[p.argmax()], each, sep="\t")


if __name__ == "__main__":
    commands: dict[str, Any] = {"enrol": enrol, "classify": classify}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
