"""Graph layers, which rewrite the features of an episode: the slot `learner.graph`."""
