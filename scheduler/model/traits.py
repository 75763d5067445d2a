"""What a run is, beyond its name: declared by its user, or read from the words of its name and image. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

PRECISIONS: Final = ("fp32", "tf32", "fp16", "bf16", "fp8")
_PRECISION_WORDS: Final = {one: one for one in PRECISIONS} | {
    "float32": "fp32", "float16": "fp16", "half": "fp16", "amp": "fp16", "bfloat16": "bf16",
}  # fmt: skip
_FRAMEWORKS: Final = (
    ("deepspeed", "deepspeed"), ("megatron", "megatron"), ("nemo", "megatron"), ("pytorch", "pytorch"),
    ("torch", "pytorch"), ("tensorflow", "tensorflow"), ("jax", "jax"), ("flax", "jax"), ("mxnet", "mxnet"),
    ("paddle", "paddle"),
)  # fmt: skip
"""A word's beginning, and the framework: those built on others first."""
_PARAMETERS: Final = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)b|(\d{3}(?:\.\d{1,3})?)m")
_SEQUENCE: Final = re.compile(r"(?:seq|ctx|context)(?:[-_]?len(?:gth)?)?[-_]?(\d{1,7})(k?)(?![a-z0-9])")
_MOST_SEQUENCE: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Traits:
    """None: not known."""

    parameters: float | None = None
    """That each token passes through."""
    sequence_length: int | None = None
    """Tokens of one sample."""
    precision: str | None = None
    """Of the arithmetic, one of `PRECISIONS`."""
    framework: str | None = None

    def or_else(self, other: Traits) -> Traits:
        """What this one lacks, from `other`."""
        return Traits(
            other.parameters if self.parameters is None else self.parameters,
            other.sequence_length if self.sequence_length is None else self.sequence_length,
            other.precision if self.precision is None else self.precision,
            other.framework if self.framework is None else self.framework,
        )


NO_TRAITS: Final = Traits()


def inferred(texts: Iterable[str]) -> Traits:
    """From names and images, the most telling first: `llama-3-8b-seq4096-bf16`, `nvcr.io/nvidia/pytorch:24.05-py3`.

    Billions of parameters are `8b` or `1.5b`, millions have three digits (`350m`: `10m` may be minutes). A mixture such
    as `8x7b` tells nothing: how many of its parameters a token passes through is not said.
    """
    found = NO_TRAITS
    for text in texts:
        found = found.or_else(_read(text.lower()))
    return found


@lru_cache(maxsize=4096)
def _read(text: str) -> Traits:
    words = [word.strip(".") for word in re.split(r"[^a-z0-9.]+", text)]
    sizes = [match for word in words if (match := _PARAMETERS.fullmatch(word))]
    sequence = _SEQUENCE.search(text)
    return Traits(
        _size(sizes[0]) if sizes else None,
        _length(sequence) if sequence else None,
        next((_PRECISION_WORDS[word] for word in words if word in _PRECISION_WORDS), None),
        next((name for start, name in _FRAMEWORKS if any(word.startswith(start) for word in words)), None),
    )


def _size(match: re.Match[str]) -> float | None:
    billions, millions = match.groups()
    size = float(billions) * 1e9 if billions else float(millions) * 1e6
    return size if size > 0 else None


def _length(match: re.Match[str]) -> int | None:
    length = int(match[1]) * (1024 if match[2] else 1)
    return length if 0 < length <= _MOST_SEQUENCE else None
