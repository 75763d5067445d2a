"""The shell: everything that touches the outside while the daemon runs.

    main.py      the process: files read, connections made          parts.py   the parts of one daemon, wired
    config/      what files tell it: the federation, policies as they change
    state/       the mirror of hub and members that watches feed, and the frozen Snapshot made of it
    gathering/   what is asked for rather than watched: clouds, prices, metrics; and how replicas share that work
    placing/     snapshot -> engine.cycle -> plan -> one idempotent write after the other; node pools
    services/    the same for services that are divided over clusters
    money/       what was spent, and what is going to be            learning/  what runs teach the model
    incidents/   trouble: what looks for it, what is done about it, whom it is told
    leading/     the Lease, and the fence that every write passes
    history/     what is worth keeping, in SQL                      telemetry/ metrics and traces of the daemon itself
    http/        health, metrics, the page, the API                 doctor/    what is missing, and how to mend it

Decisions are not made here: they are pure functions in `scheduler.engine`.
"""
