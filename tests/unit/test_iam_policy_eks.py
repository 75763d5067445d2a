"""The least-privilege policy for AWS: real actions, no wildcard where AWS can do without, prices apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botocore.session

from tests.contract.cloud_permissions import eks

POLICY = json.loads((Path(__file__).parents[2] / "deploy" / "iam" / "eks.json").read_text())
STATEMENTS: list[dict[str, Any]] = POLICY["Statement"]
UNLIMITED = {
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:DescribeAutoScalingInstances",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeSpotPriceHistory",
    "eks:ListClusters",
    "pricing:GetProducts",
}
"""Actions without resource types in the Service Authorization Reference."""


def test_the_policy_is_one_that_aws_understands() -> None:
    assert POLICY["Version"] == "2012-10-17"
    session = botocore.session.get_session()
    for statement in STATEMENTS:
        assert statement["Effect"] == "Allow"
        assert statement["Sid"].isalnum()
        for action in statement["Action"]:
            service, _, operation = action.partition(":")
            assert operation in session.get_service_model(service).operation_names
    assert len({one["Sid"] for one in STATEMENTS}) == len(STATEMENTS)


def test_every_action_is_granted_once_and_as_narrowly_as_can_be() -> None:
    granted = [action for one in STATEMENTS for action in one["Action"]]
    assert len(granted) == len(set(granted))
    for statement in STATEMENTS:
        anywhere = statement["Resource"] == "*"
        assert all((action in UNLIMITED) is anywhere for action in statement["Action"]), statement["Sid"]


def test_prices_stand_apart() -> None:
    (prices,) = [one for one in STATEMENTS if eks.PRICES & set(one["Action"])]
    assert set(prices["Action"]) == eks.PRICES
