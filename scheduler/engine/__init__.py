"""Pure verbs: snapshot and policies in, plan out. No clock, no randomness, no I/O, no logging.

cycle.py        the decision, in four steps           world.py       one cycle's working state
settlement.py   what is placed already                rooms.py       room of each pool, now and to come
assignment.py   new placements, in turn               packing.py     gangs onto nodes
burst.py        sizes of managed pools                queue_order.py, fairshare.py, quota.py   whose turn, how much
give_back.py    idle bought nodes                     matching.py    which policy speaks for whom
candidates.py   offerings weighed and scored          filters.py     why an offering is not for a workload
budgets.py      windows and limits                    commitments.py what is promised on bought nodes
board.py        all offerings of a class at once      bulk.py        equal workloads placed together
timeline.py     room at each instant, all at once     census.py      equal workloads, and what is predicted
affordable.py   what money forbids, all at once       tally.py       runs counted against budgets and limits
spend.py        node time times price, exactly        explain.py     decisions in words
lifecycle.py    a hub object and its copy, step by step
"""
