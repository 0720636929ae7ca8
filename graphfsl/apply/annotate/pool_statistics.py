"""What the page says of itself: audits, agreement, and whether more labels still change much."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphfsl.apply.annotate.answers import NONE, SKIP, Answers, Audit
from graphfsl.apply.annotate.pool_model import Predictions
from graphfsl.functional.binomial import binomial_interval

LEAST_WINDOW, PER_CLASS = 30, 2  # labels between two states that are compared
LITTLE = 0.01  # of the predictions: where fewer change, more labels do not help
KEPT = 40  # states


class Changes:
    """How much of the predictions the last labels changed."""

    def __init__(self) -> None:
        self._states: list[tuple[int, np.ndarray]] = []  # labels, class of each sample
        self._told: dict[str, Any] | None = None

    def take(self, predictions: Predictions | None, labels: int, free: np.ndarray) -> None:
        """A state of the predictions.

        Args:
            predictions: None where nothing is predicted.
            labels: how many there are.
            free: (n,) bool, the samples without a label.
        """
        if predictions is None:
            return
        numbers = np.array([int(name[1:]) for name in predictions.classes] + [-1], np.int32)
        kind = numbers[predictions.answer]
        window = max(LEAST_WINDOW, PER_CLASS * len(predictions.classes))
        before = [state for state in self._states if state[0] <= labels - window]
        self._told = None
        if before and free.any():
            count, old = before[-1]
            changed = float((kind != old)[free].mean())
            self._told = {
                "labels": labels - count,
                "changed": round(changed, 5),
                "samples": int(free.sum()),
                "helps_little": changed < LITTLE,
            }
        if not self._states or labels >= self._states[-1][0] + window // 5:
            self._states = [*self._states, (labels, kind)][-KEPT:]
        elif labels < self._states[-1][0]:  # undone
            self._states = [state for state in self._states if state[0] <= labels]

    def told(self) -> dict[str, Any] | None:
        """The share of predictions that the last labels changed; None before there are enough."""
        return self._told


def audit_told(answers: Answers, opened: Audit | None) -> dict[str, Any] | None:
    """The last audit: how far it is, and when it is whole what it says.

    The accuracy is that of the predictions when it began, of samples without a label; only blind
    answers to single samples count. What was skipped, or answered elsewhere before the audit asked,
    is left out, and said.
    """
    if not answers.audits:
        return None
    audit = answers.audits[max(answers.audits)]
    given = answers.audited.get(audit.event, {})
    told: dict[str, Any] = {
        "audit": audit.event,
        "asked": len(audit.guesses),
        "answered": len(given),
        "open": opened is not None and opened.event == audit.event,
    }
    if told["open"]:
        return told
    told |= {"right": 0, "judged": 0, "skipped": 0, "population": audit.population}
    told["elsewhere"] = len(answers.elsewhere(audit))
    for sample, answer in given.items():
        value = answers.resolved(answer.value)
        if value is None or value == SKIP:
            told["skipped"] += 1
            continue
        told["judged"] += 1
        guess = audit.guesses.get(sample)
        told["right"] += value == (NONE if guess == NONE else answers.resolved(guess))
    if told["judged"]:
        low, high = binomial_interval(told["right"], told["judged"])
        told |= {"accuracy": told["right"] / told["judged"], "low": low, "high": high}
    return told


def agreement(answers: Answers) -> dict[str, Any] | None:
    """How often two people said the same of a sample, each without the other's answer.

    Returns:
        `samples`, `same`, and Cohen's `kappa` over all pairs (None where all say one thing); None
        where no sample has two such answers.
    """
    pairs: list[tuple[str, str]] = []
    for opinions in answers.first.values():
        values = []
        for user in sorted(opinions):
            value = answers.resolved(opinions[user])
            if value is not None and value != SKIP:
                values.append(value)
        if len(values) > 1:
            pairs.append((values[0], values[1]))
    if not pairs:
        return None
    same = sum(a == b for a, b in pairs)
    by_chance = sum(
        sum(a == value for a, _ in pairs) * sum(b == value for _, b in pairs)
        for value in {value for pair in pairs for value in pair}
    )
    expected = by_chance / len(pairs) ** 2
    kappa = None if expected == 1 else (same / len(pairs) - expected) / (1 - expected)
    return {"samples": len(pairs), "same": same, "kappa": kappa}
