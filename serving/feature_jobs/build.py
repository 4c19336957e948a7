"""What do `tickwalk features build` and its options do: days below the home, or one file?"""

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
from serving.feature_jobs.selection import BarSelection, health_of, write_edition
from serving.report import formatting as words
from storage.atomic_write import temporary_path
from storage.clock import DAY_NS, floor_ns, width_ns
from storage.errors import ContractError
from storage.lake.lake import Lake


def build_days(bars: BarSelection, *, on_day: Callable[[int, int, int], None]) -> UpdateReport:
    """Bring the home's store of a set up to what the lake holds; `on_day` is told as `update` tells it."""
    try:
        with Lake.open(bars.settings, read_only=True) as lake:
            done = update(
                bars.settings.features_dir,
                lake,
                bars.question,
                since_ns=bars.since_ns,
                until_ns=bars.until_ns,
                at=bars.at,
                on_day=on_day,
            )
        write_edition(done.folder / EDITION, bars.feature_set)
    except OSError as error:
        raise ContractError(
            f"days of features cannot be kept in {bars.settings.features_dir}: {error}",
            hint="make room there, or make it yours, and run this again: it goes on behind the days that are done",
        ) from error
    return done


def told_days(done: UpdateReport) -> str:
    """Return what was done to a store, for people."""
    return (
        f"{done.folder.resolve()}: {len(done.built)} days built ({done.rows:,} bars), {len(done.compared)} read again "
        f"and unchanged, {done.kept} kept; {words.span(done.since_ns, done.until_ns)} UTC"
    )


def judge_days(bars: BarSelection, done: UpdateReport, *, newest: float) -> tuple[int, FeatureHealth]:
    """Judge the newest days of a store; return how many, and their health.

    They are as many as are built at a time, so as many as surely fit into memory.

    Args:
        bars, done: the store, as `build_days` left it.
        newest: the share of those days that is held against the rest of them.
    """
    days = range(floor_ns(done.since_ns, DAY_NS), done.until_ns, DAY_NS)
    judged = days[-max_days(width_ns(bars.width), done.instruments) :]
    with Lake.open(bars.settings, read_only=True) as lake:
        asked = replace(bars, until_ns=done.until_ns, at=done.snapshot)
        panel = asked.load_from(lake, since_ns=max(judged[0], done.since_ns))
    into = temporary_path(
        done.folder / "judged"
    )  # what a kill leaves is removed a day later (features/store/eviction.py)
    try:
        block = read(
            bars.settings.features_dir,
            bars.question,
            instruments=panel.instruments,
            since_ns=int(panel.ts_open_ns[0]),
            until_ns=int(panel.ts_close_ns[-1]),
            into=into,
        )
        # Its first bars looked back on bars of the store that are not read here.
        before = (int(panel.ts_open_ns[0]) - done.since_ns) // width_ns(bars.width)
        block = replace(block, lookback_bars=max(block.lookback_bars - before, 0))
        return len(judged), health_of(block, panel, newest=newest)
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
    """Write one block and its edition; return what was written.

    Args:
        path: the file to write.
        bars: the bars to build from.
        wider: widths whose features are joined as of each close (features/multi_width.py); each is judged on its own
            bars.
        newest: the share of the bars that is compared with the rest.
        anyway: write a block that is not fit to learn from, too.
        on_step: called with the name of each step before it begins.

    Raises:
        ContractError: the block is not fit to learn from; not where `anyway` is true.
    """
    panel = bars.load()
    on_step("computing features")
    block = build_features(panel, bars.feature_set)
    on_step("judging their health")
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
    """Return the same features of wider bars and their health, from far enough back that the first narrow bar has them.

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
