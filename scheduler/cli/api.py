"""The daemon's HTTP API as the command line reads it: the shape of its answers, and one blocking GET."""

from __future__ import annotations

import http.client
import json
import os
from decimal import Decimal
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from scheduler.cli.output import CommandError

DEFAULT_URL = "http://127.0.0.1:8080"
_TIMEOUT_SECONDS = 10.0
_BODY_LIMIT_BYTES = 64 * 2**20
_ReplyT = TypeVar("_ReplyT", bound="Reply")


class Reply(BaseModel):
    """Answers may grow keys: those that this version does not know are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ReclaimReply(Reply):
    node: str
    source: str
    noticed_at: float
    deadline: float | None = None


class PoolReply(Reply):
    pool: str
    capacity_type: str
    scaling: str
    bought: bool
    instance_type: str = ""
    gpu_model: str | None = None
    nodes: int
    nodes_ready: int
    desired_nodes: int | None = None
    max_nodes: int = 0
    gpus: int = 0
    gpus_used: int = 0
    usd_per_hour: Decimal | None = None
    shortage: str | None = None
    reclaimed: tuple[ReclaimReply, ...] = ()


class ClusterReply(Reply):
    id: str
    provider: str
    region: str
    available: bool
    unreachable_seconds: float | None = None
    round_trip_seconds: float | None = None
    pools: tuple[PoolReply, ...] = ()


class QueueReply(Reply):
    queue: str
    pending: int
    placed: int
    gpus_used: int
    dominant_share: float = 0.0


class BudgetReply(Reply):
    policy: str
    budget: str
    limit_usd: Decimal
    spent_usd: Decimal
    committed_usd: Decimal
    window_ends_at: float | None = None


class SpendReply(Reply):
    queue: str | None
    cluster: str
    capacity_type: str
    usd: Decimal


class ProgressReply(Reply):
    idle: bool = False
    wake_at: float | None = None
    measured_at: float | None = None
    cycles: int = 0
    last_cycle_seconds: float | None = None


class WorkloadCounts(Reply):
    pending: int = 0
    reserved: int = 0
    started: int = 0
    finished: int = 0
    invalid: int = 0


class PoliciesReply(Reply):
    digest: str = ""
    error: str | None = None


class ServiceReply(Reply):
    namespace: str
    name: str
    slo: str
    condition: str
    wanted: int
    ready: int
    demand_per_second: float | None = None
    ready_per_second: float | None = None
    usd_per_hour: Decimal | None = None
    clusters: tuple[str, ...] = ()


class StatusReply(Reply):
    federation: str
    mode: str
    now: float
    leader: bool
    synced: bool
    progress: ProgressReply = ProgressReply()
    clusters: tuple[ClusterReply, ...] = ()
    queues: tuple[QueueReply, ...] = ()
    budgets: tuple[BudgetReply, ...] = ()
    spend: tuple[SpendReply, ...] = ()
    spend_usd: Decimal = Decimal(0)
    workloads: WorkloadCounts = WorkloadCounts()
    counters: dict[str, float] = {}
    policies: PoliciesReply = PoliciesReply()
    shadow: dict[str, Any] | None = None
    services: tuple[ServiceReply, ...] = ()


class ReasonReply(Reply):
    code: str
    text: str


def _pool_name(value: Any) -> Any:
    if isinstance(value, dict) and {"cluster", "pool"} <= value.keys():
        return f"{value['cluster']}/{value['pool']}"
    return value


PoolName = Annotated[str, BeforeValidator(_pool_name)]


class CostPartReply(Reply):
    name: str
    usd: float


class WaitReply(Reply):
    pool: PoolName
    expected_wait_seconds: float
    expected_cost_usd: float


class ShadowPriceReply(Reply):
    name: str
    resource: str
    worth_usd: float
    meaning: str


class CandidateReply(Reply):
    pool: PoolName
    capacity_type: str
    bought: bool
    score: float | None = None
    usd_per_hour: Decimal | None = None
    expected_cost_usd: Decimal | None = None
    expected_start_seconds: float | None = None
    expected_seconds: float | None = None
    new_nodes: int = 0
    refused: tuple[ReasonReply, ...] = ()
    availability: float | None = None
    cost_parts: tuple[CostPartReply, ...] = ()


class DecisionReply(Reply):
    id: str
    at: float
    outcome: str
    reason: ReasonReply
    sentence: str
    policy: str = ""
    policy_digest: str = ""
    chosen: CandidateReply | None = None
    alternatives: tuple[CandidateReply, ...] = ()
    refused: tuple[tuple[ReasonReply, int], ...] = ()
    wait: WaitReply | None = None
    binding: tuple[ShadowPriceReply, ...] = ()


class PlacementReply(Reply):
    cluster: str
    pool: str
    capacity_type: str
    bought: bool
    state: str
    attempt: int = 0


def _condition_text(value: Any) -> Any:
    if isinstance(value, dict):
        return f"{value.get('reason', '')}: {value.get('message', '')}".strip(": ")
    return ": ".join(str(part) for part in value) if isinstance(value, list | tuple) else value


class WorkloadReply(Reply):
    kind: str
    namespace: str
    name: str
    uid: str
    queue: str
    priority: int = 0
    phase: str = ""
    placement: PlacementReply | None = None
    condition: Annotated[str | None, BeforeValidator(_condition_text)] = None


class MemberWaitReply(Reply):
    cluster: str
    expected_seconds: float
    p90_seconds: float
    observed: int = 0


class CostReply(Reply):
    expected_usd: Decimal
    p90_usd: Decimal
    expected_parts: dict[str, Decimal] = {}
    paid_usd: Decimal | None = None


class RunProgressReply(Reply):
    begun: float = 0.0
    done: float | None = None
    per_second: float | None = None


class ServingConditionReply(Reply):
    reason: str
    message: str


class PartReply(Reply):
    pool: PoolName
    revision: str
    replicas: int
    ready: int
    bounds: tuple[int, int] | None = None


class WeightReply(Reply):
    cluster: str
    revision: str
    weight: int


class OfferReply(Reply):
    pool: PoolName
    gpu_model: str | None = None
    capacity_type: str
    replicas: int
    requests_per_second_each: float | None = None
    usd_per_million_requests: float | None = None
    latency_seconds: float | None = None
    refused: str = ""


class BindingReply(Reply):
    name: str
    meaning: str
    saves_usd_per_hour: float | None = None


class RolloutReply(Reply):
    old: str
    new: str
    phase: str
    step: int


class DivisionReply(Reply):
    slo: str
    decided_at: float
    sentence: str
    solver: str
    conditions: tuple[ServingConditionReply, ...] = ()
    demand_per_second: float | None = None
    planned_per_second: float | None = None
    capacity_per_second: float | None = None
    ready_per_second: float | None = None
    usd_per_hour: Decimal | None = None
    cost_parts: tuple[CostPartReply, ...] = ()
    targets: tuple[PartReply, ...] = ()
    weights: tuple[WeightReply, ...] = ()
    choices: tuple[OfferReply, ...] = ()
    binding: tuple[BindingReply, ...] = ()
    leaving: tuple[str, ...] = ()
    rollout: RolloutReply | None = None


class ExplainReply(Reply):
    workload: WorkloadReply
    decisions: tuple[DecisionReply, ...] = ()
    waits: tuple[MemberWaitReply, ...] = ()
    progress: RunProgressReply | None = None
    cost: CostReply | None = None
    division: DivisionReply | None = None


def fetch(url: str, path: str, **query: str) -> Any:
    """The JSON that the daemon at `url` answers to GET `path`.

    Raises: CommandError, in one line, when there is no daemon, it refuses, or it answers something else.
    """
    status, body = _get(url, path + ("?" + urlencode(query) if query else ""))
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise CommandError(f"{url} answered something else than JSON; is that the daemon's address?") from error
    if status != http.client.OK:
        said = answer.get("error") if isinstance(answer, dict) else None
        raise CommandError(str(said) if said else f"{url}{path} answered HTTP {status}")
    return answer


def _get(url: str, target: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CommandError(f"--url {url!r}: write for example {DEFAULT_URL}", exit_code=2)
    try:
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS)
    except ValueError as error:
        raise CommandError(f"--url {url!r}: {error}", exit_code=2) from error
    try:
        connection.request("GET", parts.path.rstrip("/") + target, headers=_headers())
        response = connection.getresponse()
        return response.status, response.read(_BODY_LIMIT_BYTES)
    except ConnectionRefusedError as error:
        raise CommandError(
            f"no daemon at {url}; start `overspill run --config federation.yaml --policies DIR` or give its --url"
        ) from error
    except TimeoutError as error:
        raise CommandError(f"the daemon at {url} gave no answer within {_TIMEOUT_SECONDS:.0f} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(f"cannot ask the daemon at {url}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def _headers() -> dict[str, str]:
    """With the token of OVERSPILL_TOKEN, for a daemon that is not on this machine. Raises: CommandError."""
    token = os.environ.get("OVERSPILL_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise CommandError("OVERSPILL_TOKEN is no bearer token", exit_code=2)
    return {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})


def parse_status(answer: Any) -> StatusReply:
    """Raises: CommandError when it is not the status of a daemon."""
    return parse(StatusReply, answer)


def parse_explain(answer: Any) -> ExplainReply:
    """Raises: CommandError when it is not an explanation."""
    return parse(ExplainReply, answer)


def parse(model: type[_ReplyT], answer: Any) -> _ReplyT:
    """The answer as `model`. Raises: CommandError when it is something else."""
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise CommandError(f"the daemon's answer is not understood: {place}: {first['msg']}") from error
