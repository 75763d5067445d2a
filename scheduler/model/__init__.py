"""Pure nouns: what the scheduler talks about. No I/O, no clock, no SDK; imported by everything, imports nothing.

ids.py        identities             resources.py  exact resource vectors and Kubernetes quantities
money.py      prices and amounts     workload.py   workloads, pod sets, placements (intents), copies
cluster.py    clusters, pools, nodes policy.py     compiled policies, queues and budgets
snapshot.py   what a cycle sees      plan.py       what a cycle wants done, and why
verdict.py    fits, or why not       errors.py     typed failures of the outside world
ports.py      the seams: clock, predictor, node pool provider, workload kind, Kubernetes API
"""
