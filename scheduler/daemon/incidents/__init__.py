"""Trouble: what looks for it, what is known of it, what is done about it, whom it is told."""
