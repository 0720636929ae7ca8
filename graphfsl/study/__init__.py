"""Studies: every combination of the levels of some axes, compared."""
