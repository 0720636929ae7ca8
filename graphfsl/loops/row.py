"""`Row`: a result with all that a reader needs to trust it.

It is a line of a table, and an entry of results.json.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor

from graphfsl.core.task import Metric, Task
from graphfsl.data.tasks import DEFAULT, get

ACCURACY = "accuracy"
PER_UNIT = {ACCURACY: "accuracies"}  # metric -> what files call its value for each unit


@dataclass(frozen=True)
class MetricValue:
    """A metric's value as people are shown it: a share in percent.

    Args:
        value: the value.
        ci95: the half-width of its 95% interval; None for one unit.
        unit: "%" or the metric's own.
        more_is_better: false where less is.
    """

    value: float
    ci95: float | None = None
    unit: str = "%"
    more_is_better: bool = True

    @classmethod
    def of(cls, metric: Metric, measured: Tensor, episodes: int = 1) -> Self:
        """The value of what was measured; `episodes` of them form one statistical unit."""
        value, half, _ = metric.with_interval(measured, episodes)
        return cls.shown(value, half, metric.unit, metric.more_is_better)

    @classmethod
    def shown(cls, value: float, half: float | None, unit: str, more_is_better: bool) -> Self:
        """A value and a half-width in the metric's own numbers, as people are shown them."""
        interval = None if half is None else shown_of(half, unit)
        return cls(shown_of(value, unit), interval, unit, more_is_better)

    def __str__(self) -> str:
        """Such as "61.20 ± 0.45 %"."""
        return f"{self.number} {self.unit}".rstrip()

    @property
    def number(self) -> str:
        """The value in text without its unit: "61.20 ± 0.45"."""
        text = text_of(self.value, self.unit)
        if self.ci95 is None or not math.isfinite(self.ci95):
            return text
        return f"{text} ± {text_of(self.ci95, self.unit)}"


def shown_of(value: float, unit: str) -> float:
    """A number of a metric as people are shown it, scaled and rounded."""
    return rounded(scale_of(unit) * value, unit)


def rounded(value: float, unit: str) -> float:
    """A number rounded for people: to three decimals of a percentage, or six digits of others."""
    return round(value, 3) if unit == "%" else float(f"{value:.6g}")


def text_of(value: float, unit: str) -> str:
    """A number as people are shown it, in text: "61.20", or "0.01234" of another unit than %."""
    return f"{value:.2f}" if unit == "%" else f"{value:.4g}"


def p_text(p: float) -> str:
    """A p-value as people are shown it: "< 0.001", "0.012", "0.34"."""
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_is(p: float, name: str = "p") -> str:
    """A p-value in a sentence: "p < 0.001", "p = 0.012"."""
    text = p_text(p)
    return f"{name} {text}" if text.startswith("<") else f"{name} = {text}"


def scale_of(unit: str) -> int:
    """The factor of a metric's own numbers for people: a share becomes percent."""
    return 100 if unit == "%" else 1


@dataclass(frozen=True)
class Row:
    """A result of a learner in a task.

    Args:
        task: the kind of task; asked: its fields.
        data: the split, such as "omniglot/test". setting: inductive, transductive, semi-supervised
            or active, or two of them. traits, batch_norm: of the learner.
        metrics: the task's, the first one first. values: of that one, in its own numbers, for each
            statistical unit.
        config, commit, command, environment, device: what made it.
        steps, paper_steps: of training, and of the paper's.
        published, source, difference: what a paper states, where, and how far this is from it.
        diagnosis: what a report shows beside the metrics (`Task.diagnose`).
        unfinished: how far the training is, where it has not ended. setting_from: whose task it is,
            where it was asked on other data.
        seeds, spread, seed_values: of a row over several seeds, their number, the standard
            deviation of their values, and these.
        further: of a cell of a study, other metrics that it tells of: name -> their values for each
            statistical unit.
        run, cell, best, baseline: where it stands in a report or a study.
        others: what a file says of it beside all this, such as a note of the user's.
    """

    data: str
    asked: Mapping[str, Any]
    setting: str
    metrics: Mapping[str, MetricValue]
    values: Sequence[float] = ()
    task: str = DEFAULT
    method: str = ""
    traits: Sequence[str] = ()
    batch_norm: str | None = None
    episodes: int | None = None
    seed: int | None = None
    seconds: float | None = None
    config: str | None = None
    commit: str | None = None
    steps: int | None = None
    paper_steps: int | None = None
    device: str | None = None
    published: float | None = None
    source: str | None = None
    difference: float | None = None
    command: str | None = None
    environment: Mapping[str, str] | None = None
    diagnosis: Mapping[str, Any] = field(default_factory=dict)
    unfinished: str | None = None
    setting_from: str | None = None
    seeds: int | None = None
    spread: float | None = None
    seed_values: Sequence[float] | None = None
    further: Mapping[str, Sequence[float]] | None = None
    run: str | None = None
    cell: Mapping[str, Any] | None = None
    best: bool | None = None
    baseline: bool | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The name of the first metric."""
        return next(iter(self.metrics))

    @property
    def value(self) -> MetricValue:
        """The first metric."""
        return self.metrics[self.metric]

    @property
    def score(self) -> float:
        """The first metric, with its sign changed where less is better."""
        return self.value.value if self.value.more_is_better else -self.value.value

    def under(self, metric: str) -> Row:
        """The row as one of a further metric, which then stands first."""
        assert self.further is not None
        first = {metric: self.metrics[metric]}
        return self.replace(metrics=first | dict(self.metrics), values=self.further[metric])

    def replace(self, **changes: Any) -> Row:
        """A copy with these fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The mapping that files hold of it.

        The task's fields and the first metric stand among the others.
        """
        name, value = self.metric, self.value
        out: dict[str, Any] = {"method": self.method, "task": self.task, "data": self.data}
        out |= self.asked
        out |= {"setting": self.setting, "traits": list(self.traits), "batch_norm": self.batch_norm}
        out |= {} if name == ACCURACY else {"metric": name}
        out |= {name: value.value, "ci95": value.ci95}
        out["metrics"] = {k: dataclasses.asdict(v) for k, v in self.metrics.items()}
        for key in _ALWAYS:
            out[key] = getattr(self, key)
        out |= self.diagnosis
        out |= {key: own for key in _SOMETIMES if (own := getattr(self, key)) is not None}
        if self.seed_values is not None:
            out[f"seed_{PER_UNIT.get(name, 'values')}"] = list(self.seed_values)
        share = value.unit == "%"
        out[PER_UNIT.get(name, "values")] = [round(v, 6) if share else v for v in self.values]
        return out | {key: value for key, value in self.others.items() if key not in out}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Row:
        """A row of a file.

        Raises:
            KeyError: for one that lacks what every row has.
        """
        task = row.get("task", DEFAULT)
        fields = {f.name for f in dataclasses.fields(get(task))}
        name = row.get("metric", ACCURACY)
        metrics = _metrics_of(row, name)
        per_unit = PER_UNIT.get(name, "values")
        per_seed = f"seed_{per_unit}"
        asked = {key: value for key, value in row.items() if key in fields}
        diagnosis = {key: row[key] for key in get(task).diagnoses if key in row}
        plain = {key: row[key] for key in (*_ALWAYS, *_SOMETIMES) if key in row}
        known = {*_NAMED, name, per_unit, per_seed, *asked, *diagnosis, *plain}
        return cls(
            data=row["data"],
            asked=asked,
            setting=row["setting"],
            metrics=metrics,
            values=row.get(per_unit) or (),
            task=task,
            method=row.get("method", ""),
            traits=row.get("traits") or (),
            batch_norm=row.get("batch_norm"),
            diagnosis=diagnosis,
            seed_values=row.get(per_seed),
            others={key: value for key, value in row.items() if key not in known},
            **plain,
        )


def _metrics_of(row: Mapping[str, Any], name: str) -> dict[str, MetricValue]:
    """The metrics of a file's row, the one of this name first."""
    further = {key: MetricValue(**facts) for key, facts in (row.get("metrics") or {}).items()}
    first = further.pop(name, MetricValue(0.0))
    half = row.get("ci95")
    known_half = half if half is not None and math.isfinite(half) else None
    # what people may have changed in a file stands at its top
    first = dataclasses.replace(first, value=row[name], ci95=known_half)
    return {name: first, **further}


def task_of(row: Row) -> Task:
    """The task that a row was asked; a field that it does not name is as by default."""
    return get(row.task)(**row.asked)


def title_of(row: Row) -> str:
    """The title of the task that a row was asked: "5-way 1-shot"."""
    return task_of(row).title


def as_row(row: Row | Mapping[str, Any]) -> Row:
    """A row, also where it is given as the mapping that a file holds."""
    return row if isinstance(row, Row) else Row.from_dict(row)


# fields that every line of a file has, empty or not
_ALWAYS = (
    "episodes",
    "seed",
    "seconds",
    "config",
    "commit",
    "steps",
    "paper_steps",
    "device",
    "published",
    "source",
    "difference",
    "command",
    "environment",
)
# fields that only a line which has them names
_SOMETIMES = (
    "unfinished",
    "setting_from",
    "seeds",
    "spread",
    "further",
    "run",
    "cell",
    "best",
    "baseline",
)
# further keys of a file that `to_dict` writes
_NAMED = ("method", "task", "data", "setting", "traits", "batch_norm", "metric", "metrics", "ci95")
