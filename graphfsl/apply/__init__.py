"""Trained learners at work on a user's own data."""
