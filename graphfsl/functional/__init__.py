"""Pure batch-first mathematics: no state, no input or output; each function exists once."""
