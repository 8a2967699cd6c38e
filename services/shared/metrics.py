"""What every service counts. Names say the unit; labels hold few values, never an id."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
_MESSAGES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)

requests_total = Counter("stratum_requests_total", "RPCs answered.", ["method", "code"])
request_seconds = Histogram(
    "stratum_request_seconds", "From an RPC's arrival to its answer.", ["method"], buckets=_SECONDS
)
open_streams = Gauge("stratum_open_streams", "Streaming RPCs that are open.", ["method"])

stage_lag = Gauge("stratum_stage_lag_messages", "Messages of the source stream that are not applied yet.", ["stage"])
stage_messages = Counter("stratum_stage_messages_total", "Messages by what became of them.", ["stage", "result"])
stage_batch_messages = Histogram(
    "stratum_stage_batch_messages", "Messages in one transaction.", ["stage"], buckets=_MESSAGES
)
stage_batch_seconds = Histogram(
    "stratum_stage_batch_seconds", "One transaction, from fence to commit.", ["stage"], buckets=_SECONDS
)
stage_gaps = Counter("stratum_stage_gaps_total", "Events that began to wait for a keyframe.", ["stage"])
stage_dead_letters = Counter("stratum_stage_dead_letters_total", "Messages that could not be read.", ["stage"])
stage_failures = Counter(
    "stratum_stage_failures_total", "Times a stage dropped its state and began anew.", ["stage", "error"]
)
stage_cached_events = Gauge("stratum_stage_cached_events", "Event states held in memory.", ["stage"])

outbox_published = Counter("stratum_outbox_published_total", "Messages that the bus has acknowledged.", ["stream"])
outbox_repeated = Counter("stratum_outbox_repeated_total", "Published messages that the bus knew already.", ["stream"])

cycle_messages = Counter("stratum_cycle_messages_total", "Messages of polls that were applied.", ["stage", "sport_key"])
cycle_results = Counter(
    "stratum_cycle_results_total",
    "What polls led to, by the names of docs/ops-kpis.md.",
    ["stage", "sport_key", "result"],
)
