"""From a snapshot to workloads that run: the cycle loop, the reconciler and its writes, node pools."""
