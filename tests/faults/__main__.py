"""`make faults`: a recording through the real system while everything goes wrong, compared with a run in peace."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from deploy.recording import Recording, iso, open_recording, read_moment
from deploy.stack import StackFailedError
from services.shared.testing import find_recorded
from tests.faults import schedule
from tests.faults.run import Laboratory, Outcome, Stillness, UnrestError

ROOT = Path(__file__).resolve().parents[2]


def slice_of(series: Path, folder: Path, answers: slice, squeeze: float = 1.0) -> Recording:
    """Some answers of a series as a recording of their own; the archives stay where they are.

    `squeeze` divides the time between answers: squeezed, most messages are no keyframes, as from a live feed.
    """
    head, *lines = (series / "INDEX.tsv").read_text().splitlines()
    lines = [line for line in lines if line.strip()][answers]
    first = read_moment(lines[0].split("\t")[0])
    folder.mkdir(parents=True)
    written = []
    for line in lines:
        utc, archive, *rest = line.split("\t")
        seconds = (read_moment(utc) - first).total_seconds() / squeeze
        written.append("\t".join([iso(first + timedelta(seconds=round(seconds))), archive, *rest]))
        with suppress(FileExistsError):
            (folder / archive).symlink_to((series / archive).absolute())
    (folder / "INDEX.tsv").write_text("\n".join([head, *written]) + "\n")
    return open_recording(folder)


def printed(outcome: Outcome) -> str:
    """What a run came to, for people."""
    lines = [f"seed {outcome.seed}: {outcome.seconds:.0f} s"]
    lines.append("  faults that really happened (of those tried)")
    for kind, number in outcome.by_kind().items():
        whom = ", ".join(
            f"{target} {count}" for (one, target), count in sorted(outcome.happened.items()) if one == kind
        )
        note = f"not injected: {outcome.impossible[kind]}" if kind in outcome.impossible else whom
        lines.append(f"    {kind:<30} {number:>4} of {outcome.tried[kind]:<4} {note}")
    lines.append(f"    not yet read when their stream was made anew: {outcome.unread_when_remade} messages")
    if outcome.restarted_after_full_disk:
        lines.append(f"    NATS started again after a full disk: {outcome.restarted_after_full_disk}")
    lines.append(f"    dead letters: {outcome.dead_letters}")
    lines.append("  rows compared with the undisturbed run")
    lines.extend(f"    {table:<30} {rows:>7}" for table, rows in outcome.compared.items())
    lines.append(f"  differences: {len(outcome.differences)}")
    lines.extend(
        f"    {one.table} {one.key}: {_shown(one.undisturbed)} / {_shown(one.disturbed)}"
        for one in outcome.differences[:10]
    )
    if outcome.missing:
        lines.append(f"  NEVER HAPPENED: {', '.join(outcome.missing)}")
    return "\n".join(lines)


def printed_stillness(still: Stillness) -> str:
    """What standing still came to, for people."""
    return (
        f"consensus stood still: {still.messages_behind} messages behind; lag rose to {still.lag_seen} and fell to "
        f"{still.lag_after} in {still.catching_up_seconds:.1f} s; resident {still.resident_before:.0f} MB before, "
        f"{still.resident_most:.0f} MB at most, {still.resident_after:.0f} MB after; "
        f"differences: {len(still.differences)}"
    )


def _shown(row: tuple[object, ...] | None) -> str:
    return "absent" if row is None else repr(row)[:160]


def as_json(outcome: Outcome) -> Mapping[str, object]:
    """The same, for programs."""
    return {
        "seed": outcome.seed,
        "seconds": round(outcome.seconds, 1),
        "happened": {f"{kind}: {target}": number for (kind, target), number in sorted(outcome.happened.items())},
        "not_injected": dict(outcome.impossible),
        "unread_when_remade": outcome.unread_when_remade,
        "dead_letters": outcome.dead_letters,
        "rows_compared": dict(outcome.compared),
        "differences": len(outcome.differences),
        "good": outcome.good,
    }


async def main(seeds: Sequence[int], series: Path, answers: int, squeeze: float, still: bool) -> bool:
    """Runs in peace, then with every seed's faults; says whether all was well."""
    with tempfile.TemporaryDirectory(prefix="stratum-faults-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as a user of its own
        with slice_of(series, folder / series.name, slice(answers), squeeze) as recording:
            laboratory = Laboratory(recording, folder, _say)
            _say(f"{len(recording)} answers of {series.name}, {squeeze:g} times as close; undisturbed first")
            undisturbed = await laboratory.undisturbed()
            _say(f"undisturbed: {sum(map(len, undisturbed.values()))} rows")
            good = True
            if still:
                stillness = await laboratory.with_one_standing_still(undisturbed)
                _say(printed_stillness(stillness))
                good = not stillness.differences
            outcomes = []
            for seed in seeds:
                _say(f"seed {seed}")
                try:
                    outcome = await laboratory.disturbed(seed, schedule.LONG, undisturbed)
                except (UnrestError, StackFailedError) as error:
                    _say(f"seed {seed} FAILED: {error}\nlogs: {_keep_logs(folder, seed)}")
                    return False
                if not outcome.good:
                    _say(f"logs: {_keep_logs(folder, seed)}")
                outcomes.append(outcome)
                _say(printed(outcome))
                good = good and outcome.good
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "faults.json").write_text(json.dumps([as_json(outcome) for outcome in outcomes], indent=2) + "\n")
    _say("all equal, written to build/faults.json" if good else "NOT WELL: see above")
    return good


def _keep_logs(folder: Path, seed: int) -> Path:
    """The logs outlive the run that went wrong."""
    kept = ROOT / "build" / f"faults-seed-{seed}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder / f"seed-{seed}" / "logs", kept)
    return kept


async def interruptible(work: Coroutine[Any, Any, bool]) -> bool:
    """SIGTERM ends it as Ctrl-C does: everything that was started is ended, and the small disks are given back."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _say(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="which faults, and when; may be repeated")
    parser.add_argument("--recording", type=Path, help="a recorded series; by default nba_2h of the recorded data")
    parser.add_argument("--answers", type=int, default=300, help="so many of its first answers")
    parser.add_argument(
        "--squeeze",
        type=float,
        default=40.0,
        help="make the time between two answers so many times shorter; 1 leaves it as recorded, and every message of a "
        "sparse recording is a keyframe then",
    )
    parser.add_argument("--no-still", action="store_true", help="leave out the run in which consensus stands still")
    given = parser.parse_args()
    chosen = given.recording or find_recorded("nba_2h")
    if chosen is None:
        parser.error("the recorded series are not here: set STRATUM_DATA to their folder, or give --recording")
    well = asyncio.run(
        interruptible(main(given.seed or [1, 2, 3], chosen, given.answers, given.squeeze, not given.no_still))
    )
    sys.exit(0 if well else 1)
