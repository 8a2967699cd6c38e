"""What the usage reader counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

lines_read = Counter("stratum_usage_lines_read_total", "Lines of the access log that were read.")
lines_sent = Counter(
    "stratum_usage_lines_sent_total", "Lines that billing has answered for, those that were sent again counted again."
)
lines_answered = Counter(
    "stratum_usage_lines_answered_total",
    "The same by billing's answer: recorded, repeated, conflicting, unrated.",
    ["result"],
)
lines_aside = Counter(
    "stratum_usage_lines_aside_total", "Lines that were kept aside: unreadable, or refused by billing.", ["kind"]
)
batch_seconds = Histogram(
    "stratum_usage_batch_seconds",
    "From a batch's reading to its stored offset.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0),
)
failures = Counter(
    "stratum_usage_failures_total", "Batches that failed and were begun anew, by what failed.", ["error"]
)
lag_bytes = Gauge("stratum_usage_lag_bytes", "Bytes of the access log that are not in the ledger yet.")
lag_seconds = Gauge("stratum_usage_lag_seconds", "Age of the oldest served call that is not in the ledger yet.")
logs = Gauge("stratum_usage_logs", "Files of the access log that are kept, the one being written included.")
logs_missed = Counter("stratum_usage_logs_missed_total", "Files that were gone or cut off before they were read.")
rotations = Counter("stratum_usage_rotations_total", "Logs that were rotated.")
removed = Counter("stratum_usage_logs_removed_total", "Logs that were removed after they were read.")
reopen_failures = Counter("stratum_usage_reopen_failures_total", "Times that Envoy did not open its log again.")
disk_free_ratio = Gauge("stratum_usage_disk_free_ratio", "Free share of a disk, for those who are not root.", ["of"])
