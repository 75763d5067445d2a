"""What must never be shown: the forms that credentials have, taken out of any text that comes from outside. Pure.

A last line of defence: whoever has a secret must not put it into a text in the first place. But what clouds, API
servers and libraries say is not ours, and some of them repeat what they were sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

HIDDEN: Final = "(hidden)"
_NAMES: Final = (
    "access_token|api_key|apikey|assertion|aws_secret_access_key|aws_session_token|client_assertion|client_secret|"
    "clientSecret|id_token|password|private_key|refresh_token|secret|secretAccessKey|sessionToken|token"
)
_FORMS: Final = tuple(
    (needles, re.compile(pattern), replacement)
    for needles, pattern, replacement in (
        (("-----begin ",), r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", HIDDEN),
        (("k8s-aws-v1.",), r"\bk8s-aws-v1\.[A-Za-z0-9_=-]+", f"k8s-aws-v1.{HIDDEN}"),
        (("eyj",), r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*)?", HIDDEN),
        (("ya29.",), r"\bya29\.[A-Za-z0-9_.-]+", HIDDEN),
        # Not the whole words: without regard to case other letters, too, are an "s" or an "i".
        (("bearer", "ba"), r"(?i)\b(bearer|basic)(\s+)(?=\S{20}|\S*\d)[A-Za-z0-9._~+/-]{8,}=*", rf"\1\2{HIDDEN}"),
        (("=",), r"(?i)\b(X-Amz-(?:Signature|Credential|Security-Token)|Signature|sig)=[^&\s\"'<>,]+", rf"\1={HIDDEN}"),
        (("=",), rf"\b({_NAMES})=[^&\s\"'<>,;]+", rf"\1={HIDDEN}"),
        (('"', "'"), rf"([\"'])({_NAMES})\1(\s*:\s*)([\"'])(?:(?!\4).)+\4", rf"\1\2\1\3\4{HIDDEN}\4"),
        (("://",), r"(\w://[^/\s:@]*):[^/\s@]+@", rf"\1:{HIDDEN}@"),
    )
)
"""Each with what a text must have one of, in lower case, to have that form: most texts are spared the search for it."""
_SECRET_KEYS: Final = ("token", "secret", "password", "authorization")
_DEEPEST: Final = 8


def hide(text: str) -> str:
    """The text without anything that has the form of a credential."""
    lower = text.lower()
    for needles, form, replacement in _FORMS:
        for needle in needles:
            if needle in lower:
                text = form.sub(replacement, text)
                break
    return text


def hide_in(value: Any, depth: int = 0) -> Any:
    """The JSON-like value with `hide` applied to every text in it, and what keys name as secret left out."""
    if isinstance(value, str):
        return hide(value)
    if depth >= _DEEPEST:
        return value
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if names_a_secret(str(key)) and item is not None else hide_in(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [hide_in(item, depth + 1) for item in value]
    return value


@lru_cache(maxsize=1024)
def names_a_secret(key: str) -> bool:
    """Whether what is kept under this key is to be hidden whatever it says."""
    return any(word in key.lower() for word in _SECRET_KEYS)
