"""`overspill policy`: check policy files, print their JSON Schema."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.output import CommandError, print_error, print_json

if TYPE_CHECKING:
    from policies.errors import PolicyError
    from policies.loader import Checked, FederationNames

app = typer.Typer(
    help="Check policy files and print their schema.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


class Kind(StrEnum):
    PLACEMENT_POLICY = "PlacementPolicy"
    QUEUE = "Queue"
    REMEDIATION_POLICY = "RemediationPolicy"
    SERVING_SLO = "ServingSLO"
    FEDERATION = "Federation"


@app.command("check")
def check_command(
    paths: Annotated[list[Path], typer.Argument(help="Policy files, or folders of them, read as one set.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="A federation file: also warn of clusters, regions and GPUs it lacks."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Check policy files: one line for each mistake. Exits 0 when there is none, 1 when there is."""
    from policies.loader import check_policies

    for path in paths:
        if not path.exists():
            raise CommandError(f"no such file or folder: {path}", exit_code=2)
    checked = check_policies(paths, _names(config))
    if as_json:
        print_json(_report(checked))
    else:
        _print(checked)
    return 0 if checked.policies is not None else 1


@app.command("schema")
def schema_command(
    kind: Annotated[
        Kind | None, typer.Option("--kind", help="Of one kind of document. Default: of any policy document.")
    ] = None,
) -> int:
    """Print the JSON Schema (draft 2020-12) of policy files or of the federation file, for editors."""
    from policies.json_schema import policy_schema, schema_of
    from policies.loader import KINDS

    if kind is None:
        schema = policy_schema()
    elif kind is Kind.FEDERATION:
        from scheduler.daemon.config.federation_schema import FederationDocument

        schema = schema_of(FederationDocument, kind.value)
    else:
        schema = schema_of(KINDS[kind.value], kind.value)
    print(json.dumps(schema, indent=2))
    return 0


def _names(config: Path | None) -> FederationNames | None:
    """Of the federation file. Raises: CommandError (2) when it cannot be used."""
    if config is None:
        return None
    from policies.errors import PolicyErrors
    from scheduler.daemon.config.federation import load_federation

    try:
        return load_federation(config).names
    except PolicyErrors as error:
        for mistake in error.errors:
            print(mistake, file=sys.stderr)
        raise CommandError(f"{config} is no usable federation file", exit_code=2) from error


def _print(checked: Checked) -> None:
    for warning in checked.warnings:
        print_error(f"warning: {warning}")
    if checked.policies is None:
        for mistake in checked.errors:
            print(mistake)
        return
    found = checked.policies
    counts = f"{_count(len(found.policies), 'policy', 'policies')}, {_count(len(found.queues), 'queue', 'queues')}"
    if found.remediation:
        live = sum(not policy.guards.dry_run for policy in found.remediation)
        remedies = _count(len(found.remediation), "remediation policy", "remediation policies")
        counts += f", {remedies} ({live} live, {len(found.remediation) - live} in dry run)"
    warned = f", {_count(len(checked.warnings), 'warning', 'warnings')}" if checked.warnings else ""
    print(f"OK: {counts}{warned} (digest {found.digest[:12]})")


def _report(checked: Checked) -> dict[str, object]:
    found = checked.policies
    return {
        "ok": found is not None,
        "policies": 0 if found is None else len(found.policies),
        "queues": 0 if found is None else len(found.queues),
        "remediation_policies": 0 if found is None else len(found.remediation),
        "digest": None if found is None else found.digest,
        "errors": [_mistake(error) for error in checked.errors],
        "warnings": [_mistake(warning) for warning in checked.warnings],
    }


def _mistake(error: PolicyError) -> dict[str, object]:
    return {"file": error.file, "line": error.line, "column": error.column, "message": error.message}


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
