"""`graphfsl explain` of a run that answers with values: its answers beside the functions.

A learner that adapts is shown before and after inner steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.adapt import Adapt
from graphfsl.core.protocol import check_protocol
from graphfsl.data import Episodes
from graphfsl.experiment.measure import asked_of, check_shape
from graphfsl.experiment.run import Run
from graphfsl.loops.evaluation import evaluating
from graphfsl.report.function_figure import function_figure

SHOWN = 3  # functions
STEPS = (0, 1, 10)  # inner steps, as in figure 2 of Finn et al. 2017


def explain_values(
    trained: Run, changes: Sequence[str], episode: int
) -> tuple[dict[str, Any], str]:
    """The errors of a run on some functions, and a picture of its answers.

    Args:
        trained: the run.
        changes: overrides, such as episode.shot=5.
        episode: the first of the evaluation's episodes that are shown.

    Returns:
        What explanation.json says of them, and an SVG.

    Raises:
        InputError: for functions that are no curves, as images are none.
    """
    asked = asked_of(trained, changes)
    experiment, task = asked.experiment, asked.tasks[0]
    options = experiment.evaluation
    split = experiment.data.split(options.split)
    check_shape(trained.shape, task, split)
    check_protocol(asked.learner, task, options.unbalanced)
    device = experiment.trainer.fabric().device
    loader = Episodes(split, task, options.seed, trained.transform.plain(), device)
    batch, target = loader.batch(range(episode, episode + SHOWN))
    answers: dict[str, Tensor] = {}
    for name, further in shown_steps(asked.learner).items():
        learner = asked_of(trained, [*changes, *further]).learner.to(device)
        with evaluating(learner):
            answers[name] = learner(batch)
    metric, measure = task.metric
    errors = {name: measure.measure(found, target, batch) for name, found in answers.items()}
    facts = {
        "data": split.name,
        "task": str(task),
        "metric": metric,
        "values": {name: found.tolist() for name, found in errors.items()},
    }
    return facts, function_figure(batch, target, answers, SHOWN)


def shown_steps(learner: torch.nn.Module) -> Mapping[str, Sequence[str]]:
    """What each curve is called -> the overrides that make its learner.

    One that adapts is shown after as many of `STEPS` as its rule can take.
    """
    if not isinstance(learner, Adapt):
        return {"answer": ()}
    most = learner.rule.most_steps
    steps = [n for n in STEPS if most is None or n <= most]
    words = {0: "before", 1: "after 1 step"}
    return {words.get(n, f"after {n} steps"): [f"learner.adapt.steps_test={n}"] for n in steps}
