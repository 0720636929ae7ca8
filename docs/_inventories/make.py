"""Writes the inventories beside this file: the names of other libraries that our pages link to.

python docs/_inventories/make.py
"""

from __future__ import annotations

import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent

# name -> (role, page); the anchor on the page is the name itself.
TORCH = {
    "torch.Tensor": ("py:class", "tensors.html"),
    "torch.dtype": ("py:class", "tensor_attributes.html"),
    "torch.device": ("py:class", "tensor_attributes.html"),
    "torch.Generator": ("py:class", "generated/torch.Generator.html"),
    "torch.nn.Module": ("py:class", "generated/torch.nn.Module.html"),
    "torch.nn.BatchNorm2d": ("py:class", "generated/torch.nn.BatchNorm2d.html"),
    "torch.nn.Unflatten": ("py:class", "generated/torch.nn.Unflatten.html"),
    "torch.utils.data.Dataset": ("py:class", "data.html"),
    "torch.vmap": ("py:function", "generated/torch.vmap.html"),
    "torch.compile": ("py:function", "generated/torch.compile.html"),
}
TORCH_GEOMETRIC = {
    "torch_geometric.data.Data": ("py:class", "generated/torch_geometric.data.Data.html"),
    "torch_geometric.data.Batch": ("py:class", "generated/torch_geometric.data.Batch.html"),
    "torch_geometric.nn.conv.GCNConv": (
        "py:class",
        "generated/torch_geometric.nn.conv.GCNConv.html",
    ),
    "torch_geometric.nn.conv.MessagePassing": (
        "py:class",
        "generated/torch_geometric.nn.conv.MessagePassing.html",
    ),
}
SKLEARN = {
    "sklearn.base.BaseEstimator": (
        "py:class",
        "modules/generated/sklearn.base.BaseEstimator.html",
    ),
    "sklearn.base.ClassifierMixin": (
        "py:class",
        "modules/generated/sklearn.base.ClassifierMixin.html",
    ),
    "sklearn.model_selection.GridSearchCV": (
        "py:class",
        "modules/generated/sklearn.model_selection.GridSearchCV.html",
    ),
    "sklearn.model_selection.cross_val_score": (
        "py:function",
        "modules/generated/sklearn.model_selection.cross_val_score.html",
    ),
    "sklearn.pipeline.Pipeline": (
        "py:class",
        "modules/generated/sklearn.pipeline.Pipeline.html",
    ),
    "sklearn.utils.estimator_checks.check_estimator": (
        "py:function",
        "modules/generated/sklearn.utils.estimator_checks.check_estimator.html",
    ),
}


def write(name: str, project: str, entries: dict[str, tuple[str, str]]) -> None:
    """An inventory of Sphinx's version 2: four lines of text, then compressed lines of names."""
    head = (
        "# Sphinx inventory version 2\n"
        f"# Project: {project}\n"
        "# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    lines = [f"{n} {role} 1 {page}#$ -\n" for n, (role, page) in sorted(entries.items())]
    body = zlib.compress("".join(lines).encode(), 9)
    (HERE / f"{name}.inv").write_bytes(head.encode() + body)


if __name__ == "__main__":
    write("torch", "PyTorch", TORCH)
    write("torch_geometric", "PyTorch Geometric", TORCH_GEOMETRIC)
    write("sklearn", "scikit-learn", SKLEARN)
