"""One data set, one file with `load(split, …) -> Split`; a new file here is a new `data.name`."""
