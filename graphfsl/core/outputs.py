"""Any module as a learner: what it returns for a sample is the answer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.prototypes import hide_absent
from graphfsl.io.errors import InputError, require

ANSWERS = ("classes", "values")


class Outputs(Head):
    """Take what the encoder returns for a sample as the scores of classes, or as values.

    With it a whole network, read-out included, stands in the place of an encoder, and learns a task
    where it is adapted.

    Args:
        answers: "classes", of which an episode may have fewer than the network has outputs, or
            "values".

    Shapes:
        score: outputs (B, n, C) -> (B, n, C).
    """

    family = "optimisation"
    reads_support = False

    def __init__(self, answers: str = "classes") -> None:
        super().__init__()
        require(answers in ANSWERS, f"answers must be classes or values, not {answers!r}")
        self.answers = answers
        self.class_order_sensitive = answers == "classes"

    def score(self, episode: Episode) -> Tensor:
        """The outputs (B, n, C), minus infinity for a class that the episode does not have."""
        outputs, values = episode.x, episode.values
        kind = "classes" if values is None else "values"
        if kind != self.answers:
            raise InputError(
                f"the module answers with {self.answers}, but the episode is of {kind}; give "
                f"head=Outputs({kind!r})"
            )
        if values is not None:
            return outputs
        require(
            outputs.shape[-1] >= episode.way,
            f"the module has {outputs.shape[-1]} outputs, but the episode is {episode.way}-way",
        )
        return hide_absent(outputs[..., : episode.way], episode.w)


def plain(module: nn.Module, answers: str = "classes") -> Pipeline:
    """A learner whose answers are the outputs of the module, which stays as it is.

    Args:
        module: samples (M, *S) -> outputs (M, C).
        answers: what the outputs are, "classes" or "values".
    """
    return Pipeline(module, head=Outputs(answers))


def is_plain(learner: nn.Module) -> bool:
    """Whether it is a module whose outputs are the answers."""
    return isinstance(learner, Pipeline) and isinstance(learner.head, Outputs)


def batch_norm_layers(net: nn.Module) -> list[str]:
    """The BatchNorm layers of a net, by the names that the option `params` of `Adapt` matches."""
    layers = [name for name, module in net.named_modules() if isinstance(module, _BatchNorm)]
    return [name.removeprefix("encoder.") if is_plain(net) else name for name in layers]
