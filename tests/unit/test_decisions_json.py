"""What is written of a decision: objects by field name, however the record is held in memory."""

from __future__ import annotations

import json
from decimal import Decimal

from scheduler.daemon.placing.decisions import to_json, to_text
from scheduler.engine.cycle import cycle
from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.model.policy import BurstRule, ValueOfTime
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import bought_pool, cluster, node, policy, policy_set, pool, snapshot, workload


def test_the_history_and_the_api_tell_a_decision_alike_and_by_name() -> None:
    here = cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"),))
    cloud = cluster("eks", (bought_pool("eks", "od"),))
    rule = policy(burst=BurstRule(), value_of_time=ValueOfTime(usd_per_gpu_hour=Decimal(2)))
    plan = cycle(snapshot(here, cloud, workloads=(workload("one"),)), policy_set(rule), FirstPredictor())
    decision = plan.decisions[0]
    written = json.loads(to_text(decision))
    assert written == to_json(decision)
    assert set(written) == set(decision._fields)
    assert written["workload"]["name"] == "one"
    assert written["chosen"]["pool"] == {"cluster": "onprem", "pool": "a"}
    assert {each["pool"]["cluster"] for each in written["alternatives"]} == {"eks"}


def test_a_pool_is_named_by_cluster_and_pool() -> None:
    ref = PoolRef(ClusterId("eks"), PoolId("od"))
    assert f"{ref}" == str(ref) == "eks/od"
    assert to_json(ref) == {"cluster": "eks", "pool": "od"}
