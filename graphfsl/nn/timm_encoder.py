"""Any image model of timm (https://github.com/huggingface/pytorch-image-models) as an encoder."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import follow_policy
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.nn.weights import load_encoder_weights, reads_weights


class Timm(nn.Module):
    """A timm model without its classifier.

    Its BatchNorms follow the policy of the pipeline.

    Args:
        in_channels: of the images; gray ones are spread over the three channels of a pretrained
            model.
        model: its name, such as resnet18 or vit_small_patch16_224.
        pretrained: with weights from the Hugging Face hub, only ever as safetensors. Then `mean`
            and `std` are what the model was trained with, for each of in_channels.
        weights: the same from a local file, see `graphfsl.nn.weights`.
        size: pixels of a side to which images are resized in the encoder; None keeps them, but for
            models that take one size only, which get theirs.
        strides: None for the model's last maps; or the last ones of each of these strides, such as
            [16, 32] for cells of 16 pixels that see those of 32 too: dense features for masks.

    Shapes:
        forward: (M, in_channels, h, w) -> maps (M, c, h', w'); vectors (M, d) from models of
            tokens. With strides the maps are as large as those of the smallest stride; the features
            of each have length 1 in every cell, and stand behind each other.
        readout: the model's own pooling, (M, c, h', w') -> (M, d); with strides the spatial mean.

    Raises:
        InputError: for a model or weights that do not exist or do not fit, and where timm is not
            installed.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __init__(
        self,
        in_channels: int = 3,
        *,
        model: str,
        pretrained: bool = False,
        weights: str | None = None,
        size: int | None = None,
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        timm = _timm()
        if not timm.is_model(model):
            raise unknown("timm model", model, timm.list_models())
        try:
            config = timm.get_pretrained_cfg(model)
        except RuntimeError:  # no such weights: the name goes on behind a dot
            raise unknown("timm model", model, timm.list_pretrained()) from None
        require(
            size is None or size >= 1, f"the size of images must be at least 1 pixel, not {size}"
        )
        options: dict[str, Any] = {}
        if config.fixed_input_size:
            size = size or config.input_size[-1]
            options["img_size"] = size
        trained = pretrained or weights is not None
        require(
            not trained or in_channels in (1, 3),
            f"pretrained encoders read images of 1 or 3 channels, not of {in_channels}",
        )
        self.size, self.channels = size, 3 if trained else in_channels
        try:
            self.net = timm.create_model(model, num_classes=0, in_chans=self.channels, **options)
        except (RuntimeError, TypeError) as error:
            raise InputError(
                f"timm model {model!r} cannot be built ({' '.join(str(error).split())})"
            ) from None
        if trained and reads_weights():
            self._fit(weights or _from_hub(model, config))
        if trained:
            self._normalise_as(config.mean, config.std, in_channels)
        self.stages = None if strides is None else _stages(self.net, model, strides)
        follow_policy(self.net)
        self.to(memory_format=torch.channels_last)

    def _fit(self, path: str) -> None:
        """Load weights of the same model, with or without its classifier."""
        convert = getattr(sys.modules[type(self.net).__module__], "checkpoint_filter_fn", None)
        classifier = self.net.pretrained_cfg.get("classifier") or ()
        names = {classifier} if isinstance(classifier, str) else set(classifier)
        load_encoder_weights(
            self.net, path, (lambda table: convert(table, self.net)) if convert else None, names
        )

    def _normalise_as(
        self, mean: tuple[float, ...], std: tuple[float, ...], in_channels: int
    ) -> None:
        gray = in_channels == 1
        self.mean, self.std = ((sum(v) / 3,) if gray else tuple(v) for v in (mean, std))

    def forward(self, x: Tensor) -> Tensor:
        """Images (M, in_channels, h, w) -> maps (M, c, h', w'), or vectors (M, d)."""
        if x.shape[1] != self.channels:
            x = x.expand(-1, self.channels, -1, -1)
        if self.size and x.shape[-2:] != (self.size, self.size):
            smaller = self.size < x.shape[-1]
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=smaller)
        if self.stages is not None:
            return self._dense(x, self.stages)
        z = self.net.forward_features(x)
        maps = isinstance(z, Tensor) and z.ndim == 4 and z.shape[1] == self.net.num_features
        return z if maps else self.readout(z)

    def _dense(self, x: Tensor, stages: Sequence[int]) -> Tensor:
        """Maps (M, c, h', w') of several stages behind each other, of the size of the largest."""
        found = self.net.forward_intermediates(x, list(stages), intermediates_only=True)
        size = max((maps.shape[-2:] for maps in found), key=lambda shape: shape[0] * shape[1])
        maps = [F.normalize(stage, dim=1) for stage in found]
        return torch.cat([F.interpolate(z, size, mode="bilinear") for z in maps], 1)

    def readout(self, maps: Tensor) -> Tensor:
        """(M, c, h, w) -> (M, d)."""
        if self.stages is not None:
            return maps.mean((-2, -1))
        vectors: Tensor = self.net.forward_head(maps, pre_logits=True)
        return vectors


def _stages(net: Any, model: str, strides: Sequence[int]) -> list[int]:
    """The last stage of a model at each of these strides, the finest first.

    Raises:
        InputError: for a stride that it does not have, or a model that shows no stages.
    """
    known = {int(stage["reduction"]): i for i, stage in enumerate(getattr(net, "feature_info", []))}
    if not known or not hasattr(net, "forward_intermediates"):
        raise InputError(f"timm model {model!r} gives no maps of its stages; leave strides out")
    wrong = [stride for stride in strides if stride not in known]
    if wrong or not strides:
        raise InputError(
            f"learner.encoder.strides must be some of {sorted(known)} for {model!r}, not "
            f"{list(strides)}"
        )
    return [known[stride] for stride in sorted(set(strides))]


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise InputError("this encoder needs timm: pip install graphfsl[timm]") from None


def is_timm_model(name: str) -> bool:
    """Whether timm is installed and knows a model."""
    try:
        return bool(_timm().is_model(name))
    except InputError:
        return False


def timm_models() -> list[str]:
    """The models that there are; none where timm is not installed."""
    try:
        return list(_timm().list_models())
    except InputError:
        return []


def native_size(model: str) -> int | None:
    """Pixels of a side of the images that a model of timm was trained on.

    None where timm does not know it.
    """
    timm = _timm()
    config = (
        timm.get_pretrained_cfg(model, allow_unregistered=True) if timm.is_model(model) else None
    )
    return int(config.input_size[-1]) if config is not None else None


def _from_hub(model: str, config: Any) -> str:
    """The file of a model's weights.

    As either hub left it on this machine, or from the Hugging Face hub.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache  # timm brings it

    kept = Path(torch.hub.get_dir(), "checkpoints", Path(config.url or "").name)
    if kept.is_file():
        return str(kept)
    if config.hf_hub_id and isinstance(
        found := try_to_load_from_cache(config.hf_hub_id, "model.safetensors"), str
    ):
        return found
    # or each of its attempts is told in two lines
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    require(config.hf_hub_id, f"timm has no pretrained weights for {model!r}; give weights=FILE")
    try:
        fetched: str = hf_hub_download(config.hf_hub_id, "model.safetensors")
    except Exception as error:  # of the hub, of the network, of the disk
        reason = f"{type(error).__name__}; give weights=FILE where there is no hub"
        raise InputError(f"the weights {config.hf_hub_id} cannot be fetched: {reason}") from None
    return fetched
