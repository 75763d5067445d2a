"""The shell: everything that touches the outside while the daemon runs.

    main.py        composition root: builds the parts from the federation file and runs them
    mirror.py      live state of hub and members (member_mirror.py), and the frozen Snapshot made of it
    sinks.py       what watches feed into the mirror
    planning.py    the cycle loop: snapshot -> engine.cycle -> plan handed out
    reconciler.py  carries placements out, one idempotent write (writes.py) at a time
    pools.py       node pools: asks providers, buys, gives back
    prices.py      what nodes cost, for the mirror and the ledger      metrics.py    the latest readings
    discovery.py   what clouds say of themselves, and where the federation file says otherwise
    gathered.py    all of that as JSON            gather_once.py   the same without a daemon
    ledger.py      meters spend from node lifetimes
    history.py     decisions and node lifetimes in SQL
    leader.py      the Lease, and the fence that every write passes
    telemetry.py   Prometheus metrics          http.py  the server: health, metrics, the page (static/), api.py
    api.py         routes under /api/v1 (openapi.py describes them, answers.py has their shapes, access.py who may)
    federation.py  the federation file         supervise.py  loops that restart

Decisions are not made here: they are pure functions in `scheduler.engine`.
"""
