"""The tests; their folders are those of the package. `support` holds what several of them use."""
