"""A fleet's telemetry with faults planted in it, and how well the monitor finds them.

`fleet` lays out nodes and services, `jobs` starts and stops work on them, `telemetry` makes each round's samples with
their noise (`site_gauges` those of a site's own queries), `kinds` and `unnamed` are the faults, `targets` says where
they go, `scenario` is the file, `study` runs the monitor over it, `scoring` counts.
"""
