"""The ten strongest signals there are, and then every new one as it comes.

    STRATUM_API_KEY=stratum_live_… STRATUM_URL=http://127.0.0.1:8080 python follow.py

`make demo` prints a key. FOLLOW=5 ends after five new signals.
"""

from __future__ import annotations

import os
import sys

from stratum_client import AuthenticationError, Client, Signal, StreamLostError, Truncated


def main() -> int:
    """Prints until it is interrupted, or the stream ends for good."""
    wanted = int(os.environ.get("FOLLOW", "0"))
    with Client() as client:
        for signal in client.signals(collapse="FACT").all(limit=10):
            print(line(signal))
        if client.usage_seen:
            print(f"-- {client.usage_seen.used} units used, {client.usage_seen.remaining} left", flush=True)
        try:
            follow(client, wanted)
        except AuthenticationError as error:
            print(f"the key is not accepted any more: {error}", file=sys.stderr)
            return 1
        except StreamLostError as error:
            print(f"{error}; go on behind {error.cursor}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            pass
    return 0


def follow(client: Client, wanted: int) -> None:
    """Prints new signals, as many as are wanted; without end for 0."""
    with client.watch() as stream:
        for item in stream:
            match item:
                case Signal():
                    print(line(item), flush=True)
                    wanted -= 1
                    if wanted == 0:
                        return
                case Truncated():
                    print(f"-- signals were missed: {item.reason}", flush=True)


def line(signal: Signal) -> str:
    """One signal on one line."""
    return (
        f"{signal.observed_at:%H:%M:%S} {signal.signal_type:<14} {signal.tier:<6} {signal.composite_score:5.1f}  "
        f"{signal.away_team} at {signal.home_team}  {signal.market} {number(signal.from_value)} → "
        f"{number(signal.to_value)}  {signal.direction.lower().replace('_', ' ')}"
    )


def number(value: float | None) -> str:
    """A line or a probability, with its sign; a dash where there is none."""
    return "–" if value is None else f"{value:+g}"


if __name__ == "__main__":
    sys.exit(main())
