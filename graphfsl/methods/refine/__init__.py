"""Refinements, which make better scores of a head's scores: the slot `learner.refine`."""
