"""`overspill metrics`: the latest readings of the members' metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.cli.api import parse
from scheduler.cli.gathered import answer
from scheduler.cli.metric_views import MetricsReply, view
from scheduler.cli.output import console, print_json

if TYPE_CHECKING:
    from scheduler.daemon.gathering.gather_once import OneLook


def run(cluster: str, metric: str, url: str, config: Path | None, *, as_json: bool) -> int:
    """Show the readings of `cluster` and `metric` ("": of all).

    Raises: CommandError or OverspillError, in one line, when there is none of that name or nobody to ask.
    """

    async def look(once: OneLook) -> Any:
        once.gathered.metrics(cluster, metric)  # refuses names of which there are none, before anybody is asked
        await once.ask_metrics(cluster)
        return once.gathered.metrics(cluster, metric)

    filters = {key: value for key, value in (("cluster", cluster), ("metric", metric)) if value}
    found = answer(url, config, "/api/v1/metrics", look, **filters)
    if as_json:
        print_json(found)
    else:
        console().print(view(parse(MetricsReply, found), each=bool(metric)))
    return 0
