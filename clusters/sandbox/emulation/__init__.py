"""What runs behind one emulated Kubernetes API: controllers, scheduler, kubelets and machines.

Everything here reaches its cluster through `KubeApi` and a `Clock` alone, so that it also serves a real kube-apiserver.

timers.py   virtual-time event heap            informer.py   list + watch into a cache, with indexes
work.py     queues of keys, supervised loops   objects.py    readers and writers of raw Kubernetes objects
pod_scheduler.py, job_controller.py, deployment_controller.py, garbage_collector.py, node_lifecycle.py, kubelet.py
pools.py    machines of the cluster's node pools, as its cloud would run them
cluster.py  all of the above for one cluster   faults.py, billing.py, exporters.py, dcgm.py
"""
