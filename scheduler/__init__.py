"""Overspill: a multi-cloud federation and bursting scheduler. See docs/architecture.md for the map."""
