"""ServingSLO files: what they mean, and what is wrong with them, with the place and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.loader import check_bytes, load_policies
from scheduler.model.serving_policy import DomainRule, ScalingRule, ServingSLO

HEAD = "apiVersion: overspill.dev/v1alpha1\nkind: ServingSLO\nmetadata: {name: s}\nspec:\n"
EXAMPLE = Path("policies/examples/serve-within-slo.yaml")


def load(text: str) -> ServingSLO:
    checked = check_bytes((HEAD + text).encode(), "s.yaml")
    assert checked.policies is not None, checked.errors
    (slo,) = checked.policies.serving
    return slo


def test_the_example_says_what_its_comment_says() -> None:
    (slo,) = load_policies([EXAMPLE]).serving
    assert (slo.p95_first_token_seconds, slo.p95_latency_seconds, slo.max_error_ratio) == (0.8, None, 0.01)
    assert slo.domains == DomainRule("region", 1, 2)
    assert (slo.max_provider_share, slo.max_reclaimable_share, slo.warm_up_seconds) == (0.8, 0.5, 30.0)
    assert slo.scaling == ScalingRule(2, 60, 0.97, 600.0)
    assert slo.rollout.steps == (0.05, 0.25, 1.0)
    assert slo.match.labels == (("app", "chat"),)


def test_defaults() -> None:
    slo = load("  objective: {p95Latency: 2s}\n")
    assert slo == ServingSLO("s", p95_latency_seconds=2.0)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("  objective: {}\n", "objective: promises nothing; give p95Latency, p95FirstToken or maxErrorRatio"),
        ("  scaling: {minReplicas: 1}\n", "objective"),
        ("  objective: {p95Latency: 1s, p95FirstToken: 2s}\n", "is later than p95Latency"),
        ("  objective: {p95Latency: 1s}\n  scaling: {minReplicas: 3, maxReplicas: 2}\n", "less than minReplicas"),
        (
            "  objective: {p95Latency: 1s}\n  scaling: {maxReplicas: 2}\n"
            "  failureDomains: {minReplicas: 2, domains: 2}\n",
            "need more than scaling.maxReplicas (2)",
        ),
        ("  objective: {p95Latency: 1s}\n  limits: {maxProviderShare: 0}\n", "more than 0"),
        ("  objective: {p95Latency: 1s}\n  rollout: {steps: [0.5, 0.2, 1]}\n", "must rise and end in 1"),
        ("  objective: {p95Latency: 1s}\n  rollout: {steps: [0.5]}\n", "must rise and end in 1"),
        ("  objective: {p95Latnecy: 1s}\n", 'p95Latency"'),
        ("  objective: {p95Latency: -1s}\n", "not a duration"),
    ],
)
def test_mistakes_are_told_with_place_and_remedy(text: str, want: str) -> None:
    checked = check_bytes((HEAD + text).encode(), "s.yaml")
    assert checked.policies is None
    assert any(want in str(error) for error in checked.errors), checked.errors
    assert all(str(error).startswith("s.yaml:") for error in checked.errors)


def test_a_set_without_slos_keeps_the_name_it_had() -> None:
    text = b"apiVersion: overspill.dev/v1alpha1\nkind: Queue\nmetadata: {name: q}\n"
    slo = (HEAD + "  objective: {p95Latency: 1s}\n").encode()
    without, with_one = check_bytes(text, "q.yaml").policies, check_bytes(text + b"---\n" + slo, "q.yaml").policies
    assert without is not None
    assert with_one is not None
    assert without.serving == ()
    assert without.digest != with_one.digest
    assert check_bytes(text, "other.yaml").policies == without
