"""Boxes in a user's own images, from a few that have boxes."""
