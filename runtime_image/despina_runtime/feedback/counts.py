"""What a pod counts of feedback, in the supervisor itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

REGISTRY = CollectorRegistry()
DELIVERED = Counter(
    "despina_feedback_delivered", "Predictions and labels that were delivered.", ["kind"], registry=REGISTRY
)
REFUSED = Counter(
    "despina_feedback_refused", "Predictions and labels that the sink never takes.", ["kind"], registry=REGISTRY
)
LOST = Counter(
    "despina_feedback_lost", "Predictions that were not delivered, and batches that were not stored.", ["why"],
    registry=REGISTRY,
)  # fmt: skip
WAITING = Gauge("despina_feedback_waiting", "What waits to be delivered.", ["kind"], registry=REGISTRY)
