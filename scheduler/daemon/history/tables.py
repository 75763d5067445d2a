"""The tables of the history. They are made and changed by `scheduler.daemon.history.migrations`, whose steps must lead
to what stands here."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sql

METADATA: Final = sql.MetaData()
DECISIONS: Final = sql.Table(
    "decisions",
    METADATA,
    sql.Column("id", sql.String(64), primary_key=True),
    sql.Column("at", sql.Double, nullable=False, index=True),
    sql.Column("workload_uid", sql.String(64), nullable=False, index=True),
    sql.Column("kind", sql.String(64), nullable=False),
    sql.Column("namespace", sql.String(253), nullable=False),
    sql.Column("name", sql.String(253), nullable=False, index=True),
    sql.Column("queue", sql.String(253), nullable=False),
    sql.Column("outcome", sql.String(32), nullable=False),
    sql.Column("reason", sql.String(64), nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)
PRICES: Final = sql.Table(
    "prices",
    METADATA,
    sql.Column("cluster", sql.String(253), primary_key=True),
    sql.Column("pool", sql.String(253), primary_key=True),
    sql.Column("learned_at", sql.Double, primary_key=True),
    sql.Column("usd_per_hour", sql.String(64)),
    sql.Column("source", sql.String(256), nullable=False),
    sql.Column("as_of", sql.Double),
)
"""Gathered prices of pools, a row for each change: exact USD as text, NULL from when it was not known any more."""
NODE_LIFETIMES: Final = sql.Table(
    "node_lifetimes",
    METADATA,
    sql.Column("cluster", sql.String(253), primary_key=True),
    sql.Column("node_uid", sql.String(64), primary_key=True),
    sql.Column("created_at", sql.Double, nullable=False, index=True),
    sql.Column("ended_at", sql.Double),
    sql.Column("body", sql.Text, nullable=False),
)
TRANSFERS: Final = sql.Table(
    "transfers",
    METADATA,
    sql.Column("workload_uid", sql.String(64), primary_key=True),
    sql.Column("attempt", sql.BigInteger, primary_key=True),
    sql.Column("at", sql.Double, nullable=False, index=True),
    sql.Column("cluster", sql.String(253), nullable=False),
    sql.Column("capacity_type", sql.String(64), nullable=False),
    sql.Column("queue", sql.String(253), nullable=False),
    sql.Column("usd", sql.String(64)),
)
"""Data brought to where an attempt of a workload began to run: exact USD as text, NULL where nobody knows."""
RECLAIMS: Final = sql.Table(
    "reclaims",
    METADATA,
    sql.Column("cluster", sql.String(253), primary_key=True),
    sql.Column("node_uid", sql.String(64), primary_key=True),
    sql.Column("pool", sql.String(253)),
    sql.Column("node", sql.String(253), nullable=False),
    sql.Column("source", sql.String(128), nullable=False),
    sql.Column("noticed_at", sql.Double, nullable=False, index=True),
    sql.Column("deadline", sql.Double),
    sql.Column("ended_at", sql.Double),
    sql.Column("outcome", sql.String(16)),
)
"""What clouds took back: what was noticed and when, the deadline, and when the node really went (`outcome` gone) or the
notice was taken back (withdrawn)."""
RUNS: Final = sql.Table(
    "runs",
    METADATA,
    sql.Column("uid", sql.String(64), primary_key=True),
    sql.Column("kind", sql.String(64), nullable=False),
    sql.Column("namespace", sql.String(253), nullable=False),
    sql.Column("name", sql.String(253), nullable=False),
    sql.Column("queue", sql.String(253), nullable=False),
    sql.Column("arrived_at", sql.Double, nullable=False, index=True),
    sql.Column("first_started_at", sql.Double),
    sql.Column("finished_at", sql.Double, index=True),
    sql.Column("body", sql.Text, nullable=False),
)
REMEDIES: Final = sql.Table(
    "remedies",
    METADATA,
    sql.Column("id", sql.String(320), primary_key=True),
    sql.Column("incident", sql.String(253), nullable=False, index=True),
    sql.Column("signal", sql.String(253), nullable=False),
    sql.Column("policy", sql.String(253), nullable=False),
    sql.Column("action", sql.String(64), nullable=False),
    sql.Column("began_at", sql.Double, nullable=False, index=True),
    sql.Column("ended_at", sql.Double),
    sql.Column("outcome", sql.String(16)),
    sql.Column("body", sql.Text, nullable=False),
)
"""What was done about incidents: `outcome` done, failed or overtaken (it was over before); NULL: under way, or the
daemon stopped before it ended."""
INCIDENTS: Final = sql.Table(
    "incidents",
    METADATA,
    sql.Column("id", sql.String(320), primary_key=True),
    sql.Column("kind", sql.String(253), nullable=False),
    sql.Column("severity", sql.String(16), nullable=False),
    sql.Column("cluster", sql.String(253), nullable=False),
    sql.Column("opened_at", sql.Double, nullable=False, index=True),
    sql.Column("ended_at", sql.Double),
    sql.Column("outcome", sql.String(32)),
    sql.Column("gpu_hours_at_risk", sql.Double),
    sql.Column("usd_at_risk", sql.String(64)),
    sql.Column("gpu_hours_saved", sql.Double),
    sql.Column("usd_saved", sql.String(64)),
    sql.Column("body", sql.Text, nullable=False),
)
"""Incidents with their evidence. `outcome`: remedied, passed (it ended by itself) or merged; NULL: it goes on. USD are
exact, as text; NULL: not known."""
STATES: Final = sql.Table(
    "states",
    METADATA,
    sql.Column("name", sql.String(64), primary_key=True),
    sql.Column("at", sql.Double, nullable=False),
    sql.Column("body", sql.LargeBinary, nullable=False),
)
"""What parts of the daemon remember in bulk, each in a format of its own that it can check."""
MEMORIES: Final = sql.Table(
    "memories",
    METADATA,
    sql.Column("name", sql.String(64), primary_key=True),
    sql.Column("at", sql.Double, nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)
"""What a part of the daemon remembers from one run to the next, a JSON value by the part's name."""
LEARNED: Final = sql.Table(
    "learned",
    METADATA,
    sql.Column("name", sql.String(64), primary_key=True),
    sql.Column("saved_at", sql.Double, nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)
"""What was learned, as one versioned JSON object."""
MOST_ROWS: Final = {
    DECISIONS: (DECISIONS.c.at, 1_000_000),
    INCIDENTS: (INCIDENTS.c.opened_at, 20_000),
    REMEDIES: (REMEDIES.c.began_at, 100_000),
    RECLAIMS: (RECLAIMS.c.noticed_at, 100_000),
}
"""Tables that only tell what was, with their time: the oldest rows beyond so many go. The others' rows are still needed
(spend is metered from all lifetimes), or are replaced by key."""
REMEMBERED: Final = frozenset({STATES, MEMORIES, LEARNED})
"""What a leader remembers as a whole: a standby's own would be something else."""
