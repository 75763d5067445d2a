"""`overspill incidents`: look at incidents and what is done about them; approve an action."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Incidents, and what is done about them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
Url = Annotated[str, typer.Option("--url", help="Where the daemon listens.", envvar="OVERSPILL_URL")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Config = Annotated[Path, typer.Option("--config", help="The federation file: how the hub is reached.")]
IncidentId = Annotated[str, typer.Argument(help="Its id.")]
_DEFAULT_URL = "http://127.0.0.1:8080"


@app.command("list")
def list_command(
    url: Url = _DEFAULT_URL,
    as_json: AsJson = False,
    history: Annotated[bool, typer.Option("--history", help="Those of the past, and what came of them.")] = False,
    days: Annotated[float, typer.Option("--days", min=0.01, max=3650, help="With --history: how far back.")] = 30.0,
) -> int:
    """All incidents, open ones first, and what is done about each, or why nothing is."""
    from scheduler.cli import incident_report

    if history:
        return incident_report.show_past(url, days, as_json=as_json)
    return incident_report.show_all(url, as_json=as_json)


@app.command("show")
def show_command(incident: IncidentId, url: Url = _DEFAULT_URL, as_json: AsJson = False) -> int:
    """One incident: what was done about it, and what stands in the way of more."""
    from scheduler.cli import incident_report

    return incident_report.show_one(url, incident, as_json=as_json)


@app.command("approve")
def approve_command(
    incident: IncidentId,
    config: Config,
    action: Annotated[str, typer.Option("--action", help="Which. Default: the one that waits for it.")] = "",
    url: Url = _DEFAULT_URL,
) -> int:
    """Let the daemon take an action that waits for a person. Written on the hub with your own credentials."""
    from scheduler.cli import incident_report, switches

    wanted = action or incident_report.waiting(url, incident)
    return switches.approve(config, incident, wanted)
