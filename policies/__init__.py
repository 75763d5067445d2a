"""What people write in YAML: policies and queues, read with places, checked, compiled, reloaded.

source.py       YAML as a tree with places       documents.py    a document to a model, mistakes with their places
schema.py       the kinds as written             values.py       durations, money, quantities, names
compiler.py     to scheduler.model.policy        expressions.py  CEL over a workload or an incident
loader.py       files and folders to a set       reload.py       the last good set
remediation.py  what is done about incidents: the kind as written, and to scheduler.model.remediation
objectives/     what to optimise, a file each    examples/       policies to start from

Reads files and nothing else: no clock, no network, no cluster.
"""
