"""Masks of a user's own images, from a few that have masks, or from clicks."""
