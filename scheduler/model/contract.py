"""The Kubernetes contract: every label, annotation, finalizer and condition that Overspill reads or writes."""

from __future__ import annotations

import hashlib
from typing import Final

from scheduler.model.ports import Resource

GROUP: Final = "overspill.dev"
API_VERSION: Final = "overspill.dev/v1alpha1"
FIELD_MANAGER: Final = "overspill"

LABEL_QUEUE: Final = "overspill.dev/queue"
"""On a hub object: opts in, and names its queue."""
MANAGED_BY: Final = "overspill.dev/federation"
"""Value of a hub Job's `spec.managedBy`."""
FINALIZER: Final = "overspill.dev/federation"
"""On a hub object from the moment a placement is written until its copy is gone."""

ANNOTATION_PLACEMENT: Final = "overspill.dev/placement"
"""On a hub object: the intent, a JSON object (see clusters.kubernetes.annotations)."""
ANNOTATION_QUEUED_AT: Final = "overspill.dev/queued-at"
"""On a hub object: when it was last put back into its queue (RFC 3339)."""
ANNOTATION_PRIORITY: Final = "overspill.dev/priority"
"""By its user: a whole number; higher goes first within its queue. Default: the pods' priority, or 0."""
ANNOTATION_EXPECTED: Final = "overspill.dev/expected-duration"
"""By its user: how long the run takes, such as 90m or 2h30m."""
ANNOTATION_CHECKPOINT: Final = "overspill.dev/checkpoint-every"
ANNOTATION_DATA: Final = "overspill.dev/data"
"""By its user: what the run reads and in which member it lies, such as "500Gi@onprem, 20Gi@eks"."""
ANNOTATION_DEADLINE: Final = "overspill.dev/deadline"
"""By its user: RFC 3339, or a duration after creation."""
ANNOTATION_MODEL: Final = "overspill.dev/model"
"""By its user: what is trained, a name that runs alike share."""
ANNOTATION_BATCH_SIZE: Final = "overspill.dev/batch-size"
"""By its user: of one GPU, a whole number."""
ANNOTATION_STEPS: Final = "overspill.dev/total-steps"
"""By its user: how many steps the whole run takes."""
ANNOTATION_PARAMETERS: Final = "overspill.dev/parameters"
"""By its user: how many parameters each token passes through, such as 7B, 350M or 125000000."""
ANNOTATION_SEQUENCE_LENGTH: Final = "overspill.dev/sequence-length"
"""By its user: tokens of one sample, a whole number."""
ANNOTATION_PRECISION: Final = "overspill.dev/precision"
"""By its user: of the arithmetic; fp32, tf32, fp16, bf16 or fp8."""
ANNOTATION_FRAMEWORK: Final = "overspill.dev/framework"
"""By its user: what trains it, such as pytorch or megatron."""
ANNOTATION_PROGRESS_QUERY: Final = "overspill.dev/progress-query"
"""By its user: what a Prometheus API is asked to learn how far the run is: steps done, where total-steps is said, else
the part that is done (0 to 1). `$namespace`, `$job` and `$pods` (a regular expression) stand for its copy's own."""
ANNOTATION_SPEED_QUERY: Final = "overspill.dev/speed-query"
"""By its user: the same for steps (else the part of the whole) per second. Default: as fast as progress goes."""
ANNOTATION_DEMAND_QUERY: Final = "overspill.dev/demand-query"
"""By its user, on a service: what a Prometheus API is asked to learn how many requests arrive per second, by the label
`client_region` where that is known. `$namespace` and `$service` stand for the hub object's own names, `$cluster` for
the member that is asked, `$pods` (a regular expression) for the service's pods there."""
ANNOTATION_DEMAND_FROM: Final = "overspill.dev/demand-from"
"""By its user, on a service: the member whose metrics tell all of its requests. Default: all members' are added up."""
ANNOTATION_LATENCY_QUERY: Final = "overspill.dev/latency-query"
"""By its user, on a service: p95 of its requests on the cluster that is asked, in seconds; by `pod` where replicas are
to be told apart."""
ANNOTATION_CLIENT_LATENCY_QUERY: Final = "overspill.dev/client-latency-query"
"""By its user, on a service: round trip to the cluster that is asked by the label `client_region`, in seconds."""
ANNOTATION_REPLICA_SPEED: Final = "overspill.dev/replica-speed"
"""By its user, on a service: what a replica can do until that is measured, by GPU model (* on any): "A10G=4@500ms,
H100=20@200ms" are requests per second at which it is saturated, and p95 of a request without load."""
ANNOTATION_GPU_MODELS: Final = "overspill.dev/gpu-models"
"""By its user: accepted GPU models, comma-separated."""

ANNOTATION_TOPOLOGY: Final = "overspill.dev/topology"
"""By its user: within what all its pods are to be: node, zone, or the label that tells a rack or block of nodes."""
TOPOLOGY_NODE: Final = "kubernetes.io/hostname"
TOPOLOGY_ZONE: Final = "topology.kubernetes.io/zone"
TOPOLOGIES: Final = {"node": TOPOLOGY_NODE, "zone": TOPOLOGY_ZONE}
"""Short words for common labels."""

LABEL_ORIGIN_UID: Final = "overspill.dev/origin-uid"
"""On a copy and on its pods: UID of the hub object."""
ANNOTATION_ORIGIN_CLUSTER: Final = "overspill.dev/origin-cluster"
ANNOTATION_ORIGIN_NAMESPACE: Final = "overspill.dev/origin-namespace"
ANNOTATION_ORIGIN_NAME: Final = "overspill.dev/origin-name"
ANNOTATION_ATTEMPT: Final = "overspill.dev/attempt"
ANNOTATION_DIGEST: Final = "overspill.dev/template-digest"
"""On a FederatedWorkload's copy: SHA-256 of the hub template, and of its overrides, that it was last made from."""
ANNOTATION_OVERRIDDEN: Final = "overspill.dev/overridden-digest"
"""On a FederatedWorkload's copy, where overrides apply: SHA-256 of the template with them."""
ANNOTATION_REPLICAS: Final = "overspill.dev/replicas"
"""On a FederatedWorkload's copy while it is suspended: the replicas, or bounds of the scale, it is to have again."""

ANNOTATION_DIVISION: Final = "overspill.dev/division"
"""On a hub object that a ServingSLO matches: how it is divided, a JSON object (see clusters.kubernetes.divisions),
written before anything follows from it on a member."""
ANNOTATION_REVISIONS: Final = "overspill.dev/revisions"
"""On such an object: every revision of its template that is in use, so that the one before can be started again."""
LABEL_PART: Final = "overspill.dev/part"
"""On a copy of a divided service, and on its pods: which pool and revision it is for (`part_of`)."""
LABEL_REVISION: Final = "overspill.dev/revision"
"""On such a copy and its pods: the revision of the template that they are made of."""
ANNOTATION_POOL: Final = "overspill.dev/pool"
"""On such a copy: the pool that it is for."""

LABEL_DEPENDENT: Final = "overspill.dev/dependent"
"""On what followed a copy to its member: a ConfigMap, Secret, ServiceAccount or volume claim."""
ANNOTATION_ORIGIN_VERSION: Final = "overspill.dev/origin-version"
"""On such an object: UID and resourceVersion of the hub's, of which it is."""
ANNOTATION_KEEP: Final = "overspill.dev/keep"
"""By its user, on such an object of the hub: it stays on the member when nothing there needs it any more."""

CONDITION_PLACED: Final = "overspill.dev/Placed"
"""On a hub object's status: True once its copy is to exist; the reason and message say why, or why not yet."""

CONDITION_TRAFFIC: Final = "overspill.dev/Traffic"
"""On the status of a divided service with spec.traffic: whether its requests follow what is ready, and if not, why."""
CONDITION_SERVING: Final = "overspill.dev/Serving"
"""On the status of a divided service: whether its SLO is expected to hold, and if not, why."""

LABEL_RESIDENCY: Final = "overspill.dev/residency"
LABEL_POOL: Final = "overspill.dev/pool"
"""On nodes of on-prem clusters: the pool's name."""
TAINT_DRAINING: Final = "overspill.dev/giving-back"
"""NoSchedule, on a bought node that is on its way out."""
ANNOTATION_CLOSED: Final = "overspill.dev/closed"
"""On a node that is unschedulable because what is on it is to be moved off: why."""
TAINT_REMEDIATION: Final = "overspill.dev/remediation"
"""NoSchedule, on a node that a remedy has closed; its value is the signal."""
ANNOTATION_REMEDIATION: Final = "overspill.dev/remediation"
"""On a node: a JSON object that says what was done to it, by which federation, for which incident, since when. It stays
when the node is opened again."""
ANNOTATION_REQUEST: Final = "overspill.dev/request"
"""On a node that is closed and empty: a JSON object that asks the site's own agent for a reset or reboot."""
ANNOTATION_REQUEST_DONE: Final = "overspill.dev/request-done"
"""On a node, by that agent: the id of the request that it has carried out."""
ANNOTATION_EXCLUDED_NODES: Final = "overspill.dev/excluded-nodes"
"""On a hub object: nodes on which its pods must not run, each as cluster/node, comma-separated."""
ANNOTATION_AVOIDED_POOLS: Final = "overspill.dev/avoided-pools"
"""On a hub object: pools on which it is not to be placed, each as cluster/pool, comma-separated."""
ANNOTATION_DO_NOT_DISRUPT: Final = "karpenter.sh/do-not-disrupt"

GPU_RESOURCES: Final = ("nvidia.com/gpu", "amd.com/gpu")
GPU_MODEL_LABELS: Final = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator")

NODES: Final = Resource("", "v1", "nodes", "Node", namespaced=False)
PODS: Final = Resource("", "v1", "pods", "Pod")
EVENTS: Final = Resource("", "v1", "events", "Event")
NODE_EVENTS_NAMESPACE: Final = "default"
"""Where Events about cluster-scoped objects such as nodes are written."""
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS: Final = Resource("", "v1", "secrets", "Secret")
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")
VOLUME_CLAIMS: Final = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
JOBS: Final = Resource("batch", "v1", "jobs", "Job")
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment")
STATEFULSETS: Final = Resource("apps", "v1", "statefulsets", "StatefulSet")
INFERENCE_SERVICES: Final = Resource("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService")
KNATIVE_SERVICES: Final = Resource("serving.knative.dev", "v1", "services", "Service")
KNATIVE_ROUTES: Final = Resource("serving.knative.dev", "v1", "routes", "Route")
HTTP_ROUTES: Final = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
BACKEND_TRAFFIC_POLICIES: Final = Resource(
    "gateway.envoyproxy.io", "v1alpha1", "backendtrafficpolicies", "BackendTrafficPolicy"
)
SERVICES: Final = Resource("", "v1", "services", "Service")
REPLICASETS: Final = Resource("apps", "v1", "replicasets", "ReplicaSet")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
CRDS: Final = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False)
FEDERATED_WORKLOADS: Final = Resource(GROUP, "v1alpha1", "federatedworkloads", "FederatedWorkload")


def copy_name(name: str, uid: str, longest: int = 63) -> str:
    """The name of a workload's copy on a member: deterministic, and never the hub object's own name, so that the hub
    may be a member of itself and a re-created hub object never meets the copy of its predecessor.

    At most `longest` characters: as much of the name as fits, a dash, 10 of the UID's hexadecimal digits.
    """
    return f"{name[: longest - 11].rstrip('-.')}-{uid.replace('-', '')[:10]}"


def part_of(pool: str, revision: str) -> str:
    """What the copy of a revision on a pool is told by, within its service and cluster: a label value of ten digits."""
    return hashlib.sha256(f"{pool}\n{revision}".encode()).hexdigest()[:10]


def part_name(name: str, uid: str, part: str, longest: int = 63) -> str:
    """The name of that copy: as `copy_name`, a dash, and the part."""
    return f"{copy_name(name, uid, longest - len(part) - 1)}-{part}"
