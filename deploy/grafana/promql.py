"""Expressions that views share."""

from __future__ import annotations


def events(by: str, counter: str) -> str:
    """How many of them there were within the time shown, by these labels.

    `increase` knows nothing of the first of its kind, as its series begins with it; a series that was not there when
    the time shown began is counted whole.
    """
    return f"sum by ({by}) (({counter} unless {counter} offset $__range) or increase({counter}[$__range]))"


def total(counter: str) -> str:
    """The same of all together."""
    return f"sum(({counter} unless {counter} offset $__range) or increase({counter}[$__range]))"


def named(label: str, otherwise: str, expression: str) -> str:
    """With a word where the label is empty."""
    return f'label_replace({expression}, "{label}", "{otherwise}", "{label}", "")'
