"""What several test files use and `graphfsl.testing` does not offer. No test stands here."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository
