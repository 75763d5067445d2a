"""Division of services over clusters, pure. One file, one thought:

cycle.py      one service, one look               demand.py      what is believed of demand, what is planned for
capacity.py   what replicas carry within the SLO  waiting.py     queues that replicas share (Erlang C)
question.py   what an answer must hold            programme.py   the answer by HiGHS
greedy.py     the answer without it, and polish   slots.py       how many of them run which revision
handover.py   make before break                   weights.py     traffic follows ready capacity
rollout.py    canary and blue/green               outcome.py     decisions in words
memory.py     what is remembered, as JSON         binding.py     which limits bind, for `explain`
"""

from scheduler.engine.serving.cycle import horizons, serve
from scheduler.engine.serving.memory import Memory

__all__ = ["Memory", "horizons", "serve"]
