"""What Prometheus sees of a server; one registry each, nothing global."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from .engine import Answered

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.requests = Counter("arr_coc_requests", "HTTP requests", ["route", "status"], registry=r)
        self.questions = Counter("arr_coc_questions", "Questions answered", ["explored"], registry=r)
        self.tokens = Counter("arr_coc_visual_tokens", "Visual tokens spent", registry=r)
        self.saved = Counter("arr_coc_visual_tokens_saved", "Visual tokens that full detail would add", registry=r)
        self.seconds = Histogram(
            "arr_coc_stage_seconds", "Latency by stage",
            ["stage"], buckets=_SECONDS, registry=r,
        )  # fmt: skip
        self.fallbacks = Counter("arr_coc_fallbacks", "Questions answered without a decision", registry=r)
        self.inside = Gauge("arr_coc_questions_inside", "Questions inside the server now", registry=r)
        self.reward = Histogram(
            "arr_coc_reward", "Rewards that came in", buckets=(0.0, 0.25, 0.5, 0.75, 1.0), registry=r
        )
        self.commit = Histogram("arr_coc_log_commit_seconds", "Group commits of the log", buckets=_SECONDS, registry=r)
        self.lines = Counter("arr_coc_log_records", "Records on the log", registry=r)
        self.psi = Gauge("arr_coc_drift_context_psi", "Largest population stability index of a context", registry=r)
        self.fall = Gauge("arr_coc_drift_reward_statistic", "Page-Hinkley statistic of the reward", registry=r)
        self.alarms = Counter("arr_coc_drift_alarms", "Drift alarms", ["kind"], registry=r)
        self.reloads = Counter("arr_coc_policy_reloads", "Policy reloads", ["result"], registry=r)
        self.policy = Info("arr_coc_policy", "The policy in use", registry=r)

    def answered(self, answered: Answered, stages: dict[str, float]) -> None:
        """Count one answer; `stages` holds its seconds by stage."""
        self.questions.labels("yes" if answered.taken is not None and answered.taken.explored else "no").inc()
        self.tokens.inc(answered.tokens)
        self.saved.inc(answered.full_tokens - answered.tokens)
        if answered.taken is None:
            self.fallbacks.inc()
        for stage, value in stages.items():
            self.seconds.labels(stage).observe(value)

    def committed(self, seconds: float, lines: int) -> None:
        """Count one group commit."""
        self.commit.observe(seconds)
        self.lines.inc(lines)

    def page(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)
