"""CEL rules of custom resources (`x-kubernetes-validations`): `self` and, where a value is being replaced, `oldSelf`.

CEL's standard library only; Kubernetes' own extensions (quantities, URLs, regular expression search) are not there.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from typing import Any, Final

from clusters.sandbox.apiserver import fieldsets
from clusters.sandbox.apiserver.failures import Cause, Json, bad_request, invalid, required
from clusters.sandbox.apiserver.schema import LIST, MAP, Type

KEY: Final = "x-kubernetes-validations"
_OLD: Final = "oldSelf"


@functools.cache
def _environment() -> Any:
    cel = importlib.import_module("cel_expr_python.cel")  # only CRDs with rules need it, and it takes time to load
    return cel.NewEnv(variables={"self": cel.Type.DYN, _OLD: cel.Type.DYN})


@functools.lru_cache(maxsize=512)
def _compiled(rule: str) -> Any:
    """Raises: StatusError 400 for a rule that is not CEL."""
    try:
        return _environment().compile(rule)
    except (ValueError, RuntimeError) as error:
        raise bad_request(f"compilation failed: {str(error).splitlines()[0]}") from None


def rule_problem(rule: Any) -> str | None:
    """What is wrong with the text of a rule; None when nothing is."""
    if not isinstance(rule, str) or not rule.strip():
        return "must be a CEL expression"
    try:
        _compiled(rule)
    except Exception as error:  # noqa: BLE001  (the CEL library says what is wrong in several types)
        return str(error)
    return None


def causes(made: Type, new: Any, old: Any, path: str) -> Iterator[Cause]:
    """Rules that `new` breaks, at this field and below. `old`: what it replaces; None when nothing."""
    if not made.rules_inside or new is None or new is old:
        return
    for rule in made.rules:
        yield from _broken(rule, new, old, path)
    inner = made.value
    if isinstance(new, dict):
        before: Json = old if isinstance(old, dict) else {}
        for key, item in new.items():
            child = inner if made.form == MAP else made.props.get(key)
            if child is not None:
                yield from causes(child, item, before.get(key), f"{path}.{key}" if path else key)
    elif isinstance(new, list) and made.form == LIST and inner is not None:
        known = fieldsets.keyed(old, made) if isinstance(old, list) and made.list_type == "map" else {}
        for index, item in enumerate(new):
            was = known.get(fieldsets.item_key(item, made)) if known else None
            yield from causes(inner, item, was, f"{path}[{index}]")


def _broken(rule: Json, new: Any, old: Any, path: str) -> Iterator[Cause]:
    text = str(rule.get("rule"))
    if _OLD in text and old is None:
        return  # a rule on transitions, and there is none
    shown = "object" if isinstance(new, dict) else "array" if isinstance(new, list) else new
    result = _compiled(text).eval(data={"self": new, _OLD: old})
    if result.value() is True:
        return
    message = rule.get("message") or f"failed rule: {text}"
    if result.value() is not False:
        message = f"rule evaluation error: {result.value()}"
    at = f"{path}{rule.get('fieldPath') or ''}"
    if rule.get("reason") == "FieldValueRequired":
        yield required(at, message)
    elif rule.get("reason") == "FieldValueForbidden":
        yield Cause("FieldValueForbidden", at, f"Forbidden: {message}")
    else:
        yield invalid(at, shown, message)
