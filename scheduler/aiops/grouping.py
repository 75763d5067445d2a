"""From findings to incidents: one cause, one incident.

    findings -> signals (repeats folded) -> joined to an open incident | held together by a scope | alone

Each round, signals first join incidents that they belong to. Of what is left, and of incidents that are still young,
the scope that explains most is taken, again and again: a workload whose nodes mostly show application errors or
symptoms, or a rack, zone, pool, cluster or provider most of whose nodes show the same. Young incidents inside such a
scope become part of the new one. What remains is an incident of its own GPU, node, workload, pool or cluster, unless it
is only `info`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scheduler.aiops.belonging import home_of
from scheduler.aiops.explaining import singles, widest
from scheduler.aiops.findings import ANOMALY, Finding
from scheduler.aiops.incidents import RESOLVED, Incident, Incidents, Signal, SignalKey, fold, joined, placed, with_state
from scheduler.aiops.open_incidents import OpenIncidents, Settings
from scheduler.aiops.scoping import PLACES
from scheduler.aiops.topology import NETWORK, WORKLOAD, Topology
from scheduler.model.ids import Instant

__all__ = ["Settings", "observe"]


def observe(
    incidents: Incidents, reported: Sequence[Finding], fleet: Topology, now: Instant, settings: Settings | None = None,
    *, over: frozenset[SignalKey] = frozenset(),
) -> Incidents:  # fmt: skip
    """All incidents after one round. Pure, and the same for any order of the findings and for repeated ones, but for
    their counts. `over`: signals that whoever told of them says are over; an incident of nothing else is resolved."""
    rules = settings or Settings()
    round_ = _Round(incidents, fleet, now, rules, over)
    for signal in fold(reported):
        round_.take(signal)
    round_.group()
    return round_.finish()


class _Round:
    """Working memory of one call of `observe`."""

    def __init__(
        self, incidents: Incidents, fleet: Topology, now: Instant, settings: Settings, over: frozenset[SignalKey]
    ) -> None:
        self._before, self._now, self._over = incidents, now, over
        self._quiet_seconds = settings.quiet_seconds
        self._book = OpenIncidents(incidents, fleet, now, settings)
        self._loose: dict[SignalKey, Signal] = {
            signal.key: signal
            for signal in incidents.pending
            if now - signal.last_at <= settings.window_seconds and signal.key not in over
        }

    def take(self, signal: Signal) -> None:
        """Into the incident that it is known of or belongs to, else among the loose ones."""
        known = self._loose.pop(signal.key, None)
        whole = signal if known is None else joined(known, signal)
        home = self._book.owner.get(signal.key) or home_of(whole, self._book)
        if home is None:
            self._loose[signal.key] = whole
        else:
            self._book.attach(home, whole)

    def group(self) -> None:
        """Loose signals and young incidents into places; then single faults of the hardware, so that what follows from
        them joins them; then into workloads; then what is left one by one, and what only supports (info) to it."""
        self._gather((*PLACES, NETWORK))
        self._split(local=True)
        self._settle()
        self._gather((WORKLOAD,))
        self._split(local=False)
        self._settle()

    def _gather(self, kinds: Sequence[str]) -> None:
        while (found := widest(kinds, self._loose, self._book)) is not None:
            scope, keys, parts = found
            signals = [self._loose.pop(key) for key in sorted(keys) if key in self._loose]
            for part in sorted(parts):
                signals.extend(self._book.members(part).values())
            home = self._book.create(scope, signals)
            for part in sorted(parts):
                self._book.merge(part, home)

    def _split(self, *, local: bool) -> None:
        for scope, signals in singles(self._loose, local=local):
            for one in signals:
                self._loose.pop(one.key)
            self._book.create(scope, signals)

    def _settle(self) -> None:
        for key in sorted(self._loose):
            home = home_of(self._loose[key], self._book)
            if home is not None:
                self._book.attach(home, self._loose.pop(key))

    def finish(self) -> Incidents:
        changed = [*self._book.merged.values()]
        for name in sorted(self._book.open):
            incident = self._book.open[name]
            if name in self._book.changed:
                incident = self._book.described(incident)
            if incident.state != RESOLVED and (why := self._ended(incident)):
                incident = with_state(incident, RESOLVED, self._now, why)
            if incident is not self._book.open[name] or name in self._book.changed:
                changed.append(incident)
        reopened = {one.id for one in changed}
        closed = tuple(one for one in self._before.closed if one.id not in reopened)
        before = replace(self._before, closed=closed)
        return placed(before, changed, [self._loose[key] for key in sorted(self._loose)])

    def _ended(self, incident: Incident) -> str:
        """Why it is over; "": it is not."""
        told = [key for key in self._book.members(incident.id) if not key[0].startswith(ANOMALY)]
        if told and self._over.issuperset(told):
            return "whoever told of it says that it is over"
        quiet = self._now - max(incident.last_at, self._before.watched_since) > self._quiet_seconds
        return "nothing more was seen of it" if quiet else ""
