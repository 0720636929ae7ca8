"""BatchNorm averages of the images that a learner is asked about, in place of its training's.

Li, Wang, Shi, Liu, Hou 2016 (AdaBN), https://arxiv.org/abs/1603.04779
"""

from __future__ import annotations

import copy

import torch

from graphfsl.core.batchnorm import BatchNorm
from graphfsl.core.encoder import block_size, call_encoder
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.split import Split
from graphfsl.data.transforms import Transform
from graphfsl.io.errors import InputError
from graphfsl.loops.encode import encoding_device

__all__ = ["with_target_statistics"]


@torch.no_grad()
def with_target_statistics(learner: Learner, split: Split, transform: Transform) -> Learner:
    """A copy of a learner whose encoder normalises by the averages of a split's images.

        mu <- mean of x over the target's images and places,  sigma^2 <- its variance

    in each BatchNorm layer, one pass over all images in random order. No label is read. As the
    averages are of the queries too, its answers are transductive.

    Args:
        learner: a pipeline under the BatchNorm policy `running`.
        split: the target's images.
        transform: their normalisation.

    Raises:
        InputError: where the learner has no such averages, and for features.

    Deviations:
        The layers are measured together, each on what the layers before it make of a batch by the
        batch's own statistics; the paper does one layer after the other, of a network whose
        classes are those of the target.
    """
    if not (isinstance(learner, Pipeline) and learner.fixed and split.x.ndim == 4):
        raise InputError(
            "evaluation.target_statistics replaces the BatchNorm averages by which each image is "
            "encoded alone; it needs images, learner.batch_norm=running and no inner loop"
        )
    told: Pipeline = copy.deepcopy(learner)
    norms = [m for m in told.encoder.modules() if isinstance(m, BatchNorm)]
    if not norms:
        raise InputError(
            "evaluation.target_statistics changes nothing: the encoder has no BatchNorm; leave it "
            "out"
        )
    momenta = [norm.momentum for norm in norms]
    told.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the averages are of all batches alike
        norm.train()
    device = encoding_device(told, None)
    # a batch in the order of the split would be of one class
    order = torch.randperm(len(split.x), generator=torch.Generator().manual_seed(0))
    for ids in order.split(block_size(told.encoder, split.shape, device)):
        images = split.gather(ids).to(device)
        call_encoder(told.encoder, transform.plain()(images), None)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    told.knows_target = True
    return told.train(learner.training)
