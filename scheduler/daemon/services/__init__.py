"""Services divided over members: the thin shell around `scheduler.engine.serving`. What is measured of them, and how
their traffic is steered, comes through `ports`."""
