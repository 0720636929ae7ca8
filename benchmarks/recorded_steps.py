"""Steps a second of meta-learners on a GPU, each step taken anew or recorded and replayed.

    GRAPHFSL_DATA=ROOT python -m benchmarks.recorded_steps [--steps 60]

The experiments are those of the repository, on Omniglot; drawing episodes and the optimiser's step
count too. The losses of the first steps stand beside, which should be alike.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from graphfsl.data import Episodes
from graphfsl.experiment.experiment import Experiment
from graphfsl.experiment.run import prepare
from graphfsl.loops.trainer import Trainer

# experiments, and the episodes of a step
ROWS = (
    ("maml/finn2017_omniglot_5w1s", 32),
    ("maml/finn2017_omniglot_5w5s", 32),
    ("maml_plus_plus/antoniou2019_omniglot_5w1s", 8),
    ("lstm_meta_learner/ravi2017_omniglot_5w1s", 8),
)
SECOND_ORDER = ("learner.adapt.multi_step=0", "learner.adapt.first_order_share=0")


def measured(name: str, batch: int, steps: int, cuda_graph: bool) -> tuple[float, list[float]]:
    """The steps a second of the last third of a training, and the losses along it."""
    changes = SECOND_ORDER if name.startswith("maml_plus_plus") else ()
    experiment = Experiment.read(f"experiments/{name}.yaml", changes)
    with tempfile.TemporaryDirectory() as folder:
        run, base = prepare(experiment, Path(folder) / "run")
    episodes = Episodes(base, experiment.train_task, 0, run.transform)
    trainer = Trainer(steps, batch, device="cuda", cuda_graph=cuda_graph, log_every=steps // 3)
    lines = trainer.fit(run.learner, episodes, log=lambda line: None)
    return lines[-1]["episodes_per_s"] / batch, [line["loss"] for line in lines]


def main() -> None:
    """Print a line for each learner."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__)
    for name, batch in ROWS:
        for cuda_graph in (False, True):
            rate, losses = measured(name, batch, options.steps, cuda_graph)
            how = "recorded" if cuda_graph else "anew"
            told = ", ".join(f"{loss:.4f}" for loss in losses)
            print(f"{name}, {batch} tasks, {how}: {rate:.1f} steps a second, loss {told}")


if __name__ == "__main__":
    main()
