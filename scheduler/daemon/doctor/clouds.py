"""One member's cloud: can we log in, what may we do there, and does it have the pools of the federation file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scheduler.daemon.config.federation import Member
from scheduler.daemon.doctor.finding import Report
from scheduler.daemon.gathering.discovery import Discovered, differences
from scheduler.model.ports import Clock, NodePoolProvider

_CALL_SECONDS: Final = 60.0
"""Longer than the SDKs' own limits, so that their words are told and not ours."""


async def check_cloud(member: Member, provider: NodePoolProvider, report: Report, clock: Clock) -> None:
    """Nothing is changed there."""
    mend = f"correct the credentials of the {member.provider_type} provider or its settings"
    if member.login == "provider":
        login = await report.attempt("login", provider.log_in(), _CALL_SECONDS, mend)
        if login is not None:
            report.ok(f"logs in to the cluster, by tokens good for {login.lifetime_seconds / 60:.0f} min")
    await report.attempt("what it may do cannot be asked", _access(provider, report), _CALL_SECONDS, mend)
    await report.attempt("clusters and pools", _pools(member, provider, report, clock), _CALL_SECONDS, mend)


async def _access(provider: NodePoolProvider, report: Report) -> None:
    for check in await provider.check_access():
        said = f": {check.detail}" if check.detail else ""
        if check.allowed is None:
            remedy = check.remedy or "nothing now: an attempt that is refused is told then"
            report.warn(f"may {check.action}: not known, the cloud tells only by doing it{said}", remedy)
        elif check.allowed:
            report.ok(f"may {check.action}")
        else:
            report.fail(f"may not {check.action}{said}", check.remedy or "grant it: see deploy/iam/")


async def _pools(member: Member, provider: NodePoolProvider, report: Report, clock: Clock) -> None:
    clusters = await provider.list_clusters()
    statuses = await provider.list_pools()
    managed = [pool.ref.pool for pool in member.pools if pool.scaling == "managed"]
    if not clusters and not statuses and not managed:
        report.ok("there is nothing to buy")
        return
    known = {status.pool for status in statuses}
    missing = [pool for pool in managed if pool not in known]
    for pool in missing:
        there = ", ".join(sorted(known)) or "none"
        report.fail(f"{pool}: the cloud has no such pool; there are {there}"[:300], "correct the file or create it")
    found = Discovered(pools=statuses, pools_at=clock.now(), clusters=clusters, clusters_at=clock.now())
    name = member.provider_settings.get("clusterName")
    if name is not None and found.cluster(member.provider_settings) is None:
        there = ", ".join(cluster.name for cluster in clusters) or "none"
        remedy = "correct provider.clusterName, or let the identity see it"
        report.fail(f"the account sees no cluster {name!r}; it sees {there}"[:300], remedy)
    lines = differences(member.pools, (), found, member.provider_settings, member.region)
    told = [line for line in lines if not _is_told_already(line, missing, str(name))]
    for line in told:
        report.warn(line, "make the federation file and the cloud agree")
    for status in statuses:
        if status.shortage is not None:
            report.warn(f"{status.pool}: {status.shortage.text}", "nothing, or another instance type, zone or quota")
    if not told and not missing:
        report.ok(f"has all {len(member.pools)} pools as the file says")


def _is_told_already(line: str, missing: Sequence[str], cluster: str) -> bool:
    """Also: pools that the file does not name are the cloud's own business."""
    if line.endswith("the file does not name it") or line.startswith(f"the account does not see a cluster {cluster!r}"):
        return True
    return any(line.startswith(f"{pool}: the cloud has no pool") for pool in missing)
