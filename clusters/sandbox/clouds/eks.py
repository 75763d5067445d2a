"""Emulated AWS on one loopback port, signatures checked: EKS (REST-JSON), Auto Scaling, EC2, STS and IAM (XML).

Shapes are those of the service models that botocore ships. Only what the adapter asks is there. A request belongs to
the service that its signature names, as AWS's own hosts would have it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qsl

from aiohttp import web

from clusters.sandbox.clouds._eks_groups import Clusters
from clusters.sandbox.clouds._eks_identity import Identities, new_key
from clusters.sandbox.clouds._eks_scaling import ScalingGroups
from clusters.sandbox.clouds._eks_wire import (
    AwsError,
    RestHandler,
    json_object,
    query_answer,
    query_failure,
    region_of,
    rest_failure,
)
from clusters.sandbox.clouds.certificates import write_private
from clusters.sandbox.clouds.faults import Fault
from clusters.sandbox.clouds.running import RunningCloud, application
from clusters.sandbox.ports import ApiAddress, EmulatedPools
from scheduler.model.ports import Clock


class AmazonWebServices:
    """The services over one cluster's pools."""

    def __init__(
        self, pools: EmulatedPools, clock: Clock, identities: Identities, cloud: RunningCloud, api: ApiAddress
    ) -> None:
        self._pools = pools
        self._cloud = cloud
        self._clusters = Clusters(pools, clock, api)
        self.identities = identities
        self._query_actions = ScalingGroups(pools).actions() | identities.actions()

    def app(self) -> web.Application:
        app = application()
        eks, cluster = self._clusters, "/clusters/{cluster}"
        groups = cluster + "/node-groups"
        app.router.add_get("/clusters", self._rest("ListClusters", eks.list_clusters))
        app.router.add_get(cluster, self._rest("DescribeCluster", eks.describe_cluster))
        app.router.add_get(groups, self._rest("ListNodegroups", eks.list_groups))
        app.router.add_get(groups + "/{group}", self._rest("DescribeNodegroup", eks.describe_group))
        app.router.add_post(
            groups + "/{group}/update-config", self._rest("UpdateNodegroupConfig", eks.update_group, writes=True)
        )
        app.router.add_get(cluster + "/updates", self._rest("ListUpdates", eks.list_updates))
        app.router.add_get(cluster + "/updates/{update}", self._rest("DescribeUpdate", eks.describe_update))
        app.router.add_post("/", self._query)
        return app

    def _rest(
        self, action: str, handler: RestHandler, *, writes: bool = False
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def serve(request: web.Request) -> web.Response:
            try:
                body = await request.read()
                service, _ = self.identities.authenticate(request, body, rest=True)
                if service != "eks":
                    raise AwsError(403, "InvalidSignatureException", "Credential should be scoped to correct service")
                fault = self._enter("eks", action, writes=writes)
                cluster = request.match_info.get("cluster", self._pools.cluster)
                if cluster != self._pools.cluster:
                    raise AwsError(404, "ResourceNotFoundException", f"No cluster found for name: {cluster}.")
                answer = handler({**request.query, **request.match_info}, json_object(body) if writes else None)
                await self._maybe_lose(fault)
            except AwsError as error:
                return rest_failure(error)
            return web.json_response(answer)

        return serve

    async def _query(self, request: web.Request) -> web.Response:
        service = ""
        try:
            body = await request.read()
            service, access_key_id = self.identities.authenticate(request, body, rest=False)
            form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
            action = form.get("Action", "")
            if (service, action) == ("sts", "GetCallerIdentity"):
                self._cloud.log(action)
                return query_answer(service, action, self.identities.caller(access_key_id))
            if (service, action) not in self._query_actions:
                raise AwsError(400, "InvalidAction", f"Could not find operation {action[:80]}")
            handler, writes = self._query_actions[service, action]
            fault = self._enter(service, action, writes=writes)
            result = handler(form)
            await self._maybe_lose(fault)
        except AwsError as error:
            return query_failure(service, error)
        return query_answer(service, action, result)

    def _enter(self, service: str, action: str, *, writes: bool) -> Fault | None:
        """Log the action; raise what policy and the script of faults have for it."""
        self._cloud.log(action)
        self.identities.permit(f"{service}:{action}")
        fault = self._cloud.faults.take(writes=writes)
        match fault.kind if fault else "":
            case "throttled":
                assert fault is not None
                raise AwsError(429, "ThrottlingException", "Rate exceeded", fault.retry_after_seconds)
            case "capacity":
                raise AwsError(400, "InsufficientInstanceCapacity", "There is no Spot or On-Demand capacity available")
            case "quota":
                raise AwsError(400, "ResourceLimitExceededException", "You have reached the limit of your account")
            case "denied":
                raise AwsError(403, "AccessDeniedException", f"User is not authorized to perform: {action}")
            case "unmapped":
                assert fault is not None
                raise AwsError(400, fault.code, "Something that nobody has heard of")
        return fault

    async def _maybe_lose(self, fault: Fault | None) -> None:
        if fault is not None and fault.kind == "lost-answer":
            await self._cloud.closing.wait()


async def start(pools: EmulatedPools, clock: Clock, state_dir: Path, api: ApiAddress) -> RunningCloud:
    """Serve the emulated AWS; its access key is written as a shared credentials file."""
    cloud, _ = await serve(pools, clock, state_dir, api)
    return cloud


async def serve(
    pools: EmulatedPools, clock: Clock, state_dir: Path, api: ApiAddress
) -> tuple[RunningCloud, AmazonWebServices]:
    """As `start`, with the services themselves, whose identities and policies can be changed."""
    key = new_key()
    file = Path("credentials") / f"{pools.cluster}-aws.ini"
    write_private(
        state_dir / file,
        f"[overspill]\naws_access_key_id = {key.access_key_id}\n"
        f"aws_secret_access_key = {key.secret_access_key}\n".encode(),
    )
    cloud = RunningCloud(settings={})
    services = AmazonWebServices(pools, clock, Identities(pools, key), cloud, api)
    url = await cloud.serve_http(services.app())
    cloud.revoke_credentials = services.identities.revoke
    cloud.accepts_token = services.identities.accepts_token
    cloud.settings.update(
        type="eks",
        clusterName=pools.cluster,
        region=region_of(pools),
        endpoints=dict.fromkeys(("eks", "autoscaling", "ec2", "sts", "iam"), url),
        credentialsFile=str(file),
        profile="overspill",
    )
    return cloud, services
