"""What `overspill simulate` is given, read and checked: federation, policies, trace, what time is worth."""

from __future__ import annotations

import difflib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from policies.errors import PolicyErrors
from policies.loader import check_policies
from scheduler.cli.output import CommandError, print_error
from scheduler.daemon.config.federation import Federation, Member, load_federation
from scheduler.daemon.config.routes import routes_between
from scheduler.model.cluster import Cluster, NodePool, Route
from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.model.policy import ValueOfTime
from scheduler.simulate.driver import EPOCH, Site
from scheduler.simulate.feasible import Impossible, impossible_jobs, without
from scheduler.simulate.readers import read_trace
from scheduler.simulate.study import NamedPolicies
from scheduler.simulate.trace import Trace

_SHOWN = 3
_DAY = 86400.0


def read_federation(path: Path) -> Federation:
    """Raises: CommandError (2), after each mistake in the file has been told."""
    try:
        return load_federation(path, as_of=EPOCH)
    except PolicyErrors as error:
        for mistake in error.errors:
            print(mistake, file=sys.stderr)
        raise CommandError(f"{path} is no usable federation file", exit_code=2) from error


def site_of(federation: Federation, nodes: Mapping[PoolRef, int]) -> Site:
    """The federation as a replay begins: owned pools at `nodes`, else at their maxNodes or minNodes; nothing bought.

    Raises: CommandError (2) where `nodes` names no owned pool, where there is nothing to run on, or no price at all of
    what could be bought.
    """
    routes = routes_between(federation.members)
    clusters = tuple(_cluster(member, routes[member.id]) for member in federation.members)
    pools = {pool.ref: pool for cluster in clusters for pool in cluster.pools}
    _check_nodes(nodes, pools)
    owned = {ref: nodes.get(ref, max(pool.max_nodes, pool.min_nodes)) for ref, pool in pools.items() if not pool.bought}
    site = Site(clusters, {ref: count for ref, count in owned.items() if count})
    _check_capacity(site, pools)
    return site


def _cluster(member: Member, routes: tuple[Route, ...]) -> Cluster:
    return Cluster(
        member.id, member.provider_type, member.region, member.labels, synced=True, unreachable_since=None, nodes=(),
        pools=member.pools, routes=routes,
    )  # fmt: skip


def _check_nodes(nodes: Mapping[PoolRef, int], pools: Mapping[PoolRef, NodePool]) -> None:
    for ref in nodes:
        if ref not in pools:
            near = difflib.get_close_matches(str(ref), [str(each) for each in pools], 1)
            told = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(map(str, pools)))}"
            raise CommandError(f"--nodes {ref}: the federation has no such pool; {told}", exit_code=2)
        if pools[ref].bought:
            raise CommandError(
                f"--nodes {ref}: is bought when it is needed; its maxNodes in the federation file limits it",
                exit_code=2,
            )


def _check_capacity(site: Site, pools: Mapping[PoolRef, NodePool]) -> None:
    bought = [pool for pool in pools.values() if pool.bought and pool.max_nodes]
    if not site.owned_nodes and not bought:
        fixed = sorted(str(pool.ref) for pool in pools.values() if not pool.bought)
        example = f"--nodes {fixed[0]}=10" if fixed else "a member with a pool"
        raise CommandError(f"the federation has no capacity: give it some, such as {example}", exit_code=2)
    unpriced = sorted(str(pool.ref) for pool in bought if pool.price is None)
    if bought and len(unpriced) == len(bought):
        raise CommandError(
            f"no pool that can be bought has a price, so that nothing can be compared: add price.usdPerHour to "
            f"{_listed(unpriced)}",
            exit_code=2,
        )
    if unpriced:
        print_error(
            f"warning: {_listed(unpriced)}: no price (add price.usdPerHour); runs that buy there are not compared"
        )


def parse_nodes(texts: Sequence[str]) -> dict[PoolRef, int]:
    """Of "CLUSTER/POOL=NUMBER". Raises: CommandError (2)."""
    found: dict[PoolRef, int] = {}
    for text in texts:
        ref, number = _split(text, "--nodes", "onprem/a100=12")
        if not number.isdecimal() or int(number) > 100_000:
            raise CommandError(
                f"--nodes {text[:80]}: {number[:20]!r} is no number of nodes from 0 to 100000", exit_code=2
            )
        found[ref] = int(number)
    return found


def parse_rates(texts: Sequence[str], site: Site) -> dict[str, float]:
    """Of "CLUSTER/POOL=RECLAIMS_PER_HOUR". Raises: CommandError (2)."""
    pools = {str(pool.ref) for cluster in site.clusters for pool in cluster.pools}
    found: dict[str, float] = {}
    for text in texts:
        ref, number = _split(text, "--pool-reclaims", "eks/p4d-spot=0.05")
        try:
            rate = float(number)
        except ValueError:
            rate = -1.0
        if not 0 <= rate <= 3600:
            raise CommandError(f"--pool-reclaims {text[:80]}: {number[:20]!r} is no rate from 0 to 3600", exit_code=2)
        if str(ref) not in pools:
            raise CommandError(
                f"--pool-reclaims {ref}: the federation has no such pool; there are {', '.join(sorted(pools))}",
                exit_code=2,
            )
        found[str(ref)] = rate
    return found


def _split(text: str, option: str, example: str) -> tuple[PoolRef, str]:
    place, equals, number = text.partition("=")
    cluster, slash, pool = place.partition("/")
    if not (equals and slash and cluster and pool):
        raise CommandError(f"{option} {text[:80]!r}: write it as CLUSTER/POOL=NUMBER, such as {example}", exit_code=2)
    return PoolRef(ClusterId(cluster), PoolId(pool)), number.strip()


def read_policies(paths: Sequence[Path], federation: Federation, *, serving: bool = False) -> tuple[NamedPolicies, ...]:
    """A set for each folder or file, named after it; `serving`: each is to hold a ServingSLO, else a PlacementPolicy.

    Raises: CommandError (2), after each mistake has been told.
    """
    found: list[NamedPolicies] = []
    short = Counter(path.resolve().name for path in paths)
    for path in paths:
        if not path.exists():
            raise CommandError(f"{path}: no such folder of policy files", exit_code=2)
        checked = check_policies([path], federation.names)
        for warning in checked.warnings:
            print_error(f"warning: {warning}")
        if checked.policies is None:
            for mistake in checked.errors:
                print(mistake, file=sys.stderr)
            raise CommandError(f"{path} holds no usable policies", exit_code=2)
        if serving and not checked.policies.serving:
            told = "no ServingSLO in it; write one, or give --trace for a log of jobs"
            raise CommandError(f"{path}: {told}", exit_code=2)
        if not serving and not checked.policies.policies:
            raise CommandError(f"{path}: no PlacementPolicy in it, so that nothing would ever be placed", exit_code=2)
        name = path.resolve().name
        found.append(NamedPolicies(name if short[name] == 1 else str(path), checked.policies))
    if len({one.name for one in found}) != len(found):
        raise CommandError("--policies names the same folder twice", exit_code=2)
    return tuple(found)


def read_log(path: Path, first_day: float, days: float | None) -> Trace:
    """The trace, or a window of it. Raises: InvalidObjectError; CommandError (2) for a window without a job."""
    return cut(read_trace(path), str(path), first_day, days)


def cut(trace: Trace, name: str, first_day: float, days: float | None) -> Trace:
    """Only what arrives in that window. Raises: CommandError (2) when that is nothing."""
    if not first_day and days is None:
        return trace
    last = trace.jobs[-1].arrival_seconds / _DAY
    window = trace.window(first_day * _DAY, float("inf") if days is None else days * _DAY)
    if not window.jobs:
        raise CommandError(
            f"{name}: no job arrives in that window; the last one arrives on day {last:.2f} (counted from 0)",
            exit_code=2,
        )
    return window


def only_queues(trace: Trace, queues: Sequence[str]) -> Trace:
    """The jobs of these queues; all, where none is named. Raises: CommandError (2) for one that has no job."""
    there = sorted({job.queue for job in trace.jobs})
    for name in queues:
        if name not in there:
            near = difflib.get_close_matches(name, there, 1)
            told = f"did you mean {near[0]}?" if near else f"there are {_listed(there)}"
            raise CommandError(f"--queue {name[:60]}: {trace.name} has no job of such a queue; {told}", exit_code=2)
    return replace(trace, jobs=tuple(job for job in trace.jobs if not queues or job.queue in queues))


def possible(trace: Trace, site: Site, *, leave_out: bool) -> tuple[Trace, tuple[Impossible, ...]]:
    """The trace without the jobs that nothing could ever hold. Raises: CommandError (2) when there are such and they
    are not to be left out, or when nothing else is left."""
    found = impossible_jobs(trace, site)
    if not found:
        return trace, ()
    first = "; ".join(f"{job.name}: {job.why}" for job in found[:_SHOWN])
    told = f"{len(found)} of {len(trace.jobs)} jobs can never run in this federation ({first}"
    told += "; ...)" if len(found) > _SHOWN else ")"
    if len(found) == len(trace.jobs):
        raise CommandError(told, exit_code=2)
    if not leave_out:
        raise CommandError(f"{told}; --leave-out-impossible replays the others", exit_code=2)
    print_error(f"warning: {told}; they are left out")
    return without(trace, found), found


def value_of_time(
    sets: Sequence[NamedPolicies], usd_per_gpu_hour: float | None, usd_per_hour: float | None
) -> tuple[ValueOfTime, str]:
    """What time is worth in the comparison, and where that comes from."""
    if usd_per_gpu_hour is not None or usd_per_hour is not None:
        value = ValueOfTime(Decimal(str(usd_per_hour or 0)), Decimal(str(usd_per_gpu_hour or 0)))
        return value, "the command line"
    for policy in sets[0].policies.policies:
        if policy.value_of_time is not None:
            return policy.value_of_time, f"valueOfTime of policy {policy.name} in {sets[0].name}"
    return ValueOfTime(usd_per_gpu_hour=Decimal(1)), "the default: no policy of the first set has a valueOfTime"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
