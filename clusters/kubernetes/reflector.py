"""Keeps a receiver in step with one resource of one cluster: list once, then watch, resuming as long as one can.

The cluster may vanish, lie or send garbage: each failure is counted, told to the receiver and followed by a pause that
grows with jitter; nothing but cancellation ends the loop. What it said while it answered garbage may be wrong although
nothing showed it, and is not told a second time where nothing changes: it is listed once more when it is sound again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from clusters.kubernetes.codec import object_name
from scheduler.model.errors import (
    AuthError,
    ExternalError,
    GoneError,
    NotFoundError,
    NotServedError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock, KubeApi, ObjectList, RawObject, Resource, WatchEvent

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_QUICK_END_SECONDS: Final = 1.0
"""A watch that ends sooner and brought nothing is followed by a pause, so that a broken server is not hammered."""
_SILENT_SECONDS: Final = 120.0
"""So long a watch brings at least a bookmark, from a cluster that sends any; one that did not may hang."""
_HEALTHY_SECONDS: Final = 10.0
"""A watch that lived so long shows that earlier failures are over, even when it was silent."""
_LOST: Final = frozenset({"Unreachable", "Lost"})
"""Codes of calls that brought no answer: nothing false was said."""


class Sink(Protocol):
    """What a reflector feeds. Called on the event loop; must return soon and take any JSON object."""

    def on_replace(self, objects: tuple[RawObject, ...]) -> None:
        """All objects there are now, after a full list: what is not among them is gone."""
        ...

    def on_rewind(self) -> None:
        """The cluster's history went back (restored from a backup, or it lied before): no version known so far may
        outrank those of the list that follows."""
        ...

    def on_event(self, event: WatchEvent) -> None:
        """ADDED, MODIFIED or DELETED."""
        ...

    def on_absent(self, error: str) -> None:
        """The cluster answers, but has never served this resource: its definition is not installed (yet)."""
        ...

    def on_state(self, reachable: bool, error: str | None) -> None:
        """Told when it changes, and for every new error text."""
        ...


@dataclass(slots=True)
class Counters:
    lists: int = 0
    watches: int = 0
    events: int = 0
    errors: int = 0
    """Failed lists and watches, and objects that were refused as malformed."""


class Reflector:
    """One list and watch loop. `run()` it in a TaskGroup."""

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        sink: Sink,
        *,
        wall: Clock,
        jitter: Callable[[], float],
        on_failure: Callable[[ExternalError], None] = lambda error: None,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        optional: bool = False,
    ) -> None:
        """`optional`: it may be taken away again while the cluster lives (a custom resource); that is told as it is
        when it was never there, or may not be read.

        `wall`: the machine's own clock, not the federation's: pauses are about real servers. `jitter`: uniform in
        [0, 1), such as `random.random`. `on_failure` is told of every list and watch that fails, also of those that
        are resumed at once; not of an absent resource."""
        self._api = api
        self._resource = resource
        self._sink = sink
        self._wall = wall
        self._jitter = jitter
        self._on_failure = on_failure
        self._selection = {
            "namespace": namespace,
            "label_selector": label_selector,
            "field_selector": field_selector,
        }
        self._optional = optional
        self._version: str | None = None
        self._newest = 0
        """The highest version that was ever seen, as a number."""
        self._failures = 0
        self._watch_began: Instant | None = None
        self._bookmarks = False
        """Whether the cluster sends any."""
        self._garbage_at: Instant | None = None
        """When it last answered what makes no sense; None: not since the list that followed."""
        self._told: tuple[bool, str | None] | None = None
        self.counters = Counters()
        self.synced = False
        """True from the first full list on."""
        self.last_event_at: Instant | None = None
        """Wall time of the last list, event or bookmark."""

    async def run(self) -> None:
        """For ever, until cancelled."""
        while True:
            try:
                if self._version is None:
                    await self._list()
                pause = await self._watch()
            except ExternalError as error:
                pause = self._failed(error)
            if pause > 0:
                await self._wall.sleep(pause)

    async def _list(self) -> None:
        found: ObjectList = await self._api.list(self._resource, **self._selection)
        self.counters.lists += 1
        for obj in found.items:
            if not _is_sound(obj):
                # What a list lacks counts as gone, so one that is not understood whole must not be believed at all.
                place = f"{self._resource.plural} {object_name(obj)}"
                raise TransientError(f"{place}: no name or uid; the list is refused", code="Malformed")
        self._version = found.resource_version
        version = _number(self._version)
        if version < self._newest:
            self._sink.on_rewind()
        self._newest = version
        self.last_event_at = self._wall.now()
        self._tell(True, None)
        self.synced = True
        self._sink.on_replace(found.items)

    async def _watch(self) -> float:
        """One watch, to its end. Seconds to pause before the next one."""
        self.counters.watches += 1
        self._watch_began, events = self._wall.now(), 0
        stream = self._api.watch(self._resource, resource_version=self._version or "", **self._selection)
        try:
            async for event in stream:
                self._take(event)
                events += 1
                if self._is_sound_again():
                    break
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
        self._tell(True, None)
        lived = self._wall.now() - self._watch_began
        if self._is_sound_again():
            self._garbage_at, self._version = None, None
            return 0.0
        if events == 0 and lived < _QUICK_END_SECONDS:
            return self._pause(None)
        if events == 0 and lived >= _SILENT_SECONDS and self._bookmarks:
            # What happened meanwhile may never have been told: a list is the way to know.
            self.counters.errors += 1
            self._version = None
            text = f"{self._resource.plural}: the watch was silent for {lived:.0f} s, not even a bookmark; listed anew"
            self._on_failure(TransientError(text, code="Silent"))
        self._failures = 0
        return 0.0

    def _is_sound_again(self) -> bool:
        return self._garbage_at is not None and self._wall.now() - self._garbage_at >= _HEALTHY_SECONDS

    def _failed(self, error: ExternalError) -> float:
        """Count a failure, tell it, forget what may be wrong by now. Seconds to pause."""
        self.counters.errors += 1
        absent = isinstance(error, NotFoundError | NotServedError)
        if (absent and not self.synced) or (self._optional and (absent or isinstance(error, AuthError))):
            # Else only before the first list: later on, a 404 is a broken server, not an empty one.
            self._version, self._watch_began = None, None
            self._tell(True, str(error))
            self._sink.on_absent(str(error))
            return self._pause(error)
        self._on_failure(error)
        if error.code not in _LOST and not isinstance(error, GoneError | ThrottledError):
            self._garbage_at = self._wall.now()
        began, self._watch_began = self._watch_began, None
        if began is not None and self._wall.now() - began >= _HEALTHY_SECONDS:
            self._failures = 0
        first_break = began is not None and self._failures == 0
        if isinstance(error, GoneError | RefusedError):
            # A compacted history, or a server restored from a backup.
            self._version = None
        if not first_break:
            # Streams break now and then and are resumed; told, and listed anew, is what fails twice in a row. The list
            # is what shows that the cluster is back: a watch may stay silent for minutes.
            self._version = None
            self._tell(False, str(error))
        elif isinstance(error, GoneError):
            self._failures = 1
            return 0.0
        return self._pause(error)

    def _take(self, event: WatchEvent) -> None:
        metadata = event.object.get("metadata")
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        self._failures = 0
        self.last_event_at = self._wall.now()
        self._tell(True, None)
        if isinstance(version, str) and version:
            number = _number(version)
            if number < self._newest:
                raise GoneError(f"{self._resource.plural}: the watch went back from version {self._newest} to {number}")
            self._version, self._newest = version, number
        if event.type == "BOOKMARK":
            self._bookmarks = True
            return
        self.counters.events += 1
        if _is_sound(event.object):
            self._sink.on_event(event)
            return
        self.counters.errors += 1
        self._garbage_at = self._wall.now()
        self._tell(True, f"{self._resource.plural} {object_name(event.object)}: no name or uid; ignored")

    def _tell(self, reachable: bool, error: str | None) -> None:
        if self._told != (reachable, error):
            self._told = (reachable, error)
            self._sink.on_state(reachable, error)

    def _pause(self, error: ExternalError | None) -> float:
        """Full jitter, doubling with each failure in a row; at least what a throttling server asks for."""
        ceiling = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 10))
        self._failures += 1
        asked = error.retry_after_seconds if isinstance(error, ThrottledError) else None
        return (asked or 0.0) + ceiling * self._jitter()


def _is_sound(obj: RawObject) -> bool:
    """Whether it can be told apart from others at all; what it says is for the receiver to judge."""
    metadata = obj.get("metadata") if isinstance(obj, dict) else None
    return isinstance(metadata, dict) and isinstance(metadata.get("name"), str) and isinstance(metadata.get("uid"), str)


def _number(version: str) -> int:
    return int(version) if version.isdecimal() and len(version) < 30 else 0
