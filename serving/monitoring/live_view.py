"""Live terminal view of running recorders.

`render` is pure: from a heartbeat and the current time to one panel. `tickwalk record --watch` shows its own recorder;
`tickwalk watch` reads the heartbeats of the recorders on this machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ingest.recorder.heartbeat import Heartbeat, read_heartbeats
from ingest.recorder.status import GapStatus, InstrumentStatus, RecorderStatus
from serving.monitoring.checks import HealthIssue, check_recorder
from storage.clock import NS, iso
from storage.settings import Settings
from storage.settings.services import AlertSettings

# One cell per bar: character and style. Shapes differ too, for colour-blind readers.
_CELLS: Final = {
    "printed": ("█", "green"),
    "quiet": ("▄", "green"),
    "blind": ("X", "bold red"),
    "halted": ("─", "yellow"),
    "unknown": ("?", "yellow"),
    "unlisted": ("·", "dim"),
}
_STRIP: Final = 30
_NARROW_STRIP: Final = 12
# Lines of a panel besides instruments, channels and issues.
_LINES: Final = 18
_STATE_STYLES: Final = {"recording": "bold green", "failed": "bold red", "ended": "dim"}


def render(
    beat: Heartbeat, now_ns: int, limits: AlertSettings, *, rows: int = 20, width: int = 120
) -> RenderableType:
    """Return the panel of one recorder.

    Args:
        beat: its newest heartbeat.
        now_ns: current wall-clock time.
        limits: thresholds of the health checks.
        rows: number of instruments shown, those with the lowest coverage first.
        width: of the terminal in cells; a narrow one shows fewer bars.
    """
    vitals = beat.vitals
    issues = check_recorder(beat, now_ns, limits)
    border = "red" if issues else "green"
    # Issues come first: a small terminal cuts off the bottom.
    parts: list[RenderableType] = [_counts(vitals), _issues(issues), Text()]
    parts.append(_instruments(vitals, rows, _STRIP if width >= 110 else _NARROW_STRIP))
    hidden = len(vitals.instruments) - rows
    if hidden > 0:
        parts.append(Text(f"and {hidden} more with at least this coverage", style="dim"))
    parts += [Text(), _channels(vitals), Text(), _system(vitals)]
    title = Text.assemble(
        (f" {vitals.recording} ", "bold"),
        (f"{vitals.state} ", _STATE_STYLES.get(vitals.state, "bold yellow")),
        (f"for {_duration((vitals.now_ns - vitals.started_ns) / NS)} ", "dim"),
        (f"shard {vitals.shard} " if vitals.shard else "", "dim"),
    )
    return Panel(
        Group(*parts),
        title=title,
        title_align="left",
        subtitle=Text(f" {iso(vitals.now_ns)} ", style="dim"),
        subtitle_align="right",
        border_style=border,
        padding=(1, 2),
    )


def render_all(
    beats: Sequence[Heartbeat], now_ns: int, limits: AlertSettings, console: Console
) -> RenderableType:
    """Return the panels of all recorders of a home, cut to the terminal's height."""
    if not beats:
        return Text("No recorder has run in this home. Start one with: tickwalk record", style="yellow")
    used = sum(
        _LINES + len(beat.vitals.channels) + len(check_recorder(beat, now_ns, limits)) for beat in beats
    )
    rows = max(3, (console.height - used) // len(beats))
    return Group(*(render(beat, now_ns, limits, rows=rows, width=console.width) for beat in beats))


@contextmanager
def live_view(limits: AlertSettings, console: Console) -> Iterator[Callable[[RecorderStatus], None]]:
    """Yield the function that draws a recorder's newest status; log lines scroll above the panel."""
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:

        def draw(vitals: RecorderStatus) -> None:
            now_ns = time.time_ns()
            panel = render_all([Heartbeat(now_ns, vitals)], now_ns, limits, console)
            live.update(panel, refresh=True)

        yield draw


async def watch_home(settings: Settings, console: Console, stop: asyncio.Event) -> None:
    """Draw the recorders of a home each second, from their heartbeats, until `stop` is set."""
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while not stop.is_set():
            live.update(
                render_all(read_heartbeats(settings), time.time_ns(), settings.alert, console), refresh=True
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 1.0)


def _counts(vitals: RecorderStatus) -> Text:
    shown = [
        (f"{vitals.frames:,}", "frames"),
        (f"{vitals.frames_per_s:,.0f}", "per second"),
        (f"{vitals.trades:,}", "trades"),
        (f"{vitals.bars:,}", "bars"),
        (f"{vitals.reconnects:,}", "reconnects"),
        (f"{vitals.quarantined:,}", "quarantined"),
    ]
    line = Text()
    for number, name in shown:
        line.append(number, "bold").append(f" {name}   ", "dim")
    return line


def _instruments(vitals: RecorderStatus, rows: int, bars: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("instrument", no_wrap=True, min_width=12)
    table.add_column("last", justify="right", no_wrap=True, min_width=6)
    table.add_column("prints/min", justify="right", no_wrap=True, min_width=10)
    # The newest bars are on the right, so this column must not be cut there.
    table.add_column(
        "coverage" if bars < _STRIP else "coverage, newest bar right", no_wrap=True, min_width=bars
    )
    table.add_column("watched", justify="right", no_wrap=True, min_width=7)
    table.add_column("last gap", overflow="fold", ratio=1)

    def worst_first(name: str) -> tuple[float, str]:
        share = vitals.instruments[name].observed_share
        return (1.0 if share is None else share, name)

    is_mixed = len({name.rpartition("|")[0] for name in vitals.instruments}) > 1
    for name in sorted(vitals.instruments, key=worst_first)[:rows]:
        item = vitals.instruments[name]
        table.add_row(
            _name(name, in_full=is_mixed),
            _age(item.age_s),
            f"{item.prints_per_min:,.0f}",
            _strip(item, bars),
            _share(item.observed_share),
            _gap(item.last_gap),
        )
    return table


def _channels(vitals: RecorderStatus) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    table.add_column("channel", no_wrap=True)
    for title in ("frames", "lag, median", "lag, 99 %"):
        table.add_column(title, justify="right", no_wrap=True)
    for channel, item in sorted(vitals.channels.items(), key=lambda pair: (-pair[1].frames, pair[0])):
        table.add_row(channel, f"{item.frames:,}", _ms(item.lag_p50_ms), _ms(item.lag_p99_ms))
    return table


def _system(vitals: RecorderStatus) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("sockets", _sockets(vitals))
    committed = "never" if vitals.commit_age_s is None else f"{_duration(vitals.commit_age_s)} ago"
    table.add_row(
        "lake",
        f"last commit {committed}, {vitals.unsent_batches} batches waiting, {vitals.backlog_frames:,} frames behind",
    )
    left = "not filling" if vitals.disk_days_left is None else f"full in {vitals.disk_days_left:,.0f} days"
    table.add_row(
        "disk", f"journal {_bytes(vitals.journal_bytes)}, {_bytes(vitals.disk_free_bytes)} free, {left}"
    )
    table.add_row("clock", _clock(vitals))
    table.add_row("memory", _bytes(vitals.resident_bytes))
    return table


def _sockets(vitals: RecorderStatus) -> Text:
    is_whole = vitals.connections_open >= vitals.connections_wanted
    line = Text.assemble(
        (f"{vitals.connections_open} of {vitals.connections_wanted} open", "" if is_whole else "bold red"),
        f", {vitals.subscriptions_acked} subscriptions",
    )
    if vitals.subscriptions_missing:
        line.append(f", {vitals.subscriptions_missing} not acknowledged", "bold yellow")
    return line


def _clock(vitals: RecorderStatus) -> Text:
    style = {"ok": "green", "off": "bold red"}.get(vitals.clock_verdict, "yellow")
    line = Text(vitals.clock_verdict, style)
    for source, offset_ms in vitals.clock_offset_ms.items():
        line.append(f", {offset_ms:+,.0f} ms against {source}", "")
    if vitals.clock_steps:
        times = "once" if vitals.clock_steps == 1 else f"{vitals.clock_steps} times"
        line.append(f", set {times}", "yellow")
    return line


def _issues(issues: Sequence[HealthIssue]) -> Text:
    if not issues:
        return Text("all well", "green")
    lines = [Text.assemble((issue.kind, "bold red"), f"  {issue.detail}") for issue in issues]
    return Text("\n").join(lines)


def _name(instrument: str, *, in_full: bool) -> Text:
    """Return the symbol, with kind and venue if several are recorded."""
    venue, _, rest = instrument.partition("|")
    kind, _, symbol = rest.partition("|")
    return Text.assemble(
        (symbol or instrument, "bold"), (f" {kind} {venue}" if symbol and in_full else "", "dim")
    )


def _strip(item: InstrumentStatus, bars: int) -> Text:
    strip = Text()
    for status in item.statuses[-bars:]:
        cell, style = _CELLS.get(status, ("?", "yellow"))
        strip.append(cell, style)
    return Text(" " * (bars - len(strip))) + strip


def _share(share: float | None) -> Text:
    if share is None:
        return Text("-", "dim")
    # 99.96 % must not show as 100 %.
    text = "100 %" if share >= 1 else f"{min(share * 100, 99.9):.1f} %"
    return Text(text, "" if share >= 1 else "yellow" if share > 0.95 else "bold red")


def _gap(gap: GapStatus | None) -> Text:
    if gap is None:
        return Text("none", "dim")
    since = iso(gap.from_ns)[11:19]
    if gap.to_ns is None:
        return Text(f"{since} until now, {gap.cause}", "bold red")
    return Text(f"{since} for {_duration((gap.to_ns - gap.from_ns) / NS)}, {gap.cause}")


def _age(age_s: float | None) -> Text:
    if age_s is None:
        return Text("never", "yellow")
    return Text(f"{age_s:.1f} s" if age_s < 100 else _duration(age_s), "yellow" if age_s > 30 else "")


def _ms(value_ms: float | None) -> str:
    if value_ms is None:
        return "-"
    return f"{value_ms:,.0f} ms" if value_ms >= 10 else f"{value_ms:.1f} ms"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit in ("bytes", "kB") else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"
