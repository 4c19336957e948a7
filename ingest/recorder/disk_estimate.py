"""Disk usage estimate of a recording: gigabytes a day, and days until the disk is full.

Shown before a recording starts. Frames and bytes of each channel and coin come from the last recording in the home
that has them, and otherwise from figures measured in recorded data (`MEASURED`); every line names its source. The size
on disk is that of the compressed journal and the tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from ingest.journal.format import segments
from ingest.journal.reader import read_batches
from ingest.journal.recording import CAPTURE
from ingest.journal.records import RecordKind
from ingest.recorder.status import free_bytes
from storage.clock import NS
from storage.errors import JournalError
from storage.settings import Settings

_DAY_S: Final = 86_400
# A shorter recording is not representative of a day.
_LEAST_SPAN_S: Final = 120.0
_SAMPLE_NS: Final = 1800 * NS
_DATA: Final = "data of 2025-09-04"


@dataclass(frozen=True, slots=True)
class StreamRate:
    """Frames a second and bytes a frame of one channel and coin."""

    frames_per_s: float
    bytes_per_frame: float

    @property
    def bytes_per_day(self) -> float:
        """Before compression."""
        return self.frames_per_s * self.bytes_per_frame * _DAY_S


# From SOURCES of the recorded data: hyperliquid/ws_20250904_4coins.ndjson.gz, 2,088 s of 2025-09-04, the mean of
# BTC, ETH and SOL; a busier coin than these three is not listed. The recorded slow book came each 0.55 s; since
# 2026-07-25 it comes each 5 s (docs/adding-a-venue.md), and its rate here is of today. Fast books are 5 levels
# each 0.5 s: a quarter of the 20 levels' bytes. A context comes with the oracle, each 3 s; 410 bytes is the one in
# the venue's documentation. Candles come with trade activity.
MEASURED: Final[dict[str, StreamRate]] = {
    "trades": StreamRate(1.05, 773),
    "bbo": StreamRate(6.76, 143),
    "l2Book": StreamRate(0.2, 1_579),
    "l2BookFast": StreamRate(2.0, 430),
    "activeAssetCtx": StreamRate(0.33, 410),
    "candle": StreamRate(1.05, 190),
}
# Venue-wide channels, once a recording. 177 kB is the recorded frame in messages/ws_all_dexs_asset_ctxs.json.
VENUE_WIDE: Final[dict[str, StreamRate]] = {
    "allMids": StreamRate(1.0, 8_000),
    "allDexsAssetCtxs": StreamRate(0.33, 177_000),
    "fastAssetCtxs": StreamRate(2.0, 1_500),
}
# Compressed journal bytes for each byte of frames: the same capture in blocks of 40 ms, as a live journal is cut
# (measured 2026-11-23; in blocks of 256 kB it is 0.10, on a busier capture 0.15).
PACKED_SHARE: Final = 0.26
# Bytes of tables for each byte of journal: the rows of the same capture in large files (2.0 MB), by its journal in
# blocks of 40 ms (9.7 MB).
TABLES_SHARE: Final = 0.21
# Overhead of one commit: the headers of its small files, and its rows in the catalog (measured over 60 commits of two
# tables, files not merged).
COMMIT_BYTES: Final = 14_000


@dataclass(frozen=True, slots=True)
class EstimateLine:
    """One channel of the estimate; `source` names where its rate comes from."""

    channel: str
    coins: int
    frames_per_s: float
    journal_bytes_per_day: float
    source: str


@dataclass(frozen=True, slots=True)
class DiskEstimate:
    """Expected disk usage of a recording.

    Args:
        lines: by channel, the largest first.
        commits_per_day: to the lake.
        free_bytes: of the home's disk.
        unknown: channels without a known rate; they are not counted.
    """

    lines: tuple[EstimateLine, ...]
    commits_per_day: float
    free_bytes: int
    unknown: tuple[str, ...] = ()

    @property
    def journal_bytes_per_day(self) -> float:
        """Compressed."""
        return sum(line.journal_bytes_per_day for line in self.lines)

    @property
    def bytes_per_day(self) -> float:
        """Journal and tables."""
        return self.journal_bytes_per_day * (1 + TABLES_SHARE) + self.commits_per_day * COMMIT_BYTES

    @property
    def days(self) -> float | None:
        """Until the disk is full; None where nothing is written."""
        return self.free_bytes / self.bytes_per_day if self.bytes_per_day else None

    def text(self) -> str:
        """Return the estimate as text: one line a channel, then the sum and the days."""
        rows = [
            f"  {line.channel:18} {_of(line.coins):>9} {line.frames_per_s:9.1f} frames/s "
            f"{line.journal_bytes_per_day / 1e9:8.3f} GB/day   {line.source}"
            for line in self.lines
        ]
        days = "the disk does not fill" if self.days is None else f"room for {self.days:,.0f} days"
        rows.append(
            f"journal {self.journal_bytes_per_day / 1e9:.2f} GB/day, with tables {self.bytes_per_day / 1e9:.2f}; "
            f"{self.free_bytes / 1e9:,.1f} GB free: {days}"
        )
        if self.unknown:
            rows.append(f"not counted, since no rate is known: {', '.join(self.unknown)}")
        return "\n".join(["expected size on disk:", *rows])


def _of(coins: int) -> str:
    return "venue" if coins == 0 else f"{coins} coin{'' if coins == 1 else 's'}"


def estimate(
    settings: Settings,
    *,
    coins: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    free: int | None = None,
) -> DiskEstimate:
    """Return the expected disk usage of a recording with these settings.

    Args:
        settings: the home, whose last recording is measured first.
        coins: to be recorded, patterns expanded (default: `record.coins` as they are).
        channels: to be recorded (default: those of `record`).
        free: bytes free on the disk (default: those of the home's disk).
    """
    coins = settings.record.coins if coins is None else coins
    channels = settings.record.channels if channels is None else channels
    measured, packed_share, name = _last_recording(settings)
    lines, unknown = [], []
    for channel in channels:
        is_wide = channel in VENUE_WIDE
        wanted = [(channel, coin) for coin in (("",) if is_wide else coins)]
        default = VENUE_WIDE[channel] if is_wide else MEASURED.get(channel)
        own = [measured[key] for key in wanted if key in measured]
        if default is None and len(own) < len(wanted):
            unknown.append(channel)
            continue
        # Twin sockets both journal what they carry; a recording's own figures include both.
        times = settings.record.twins if channel == "trades" else 1
        rates = own + [
            StreamRate(rate.frames_per_s * times, rate.bytes_per_frame) for rate in [default] if rate
        ] * (len(wanted) - len(own))
        lines.append(
            _line(channel, 0 if is_wide else len(coins), rates, packed_share, _source(name, own, wanted))
        )
    if settings.gaiaex.symbols:
        unknown.append(f"GaiaEx's books of {len(settings.gaiaex.symbols)} symbols")
    lines.sort(key=lambda line: -line.journal_bytes_per_day)
    home = next(folder for folder in (settings.home, *settings.home.absolute().parents) if folder.exists())
    commits = _DAY_S / settings.record.commit_s
    return DiskEstimate(tuple(lines), commits, free_bytes(home) if free is None else free, tuple(unknown))


def _source(name: str, own: Sequence[StreamRate], wanted: Sequence[tuple[str, str]]) -> str:
    if not own:
        return _DATA
    return name if len(own) == len(wanted) else f"{name}, and {_DATA}"


def rates_of(frames: Iterable[tuple[int, bytes]]) -> tuple[dict[tuple[str, str], StreamRate], float, int]:
    """Return the rate of each (channel, coin) in frames `(recv_ns, body)`, their span in seconds, and their bytes."""
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    first_ns = last_ns = 0
    for recv_ns, body in frames:
        first_ns, last_ns = first_ns or recv_ns, recv_ns
        key = _about(body)
        counts[key] += 1
        sizes[key] += len(body)
    span_s = (last_ns - first_ns) / NS
    if span_s <= 0:
        return {}, 0.0, sum(sizes.values())
    rates = {key: StreamRate(counts[key] / span_s, sizes[key] / counts[key]) for key in counts}
    return rates, span_s, sum(sizes.values())


class _Data(msgspec.Struct):
    coin: str = ""
    s: str = ""


class _Frame(msgspec.Struct):
    channel: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


_frame: Final = msgspec.json.Decoder(_Frame)
_one: Final = msgspec.json.Decoder(_Data)
_many: Final = msgspec.json.Decoder(list[_Data])


def _about(body: bytes) -> tuple[str, str]:
    """Return a frame's channel and coin; empty where the frame has none."""
    try:
        frame = _frame.decode(body)
    except msgspec.MsgspecError:
        return ("", "")
    try:
        raw = bytes(frame.data)
        data = _many.decode(raw)[:1] if raw.startswith(b"[") else [_one.decode(raw)]
    except msgspec.MsgspecError:
        data = []
    return (frame.channel, (data[0].coin or data[0].s) if data else "")


def _last_recording(settings: Settings) -> tuple[dict[tuple[str, str], StreamRate], float, str]:
    """Return the rates of the newest recording that is long enough, its compression ratio, and its name."""
    folders = [folder for folder in settings.journal_dir.glob("*") if segments(folder)]
    folders = [folder for folder in folders if not folder.name.startswith((CAPTURE, "."))]
    for folder in sorted(folders, key=lambda folder: segments(folder)[-1].stat().st_mtime, reverse=True):
        packed: list[int] = []
        rates, span_s, raw_bytes = rates_of(_first_frames(folder, packed))
        if span_s >= _LEAST_SPAN_S and raw_bytes:
            return rates, sum(packed) / raw_bytes, f"recording {folder.name}"
    return {}, PACKED_SHARE, ""


def _first_frames(folder: Path, packed: list[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the frames of a recording's first half hour, in whole blocks; append their sizes on disk to `packed`."""
    first_ns = 0
    try:
        for batch in read_batches(folder, on_bytes=packed.append):
            for record in batch:
                if record.kind == RecordKind.FRAME:
                    first_ns = first_ns or record.recv_ns
                    yield record.recv_ns, record.body
            if first_ns and int(batch.recv_ns[-1]) - first_ns > _SAMPLE_NS:
                return
    except JournalError:
        return  # written by another version


def _line(
    channel: str, coins: int, rates: Sequence[StreamRate], packed_share: float, source: str
) -> EstimateLine:
    raw = sum(rate.bytes_per_day for rate in rates)
    return EstimateLine(channel, coins, sum(rate.frames_per_s for rate in rates), raw * packed_share, source)
