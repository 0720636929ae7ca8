"""Rules that say which samples to label next: the slot `learner.acquire`."""
