"""Replays request logs against policies of serving, request by request, on virtual time.

log.py        requests, scaled        site.py      pools, prices, ways from the clients
world.py      replicas and queues     deciders.py  the engine, and the baselines
replay.py     the loop                measures.py  minutes out of the SLO, cost, changes
study.py      several of them, tuned  report.py    as HTML
"""
