"""An experiment: its file, its parts, its run directory, its results."""
