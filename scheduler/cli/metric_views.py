"""What `overspill metrics` shows: a row for each reading, and of one metric each of its samples."""

from __future__ import annotations

from pydantic import Field
from rich.console import Group, RenderableType
from rich.text import Text

from scheduler.cli.api import Reply
from scheduler.cli.gathered import age
from scheduler.cli.output import UNKNOWN
from scheduler.cli.tables import wide_table

_STATE_STYLE = {"ok": "green", "stale": "yellow", "absent": "dim", "failed": "red"}
_SAMPLES_SHOWN = 200


class SampleReply(Reply):
    labels: dict[str, str] = Field(default_factory=dict)
    value: float
    at: float


class ReadingReply(Reply):
    cluster: str
    metric: str
    unit: str
    state: str
    source: str
    asked_at: float
    newest_at: float | None = None
    error: str | None = None
    sample_count: int = 0
    samples: tuple[SampleReply, ...] = ()


class MetricsReply(Reply):
    now: float
    readings: tuple[ReadingReply, ...] = ()
    samples_left_out: int = 0


def view(reply: MetricsReply, *, each: bool) -> RenderableType:
    """`each`: every sample in a row of its own; else the readings, each with least, mean and most of its samples."""
    if not reply.readings:
        return Text("no readings yet; members without `metrics:` in the federation file have none", style="yellow")
    parts = [_samples(reply) if each else _readings(reply)]
    if reply.samples_left_out:
        parts.append(Text(f"{reply.samples_left_out} samples left out; filter by --cluster or --metric", style="dim"))
    return Group(*parts)


def _readings(reply: MetricsReply) -> RenderableType:
    table = wide_table(
        "Metrics",
        ("cluster", "left"),
        ("metric", "left"),
        ("series", "right"),
        ("min", "right"),
        ("mean", "right"),
        ("max", "right"),
        ("state", "left"),
        ("age", "right"),
    )
    for one in reply.readings:
        if one.state == "absent":
            continue
        values = [sample.value for sample in one.samples]
        # Of a reading whose samples were left out nothing is told: a mean of some would pass for one of all.
        whole = values if len(values) == one.sample_count else []
        spread = (min(whole), sum(whole) / len(whole), max(whole)) if whole else ()
        table.add_row(
            Text(one.cluster),
            Text(one.metric),
            str(one.sample_count) if one.state in ("ok", "stale") else UNKNOWN,
            *([amount(value, one.unit) for value in spread] or [UNKNOWN] * 3),
            _state(one.state),
            _age(one, reply.now),
        )
    return Group(table, *_errors(reply), *_absent(reply), Text(), *_sources(reply))


def _absent(reply: MetricsReply) -> list[Text]:
    """A line for each member: what its source answered to, and has no such series."""
    absent: dict[str, list[str]] = {}
    for one in reply.readings:
        if one.state == "absent":
            absent.setdefault(one.cluster, []).append(one.metric)
    return [
        Text(f"{cluster}: {len(names)} absent: {', '.join(names)}", style="dim") for cluster, names in absent.items()
    ]


def _samples(reply: MetricsReply) -> RenderableType:
    table = wide_table(
        "Samples", ("cluster", "left"), ("labels", "left"), ("value", "right"), ("state", "left"), ("age", "right")
    )
    shown = left = 0
    for one in reply.readings:
        for sample in one.samples:
            if shown == _SAMPLES_SHOWN:
                left += 1
                continue
            shown += 1
            labels = " ".join(f"{key}={value}" for key, value in sample.labels.items())
            table.add_row(
                Text(one.cluster),
                Text(labels or UNKNOWN),
                amount(sample.value, one.unit),
                _state(one.state),
                age(sample.at, reply.now),
            )
        if not one.samples:
            table.add_row(Text(one.cluster), UNKNOWN, UNKNOWN, _state(one.state), _age(one, reply.now))
    rest = [Text(f"and {left} more samples (see --json)", style="dim")] if left else []
    return Group(table, *rest, Text(), *_sources(reply), *_errors(reply))


def _age(one: ReadingReply, now: float) -> str:
    """Of its newest sample; without any, since when that is known."""
    return age(one.newest_at if one.newest_at is not None else one.asked_at, now)


def _state(state: str) -> Text:
    return Text(state, style=_STATE_STYLE.get(state, ""))


def _sources(reply: MetricsReply) -> list[Text]:
    """A line for each source of each member, however many metrics came from it."""
    seen: dict[tuple[str, str], tuple[float, int]] = {}
    for one in reply.readings:
        at, count = seen.get((one.cluster, one.source), (0.0, 0))
        seen[one.cluster, one.source] = max(at, one.asked_at), count + 1
    return [
        Text(f"{cluster}: {count} from {source}, asked {age(at, reply.now)}", style="dim")
        for (cluster, source), (at, count) in sorted(seen.items())
    ]


def _errors(reply: MetricsReply) -> list[Text]:
    """Each failure once for each member, with how many readings it cost."""
    failures: dict[tuple[str, str], list[str]] = {}
    for one in reply.readings:
        if one.error and one.state == "failed":
            failures.setdefault((one.cluster, one.error), []).append(one.metric)
    return [
        Text(f"{cluster}: {metrics[0] if len(metrics) == 1 else f'{len(metrics)} metrics'}: {error}", style="red")
        for (cluster, error), metrics in sorted(failures.items())
    ]


_BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def amount(value: float, unit: str) -> str:
    """A value with its unit as people read it."""
    match unit:
        case "ratio":
            return f"{value * 100:.1f}%"
        case "bytes":
            return _scaled(value, 1024.0, _BYTES)
        case "hertz":
            return _scaled(value, 1000.0, ("Hz", "kHz", "MHz", "GHz"))
        case "seconds":
            return f"{value * 1000:.4g} ms" if abs(value) < 1 else f"{value:,.2f} s"
        case "watts":
            return f"{value:,.0f} W"
        case "celsius":
            return f"{value:.0f} C"
        case "joules":
            return f"{value:,.6g} J"
        case "count" | "code":
            return f"{value:,.6g}"
        case "per_second":
            return f"{value:,.4g}/s"
    return f"{value:,.6g} {unit}"


def _scaled(value: float, step: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if abs(value) < step:
            return f"{value:.4g} {unit}"
        value /= step
    return f"{value:.4g} {units[-1]}"
