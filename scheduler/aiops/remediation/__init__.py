"""Which remedy, when, and above all when not. Pure.

facts.py     incidents and the fleet, as they are looked at     matching.py  policies to incidents, incidents to things
state.py     what is remembered: frozen, bounded, JSON          order.py     actions that seldom helped come last
guards.py    why an action must not begin                       breaker.py   when to stop altogether, and how to go on
choice.py    all of it together: `remediate` and `settle`

What is carried out, and how, is the daemon's (`scheduler.daemon.incidents.remedies`).
"""
