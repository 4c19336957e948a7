"""Job of `tickwalk features build`: daily files in the home, or one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from features.build import build_features
from features.feature import FeatureBlock, deepest_lookback
from features.monitoring.health import FeatureHealth
from features.multi_width import join_wider
from features.sets import get_set
from features.store.day_files import max_days
from features.store.serialization import write_block
from features.store.store import UpdateReport, read, update
from features.versioning.set_diff import EDITION, edition_path
from serving import formatting
from serving.feature_jobs.selection import BarSelection, health_of, write_edition
from storage.atomic_write import temporary_path
from storage.clock import DAY_NS, floor_ns, width_ns
from storage.errors import ContractError
from storage.lake.lake import Lake


def build_days(bars: BarSelection, *, on_day: Callable[[int, int, int], None]) -> UpdateReport:
    """Build the days whose bars changed into the home's feature store; `on_day` is called as by `update`."""
    try:
        with Lake.open(bars.settings, read_only=True) as lake:
            done = update(
                bars.settings.features_dir,
                lake,
                bars.store_key,
                since_ns=bars.since_ns,
                until_ns=bars.until_ns,
                at=bars.at,
                on_day=on_day,
            )
        write_edition(done.folder / EDITION, bars.feature_set)
    except OSError as error:
        raise ContractError(
            f"days of features cannot be written to {bars.settings.features_dir}: {error}",
            hint="free space or fix the permissions, then run this again: it continues after the finished days",
        ) from error
    return done


def summarize_days(done: UpdateReport) -> str:
    """Return one line about an update of the store."""
    return (
        f"{done.folder.resolve()}: {len(done.built)} days built ({done.rows:,} bars), {len(done.compared)} checked "
        f"and unchanged, {done.kept} not touched; {formatting.span(done.since_ns, done.until_ns)} UTC"
    )


def check_days(bars: BarSelection, done: UpdateReport, *, newest: float) -> tuple[int, FeatureHealth]:
    """Check the health of the newest days of a store; return their number and health.

    The number of days is that of one build step, which fits into memory.

    Args:
        bars, done: the store, as `build_days` left it.
        newest: share of those days that is compared with the rest for drift.
    """
    days = range(floor_ns(done.since_ns, DAY_NS), done.until_ns, DAY_NS)
    checked = days[-max_days(width_ns(bars.width), done.instruments) :]
    with Lake.open(bars.settings, read_only=True) as lake:
        selection = replace(bars, until_ns=done.until_ns, at=done.snapshot)
        panel = selection.load_from(lake, since_ns=max(checked[0], done.since_ns))
    # After a kill the file stays, and is removed a day later (features/store/eviction.py).
    into = temporary_path(done.folder / "judged")
    try:
        block = read(
            bars.settings.features_dir,
            bars.store_key,
            instruments=panel.instruments,
            since_ns=int(panel.ts_open_ns[0]),
            until_ns=int(panel.ts_close_ns[-1]),
            into=into,
        )
        # The first bars read here were computed from earlier bars of the store.
        before = (int(panel.ts_open_ns[0]) - done.since_ns) // width_ns(bars.width)
        block = replace(block, lookback_bars=max(block.lookback_bars - before, 0))
        return len(checked), health_of(block, panel, newest=newest)
    finally:
        into.unlink(missing_ok=True)


def build_to(
    path: Path,
    bars: BarSelection,
    *,
    wider: Sequence[str] = (),
    newest: float,
    anyway: bool,
    on_step: Callable[[str], None],
) -> str:
    """Write one block and its edition to a file; return one line about it.

    Args:
        path: the file to write.
        bars: the bars to build from.
        wider: widths whose features are joined as of each close (features/multi_width.py); the health of each is
            checked on its own bars.
        newest: the share of the bars that is compared with the rest.
        anyway: write the block even if its health check fails.
        on_step: called with the name of each step before it starts.

    Raises:
        ContractError: the health check fails and `anyway` is false.
    """
    panel = bars.load()
    on_step("computing features")
    block = build_features(panel, bars.feature_set)
    on_step("checking their health")
    health = health_of(block, panel, newest=newest)
    if not anyway:
        health.refuse()
    findings = len(health.findings)
    for width in wider:
        on_step(f"joining features of {width} bars")
        wide, of_wide = _wider(bars, width, newest=newest)
        block = join_wider(block, wide)
        if not anyway:
            of_wide.refuse()
        findings += len(of_wide.findings)
    on_step("writing")
    write_block(path, block)
    write_edition(edition_path(path), bars.feature_set)
    return (
        f"{path.resolve()}: {len(block.instruments)} instruments x {len(block.ts_open_ns):,} bars x "
        f"{len(block.names)} features, {findings} findings"
    )


def _wider(bars: BarSelection, width: str, *, newest: float) -> tuple[FeatureBlock, FeatureHealth]:
    """Return the features of wider bars and their health, starting early enough for the first narrow bar.

    Raises:
        RangeError: the lake holds no bars of that width.
    """
    lookback_bars = deepest_lookback(get_set(bars.feature_set))
    back_ns = (lookback_bars + 2) * width_ns(width)
    since_ns = None if bars.since_ns is None else floor_ns(bars.since_ns - back_ns, width_ns(width))
    panel = replace(bars, width=width, since_ns=since_ns).load()
    block = build_features(panel, bars.feature_set)
    health = health_of(block, panel, newest=newest)
    named = tuple(replace(item, feature=f"{item.feature}@{width}") for item in health.findings)
    return block, replace(health, findings=named)
