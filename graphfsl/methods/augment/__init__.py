"""Augmentations, which give an episode more support nodes: the slot `learner.augment`."""
