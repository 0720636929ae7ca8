"""What says which nodes are of no class: the slot `learner.novelty`."""
