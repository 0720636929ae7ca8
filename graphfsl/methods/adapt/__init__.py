"""Inner loops, which adapt a learner to each episode: the slot `learner.adapt`."""
