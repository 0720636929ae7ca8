"""A pool of images labelled from a handful."""
