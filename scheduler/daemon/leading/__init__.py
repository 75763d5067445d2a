"""Who leads: the Lease, and the fence that every write passes."""
