"""Heads, which score an episode of features: the slot `learner.head`."""
