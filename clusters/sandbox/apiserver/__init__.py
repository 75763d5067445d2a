"""An emulated Kubernetes API server: real HTTP, real refusals, virtual time, no etcd and no Go.

Why not `kmock`: it answers what a test tells it to, but it has no stale-write 409 and its lists carry no real
resourceVersion, and those two carry every controller's correctness; what is left of it would be the HTTP routing.

| Emulated                                                    | How far                                               |
|-------------------------------------------------------------|-------------------------------------------------------|
| discovery, aggregated discovery, OpenAPI v3 and v2          | what kubectl 1.20..1.32 and the Python clients read   |
| create, read, replace, patch, delete, delete collection     | all kinds of `kinds.BUILTIN` and CRDs                 |
| lists with limit/continue                                   | one snapshot for all pages; 410 when it is gone       |
| watches: resume, initial events, bookmarks, streaming lists | 410 as an ERROR event when too old (or from a future) |
| label and field selectors                                   | set-based labels; each kind's own selectable fields   |
| merge, JSON, strategic merge patch; server-side apply       | managedFields, conflicts with owners, force           |
| stale resourceVersion, uid preconditions                    | 409 on PUT, PATCH, DELETE; another uid in PATCH: 422  |
| dryRun=All, fieldValidation                                 | for every write                                       |
| validation of metadata, pods, Jobs (spec and status), ...   | see `validation`, `pods`, `jobs`; schema for the rest |
| status, scale, binding, eviction, finalize                  | budgets are reckoned when an eviction asks            |
| finalizers, grace periods, propagation, owner references    | at once, not by a controller a moment later           |
| CRDs                                                        | schemas, CEL rules, defaults, pruning, columns, scale |
| access, rules and token reviews                             | by the stored roles and bindings                      |

Not emulated: protobuf answers (JSON is sent) and protobuf bodies beyond what kubectl writes, Kubernetes' own CEL
functions in CRD rules, conversion and admission webhooks, resource quotas and limit ranges as admission,
the default not-ready tolerations, pod logs, exec, attach, port-forward and proxy, service IP allocation,
reads at an exact old version.

store.py      versioned objects, log, watchers    registry.py   the one path of every read and write
schema.py     types of builtin kinds              collector.py  grace, finalizers, owners, namespaces
kinds.py      the table of kinds                  subresources.py  scale, binding, eviction
crds.py, rules.py  custom kinds, their schemas    validation.py, pods.py, jobs.py, metadata.py, names.py  refusals
defaults.py   what is filled in                   apply.py, fieldsets.py  field ownership; patch.py  patches
server.py     HTTP; resources.py, watching.py, wire.py, tables.py, discovery.py, openapi*.py, reviews.py its parts
local.py      the same API in process             failures.py   Status objects and typed errors
protobuf.py   kubectl's protobuf bodies           certificates.py  the throw-away TLS authority
"""

from clusters.sandbox.apiserver.local import LocalApi
from clusters.sandbox.apiserver.server import ApiServer, kubeconfig

__all__ = ["ApiServer", "LocalApi", "kubeconfig"]
