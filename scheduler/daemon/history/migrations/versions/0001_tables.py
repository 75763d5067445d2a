"""All tables as of the first version with migrations. Of a database from before, what is there stays as it is: until
then only whole tables were ever added."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sql
from alembic import op

revision: Final = "0001"
down_revision: Final = None

_INDEXES: Final = {
    "decisions": ("at", "workload_uid", "name"),
    "node_lifetimes": ("created_at",),
    "transfers": ("at",),
    "reclaims": ("noticed_at",),
    "runs": ("arrived_at", "finished_at"),
    "remedies": ("incident", "began_at"),
    "incidents": ("opened_at",),
}


def upgrade() -> None:
    for table, columns in _tables().items():
        op.create_table(table, *columns, if_not_exists=True)
    for table, indexed in _INDEXES.items():
        for column in indexed:
            op.create_index(f"ix_{table}_{column}", table, [column], if_not_exists=True)


def _tables() -> dict[str, tuple[sql.Column[Any], ...]]:
    return {
        "decisions": (
            sql.Column("id", sql.String(64), primary_key=True),
            sql.Column("at", sql.Double, nullable=False),
            sql.Column("workload_uid", sql.String(64), nullable=False),
            sql.Column("kind", sql.String(64), nullable=False),
            sql.Column("namespace", sql.String(253), nullable=False),
            sql.Column("name", sql.String(253), nullable=False),
            sql.Column("queue", sql.String(253), nullable=False),
            sql.Column("outcome", sql.String(32), nullable=False),
            sql.Column("reason", sql.String(64), nullable=False),
            sql.Column("body", sql.Text, nullable=False),
        ),
        "prices": (
            sql.Column("cluster", sql.String(253), primary_key=True),
            sql.Column("pool", sql.String(253), primary_key=True),
            sql.Column("learned_at", sql.Double, primary_key=True),
            sql.Column("usd_per_hour", sql.String(64)),
            sql.Column("source", sql.String(256), nullable=False),
            sql.Column("as_of", sql.Double),
        ),
        "node_lifetimes": (
            sql.Column("cluster", sql.String(253), primary_key=True),
            sql.Column("node_uid", sql.String(64), primary_key=True),
            sql.Column("created_at", sql.Double, nullable=False),
            sql.Column("ended_at", sql.Double),
            sql.Column("body", sql.Text, nullable=False),
        ),
        "transfers": (
            sql.Column("workload_uid", sql.String(64), primary_key=True),
            sql.Column("attempt", sql.BigInteger, primary_key=True, autoincrement=False),
            sql.Column("at", sql.Double, nullable=False),
            sql.Column("cluster", sql.String(253), nullable=False),
            sql.Column("capacity_type", sql.String(64), nullable=False),
            sql.Column("queue", sql.String(253), nullable=False),
            sql.Column("usd", sql.String(64)),
        ),
        "reclaims": (
            sql.Column("cluster", sql.String(253), primary_key=True),
            sql.Column("node_uid", sql.String(64), primary_key=True),
            sql.Column("pool", sql.String(253)),
            sql.Column("node", sql.String(253), nullable=False),
            sql.Column("source", sql.String(128), nullable=False),
            sql.Column("noticed_at", sql.Double, nullable=False),
            sql.Column("deadline", sql.Double),
            sql.Column("ended_at", sql.Double),
            sql.Column("outcome", sql.String(16)),
        ),
        "runs": (
            sql.Column("uid", sql.String(64), primary_key=True),
            sql.Column("kind", sql.String(64), nullable=False),
            sql.Column("namespace", sql.String(253), nullable=False),
            sql.Column("name", sql.String(253), nullable=False),
            sql.Column("queue", sql.String(253), nullable=False),
            sql.Column("arrived_at", sql.Double, nullable=False),
            sql.Column("first_started_at", sql.Double),
            sql.Column("finished_at", sql.Double),
            sql.Column("body", sql.Text, nullable=False),
        ),
        "remedies": (
            sql.Column("id", sql.String(320), primary_key=True),
            sql.Column("incident", sql.String(253), nullable=False),
            sql.Column("signal", sql.String(253), nullable=False),
            sql.Column("policy", sql.String(253), nullable=False),
            sql.Column("action", sql.String(64), nullable=False),
            sql.Column("began_at", sql.Double, nullable=False),
            sql.Column("ended_at", sql.Double),
            sql.Column("outcome", sql.String(16)),
            sql.Column("body", sql.Text, nullable=False),
        ),
        "incidents": (
            sql.Column("id", sql.String(320), primary_key=True),
            sql.Column("kind", sql.String(253), nullable=False),
            sql.Column("severity", sql.String(16), nullable=False),
            sql.Column("cluster", sql.String(253), nullable=False),
            sql.Column("opened_at", sql.Double, nullable=False),
            sql.Column("ended_at", sql.Double),
            sql.Column("outcome", sql.String(32)),
            sql.Column("gpu_hours_at_risk", sql.Double),
            sql.Column("usd_at_risk", sql.String(64)),
            sql.Column("gpu_hours_saved", sql.Double),
            sql.Column("usd_saved", sql.String(64)),
            sql.Column("body", sql.Text, nullable=False),
        ),
        "states": (
            sql.Column("name", sql.String(64), primary_key=True),
            sql.Column("at", sql.Double, nullable=False),
            sql.Column("body", sql.LargeBinary, nullable=False),
        ),
        "memories": (
            sql.Column("name", sql.String(64), primary_key=True),
            sql.Column("at", sql.Double, nullable=False),
            sql.Column("body", sql.Text, nullable=False),
        ),
        "learned": (
            sql.Column("name", sql.String(64), primary_key=True),
            sql.Column("saved_at", sql.Double, nullable=False),
            sql.Column("body", sql.Text, nullable=False),
        ),
    }
