"""`apps/v1` Deployments. Suspended: scaled to 0, the replicas kept in an annotation."""

from __future__ import annotations

from clusters.kinds.templates import Template
from clusters.kinds.templates._replicated import Replicated
from scheduler.model.contract import DEPLOYMENTS


class Deployment(Replicated):
    name = "deployment"
    resource = DEPLOYMENTS
    longest_name = 63
    conditions = ("Available", "Progressing", "ReplicaFailure")


TEMPLATE: Template = Deployment()
