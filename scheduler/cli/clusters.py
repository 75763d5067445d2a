"""`overspill clusters`: the members, and where the federation file and their clouds differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.output import CommandError, console, print_json

if TYPE_CHECKING:
    from scheduler.daemon.gathering.gather_once import OneLook

app = typer.Typer(
    help="The member clusters, as the federation file, their clouds and their own APIs describe them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)

_DEFAULT_URL = "http://127.0.0.1:8080"
Url = Annotated[str, typer.Option("--url", help="Where the daemon listens.", envvar="OVERSPILL_URL")]
Config = Annotated[Path | None, typer.Option("--config", help="A federation file: look once, without asking a daemon.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_command(url: Url = _DEFAULT_URL, config: Config = None, as_json: AsJson = False) -> int:
    """Every member: whether it answers, its nodes and GPUs, and how far away it is."""
    from scheduler.cli import cluster_views
    from scheduler.cli.api import parse
    from scheduler.cli.gathered import answer

    async def look(once: OneLook) -> Any:
        await once.ask_clusters()
        return once.gathered.clusters()

    found = answer(url, config, "/api/v1/clusters", look)
    if as_json:
        print_json(found)
    else:
        console().print(cluster_views.list_view(parse(cluster_views.ClustersReply, found)))
    return 0


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="Of a member, as `overspill clusters list` shows it.")],
    url: Url = _DEFAULT_URL,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """One member with its pools, and each difference between the federation file and the cloud."""
    from urllib.parse import quote

    from scheduler.cli import cluster_views
    from scheduler.cli.api import parse
    from scheduler.cli.gathered import answer

    async def look(once: OneLook) -> Any:
        await once.ask_clusters(name)
        return once.gathered.cluster(name)

    if not name:
        raise CommandError("give a member's name; `overspill clusters list` lists them", exit_code=2)
    found = answer(url, config, f"/api/v1/clusters/{quote(name, safe='')}", look)
    if as_json:
        print_json(found)
    else:
        console().print(cluster_views.show_view(parse(cluster_views.ClusterDetail, found)))
    return 0
