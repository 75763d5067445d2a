"""Prometheus metrics of the daemon, in one place. Base units, bounded labels, `overspill_` before each name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAITS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0, 604800.0)


class Telemetry:
    """All metrics of one daemon, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        one = self.registry
        self.cycles = Counter("overspill_cycles", "Scheduling cycles run.", registry=one)
        self.cycle_seconds = Histogram(
            "overspill_cycle_duration_seconds", "Time of one pure scheduling cycle.", buckets=_SECONDS, registry=one
        )
        self.decisions = Counter(
            "overspill_decisions", "Decisions by outcome and reason.", ["outcome", "reason"], registry=one
        )
        self.bursts = Counter("overspill_bursts", "Workloads placed on bought capacity.", ["cluster"], registry=one)
        self.returns = Counter("overspill_returns", "Bought nodes given back.", ["cluster"], registry=one)
        self.workloads = Gauge("overspill_workloads", "Workloads by queue and phase.", ["queue", "phase"], registry=one)
        self.queue_share = Gauge(
            "overspill_queue_dominant_share_ratio", "Weighted dominant share of a queue.", ["queue"], registry=one
        )
        self.shadow_price = Gauge(
            "overspill_shadow_price_usd",
            "What one more unit of what binds would have saved in the last cycle, by pool or budget and resource.",
            ["name", "resource", "unit"],
            registry=one,
        )
        self.solver = Counter(
            "overspill_solver_runs",
            "Cycles in which the backlog was weighed as a whole: optimal, or greedy where no optimum was found.",
            ["result"],
            registry=one,
        )
        self.queue_wait = Histogram(
            "overspill_queue_wait_seconds",
            "From being queued to the copy's start, in the federation's time.",
            ["queue"],
            buckets=_WAITS,
            registry=one,
        )
        self.spend = Gauge(
            "overspill_spend_usd",
            "Metered spend on bought nodes so far.",
            ["queue", "cluster", "capacity_type"],
            registry=one,
        )
        self.budget_left = Gauge(
            "overspill_budget_left_usd", "Limit less spent and committed.", ["policy", "budget"], registry=one
        )
        self.price_age = Gauge(
            "overspill_price_age_seconds",
            "Age of the price that a pool is planned with.",
            ["cluster", "pool"],
            registry=one,
        )
        self.unpriced_pools = Gauge(
            "overspill_unpriced_pools", "Pools whose price is not known.", ["cluster"], registry=one
        )
        self.price_changes = Counter(
            "overspill_price_changes",
            "Gathered prices that changed, were learned or were lost.",
            ["cluster"],
            registry=one,
        )
        self.price_source_failures = Counter(
            "overspill_price_source_failures",
            "Readings of a price source that failed.",
            ["source"],
            registry=one,
        )
        self.metric_readings = Counter(
            "overspill_metric_readings",
            "Readings of members' metrics by what came of them: ok, absent, stale, failed.",
            ["cluster", "state"],
            registry=one,
        )
        self.metrics_round_seconds = Histogram(
            "overspill_metrics_round_duration_seconds",
            "Time of one collection of all members' metrics.",
            buckets=_SECONDS,
            registry=one,
        )
        self.pool_nodes = Gauge(
            "overspill_pool_nodes", "Nodes of a pool: all, ready.", ["cluster", "pool", "state"], registry=one
        )
        self.pool_gpus = Gauge(
            "overspill_pool_gpus", "GPUs of a pool's nodes: all, used.", ["cluster", "pool", "state"], registry=one
        )
        self.writes = Counter(
            "overspill_writes",
            "Kubernetes writes by cluster, step and result.",
            ["cluster", "step", "result"],
            registry=one,
        )
        self.provider_calls = Counter(
            "overspill_provider_calls",
            "Cloud calls by cluster, call and result.",
            ["cluster", "call", "result"],
            registry=one,
        )
        self.watch_failures = Counter(
            "overspill_watch_failures",
            "Lists and watches that failed, by kind of error.",
            ["cluster", "resource", "error"],
            registry=one,
        )
        self.malformed = Counter(
            "overspill_malformed_objects",
            "API objects that could not be understood.",
            ["cluster", "resource"],
            registry=one,
        )
        self.reclaims = Counter(
            "overspill_reclaims",
            "Nodes that their cloud said it takes back, by what said so.",
            ["cluster", "pool", "source"],
            registry=one,
        )
        self.reclaim_advice = Counter(
            "overspill_reclaim_advice",
            "Nodes that their cloud said it may take back soon, by what said so.",
            ["cluster", "pool", "source"],
            registry=one,
        )
        self.remedies = Counter(
            "overspill_remedies",
            "Actions about incidents that came to their end, by what came of them: done, failed, overtaken.",
            ["policy", "action", "outcome"],
            registry=one,
        )
        self.remedies_refused = Gauge(
            "overspill_remedies_refused",
            "Actions that are not taken now, by why not (DryRun: they would be).",
            ["policy", "action", "reason"],
            registry=one,
        )
        self.remedy_cases = Gauge(
            "overspill_remedy_cases",
            "Incidents that something is done about, by how far it is.",
            ["phase"],
            registry=one,
        )
        self.breakers_open = Gauge(
            "overspill_remedy_breakers_open",
            "Families of signals on which a policy does not act.",
            ["policy", "cause"],
            registry=one,
        )
        self.paused = Gauge("overspill_paused", "1 while what is switched off is off.", ["what"], registry=one)
        self.watch_rounds = Counter(
            "overspill_fleet_watch_rounds", "Rounds in which the rules looked at the fleet.", ["result"], registry=one
        )
        self.findings = Counter(
            "overspill_findings", "What the rules found, by kind (of the rules' own words).", ["kind"], registry=one
        )
        self.watch_seconds = Histogram(
            "overspill_fleet_watch_round_duration_seconds", "Time of one such round.", buckets=_SECONDS, registry=one
        )
        self.detector_series = Gauge(
            "overspill_detector_series", "Series that the learning detectors look at.", registry=one
        )
        self.detector_metrics = Gauge(
            "overspill_detector_metrics",
            "Metrics by how far the detectors are with them: learning, speaking, left out (no room).",
            ["state"],
            registry=one,
        )
        self.incidents = Counter(
            "overspill_incidents",
            "Incidents that ended, by the first word of their kind and what came of them: remedied, passed, merged.",
            ["kind", "outcome"],
            registry=one,
        )
        self.gpu_seconds_saved = Counter(
            "overspill_incident_saved_gpu_seconds",
            "GPU-seconds that remedies saved, by how long such trouble used to go unnoticed.",
            registry=one,
        )
        self.usd_saved = Counter(
            "overspill_incident_saved_usd", "The same at the nodes' prices, where known.", registry=one
        )
        self.gpu_seconds_at_risk = Gauge(
            "overspill_incident_at_risk_gpu_seconds",
            "GPU-seconds of work since the last checkpoints that is lost if what open incidents hit stops now.",
            registry=one,
        )
        self.usd_at_risk = Gauge(
            "overspill_incident_at_risk_usd", "The same at the nodes' prices, where known.", registry=one
        )
        self.incidents_open = Gauge(
            "overspill_incidents_open", "Incidents that are open.", ["severity", "cluster"], registry=one
        )
        self.webhooks = Counter(
            "overspill_webhooks", "Alertmanager webhooks by what came of them.", ["result"], registry=one
        )
        self.member_reachable = Gauge(
            "overspill_member_reachable", "1 while the member's API answers.", ["cluster"], registry=one
        )
        self.loop_restarts = Counter(
            "overspill_loop_restarts", "Loops that failed and restarted.", ["loop"], registry=one
        )
        self.loop_lag = Gauge(
            "overspill_event_loop_lag_seconds", "How late the event loop runs its timers.", registry=one
        )
        self.keys = Gauge("overspill_reconcile_queue_keys", "Workloads waiting to be reconciled.", registry=one)
        self.leader = Gauge("overspill_leader", "1 while this process holds the Lease.", registry=one)
        self.policy_reload = Gauge(
            "overspill_policy_last_reload_success", "1 when the policies on disk are the ones in force.", registry=one
        )
        self.policy_reloaded_at = Gauge(
            "overspill_policy_last_reload_timestamp_seconds", "When the policies in force were loaded.", registry=one
        )
        self.history_dropped = Counter(
            "overspill_history_dropped", "History records dropped because the database was too slow.", registry=one
        )
        self.events_dropped = Counter(
            "overspill_events_dropped", "Kubernetes Events not written because too many were waiting.", registry=one
        )
        self.shadow_saved = Gauge(
            "overspill_shadow_saved_usd",
            "Shadow mode: expected cost below running each workload on the cheapest on-demand offering open to it.",
            registry=one,
        )

        self.model_error = Gauge(
            "overspill_model_error_ratio",
            "Mean absolute log error of predicted run times over the last seven days, by queue, gpu or source.",
            ["by", "name"],
            registry=one,
        )
        self.model_coverage = Gauge(
            "overspill_model_coverage_ratio",
            "Share of runs that ended within their 90 % interval over the last seven days.",
            ["by", "name"],
            registry=one,
        )
        self.model_drifting = Gauge(
            "overspill_model_drifting",
            "1 while far more runs miss their interval than wanted.",
            ["queue"],
            registry=one,
        )
        self.said_error = Gauge(
            "overspill_model_said_error_ratio",
            "Mean absolute log error of the last 50 said: wait (by cluster), cost and start (by pool), latency.",
            ["what", "name"],
            registry=one,
        )
        self.said_coverage = Gauge(
            "overspill_model_said_coverage_ratio",
            "Share of the last 20 outcomes (wait, cost, start, latency) that stayed under their 90 % quantile.",
            ["what", "name"],
            registry=one,
        )
        self.said_drifting = Gauge(
            "overspill_model_said_drifting",
            "1 while far fewer outcomes (wait, cost, start, latency) stay under their 90 % quantile than wanted.",
            ["what", "name"],
            registry=one,
        )
        self.model_refits = Counter(
            "overspill_model_refits",
            "Refits by what came of them: adopted or rejected.",
            ["model", "result"],
            registry=one,
        )
        self.model_refit_seconds = Gauge("overspill_model_refit_seconds", "Time of the last refit.", registry=one)
        self.model_observations = Counter(
            "overspill_model_observations", "What was learned from, by kind.", ["kind"], registry=one
        )
        self.model_dropped = Counter(
            "overspill_model_observations_dropped", "Observations dropped because too many were waiting.", registry=one
        )

    def expose(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
