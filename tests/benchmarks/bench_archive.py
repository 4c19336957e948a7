"""Benchmark of archived fills into rows, against decoding the same bytes and discarding them.

An hour of `node_fills_by_block` as nodes write it, made up: blocks of about ten trades of 60 coins, both fills of each
with all of their fields, in an LZ4 object on the disk. The limit inflates it and decodes its JSON with msgspec into
the same structs, a piece at a time, and throws them away. Ours also pairs the fills and makes rows of `trades`.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa

from ingest.backfill.archive.fill_parser import BlockLine, HourReader
from ingest.backfill.archive.object_cache import whole_lines
from ingest.backfill.archive.trades import trade_rows
from ingest.venues.hyperliquid.protocol import instrument_id
from storage.clock import MS_NS, parse_time_ns
from tests.benchmarks.harness import Figure, bench, figures, measure

BLOCKS: Final = 12_000
ROUNDS: Final = 5
HOUR_MS: Final = parse_time_ns("2025-07-29T14:00:00Z") // MS_NS
COINS: Final = ("BTC", "ETH", "SOL", "HYPE", "kPEPE", "xyz:AAPL", *(f"C{n}" for n in range(54)))


def make_hour(path: Path, *, blocks: int = BLOCKS, seed: int = 7) -> tuple[int, int]:
    """Write an hour of blocks; return the bytes of JSON, and the trades in it."""
    draw = random.Random(seed)
    lines = []
    trades = 0
    for number in range(blocks):
        time_ms = HOUR_MS + number * 3_600_000 // blocks
        made = draw.randrange(1, 20)
        trades += made
        events = [event for _ in range(made) for event in _trade(draw, time_ms)]
        stamp = f"2025-07-29T14:{number * 60 // blocks:02d}:00.010000000"
        block = {
            "local_time": stamp,
            "block_time": stamp,
            "block_number": number + 676_000_000,
            "events": events,
        }
        lines.append(json.dumps(block, separators=(",", ":")).encode() + b"\n")
    body = b"".join(lines)
    with pa.output_stream(str(path), compression="lz4") as sink:
        sink.write(body)
    return len(body), trades


def _trade(draw: random.Random, time_ms: int) -> list[list[Any]]:
    """Return the two fills of a trade, with the fields of the venue's pages."""
    coin, price = draw.choice(COINS), f"{draw.uniform(0.1, 120_000):.5g}"
    same = {"coin": coin, "px": price, "sz": f"{draw.expovariate(1.0) + 0.001:.4f}"}
    tid, tx = draw.randrange(1 << 50), f"0x{draw.getrandbits(256):064x}"
    is_buy = draw.random() < 0.5
    fills = []
    for side in ("B", "A"):
        crossed = (side == "B") == is_buy
        more = {"side": side, "time": time_ms, "startPosition": f"{draw.uniform(-900, 900):.3f}"}
        more |= {"dir": draw.choice(("Open Long", "Close Long", "Open Short", "Close Short"))}
        more |= {
            "closedPnl": f"{draw.uniform(-90, 90):.6f}",
            "hash": tx,
            "oid": draw.randrange(10**11, 2 * 10**11),
        }
        more |= {"crossed": crossed, "fee": f"{draw.uniform(0, 9):.6f}", "tid": tid, "feeToken": "USDC"}
        if draw.random() < 0.5:
            more |= {"cloid": f"0x{draw.getrandbits(128):032x}"}
        fills.append([f"0x{draw.getrandbits(160):040x}", {**same, **more, "twapId": None}])
    return fills


def read_only(path: Path) -> int:
    """Inflate and decode, as the limit does; return the fills."""
    decoder = msgspec.json.Decoder(BlockLine, strict=False)
    return sum(len(block.events) for piece in whole_lines(path) for block in decoder.decode_lines(piece))


def into_rows(path: Path) -> pa.Table:
    """Return the rows of `trades` that an hour makes."""
    reader = HourReader(HOUR_MS, HOUR_MS + 3_600_000, spill_ms=120_000)
    reader.add(whole_lines(path), "blocks", 0)
    hour = reader.finish()
    return trade_rows(hour, [instrument_id(coin) for coin in hour.coins], ["hour"], 1_100)


@bench
def fills_into_rows() -> Iterator[Figure]:
    """Yield megabytes of JSON a second of one core."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "14.lz4")
        size_bytes, trades = make_hour(path)
        rows = into_rows(path)
        assert rows.num_rows == trades == read_only(path) // 2
        taken = measure(
            {"ours": lambda: into_rows(path), "lz4 and msgspec alone": lambda: read_only(path)}, rounds=ROUNDS
        )
        rate = size_bytes / taken["ours"] / 1e6
        yield from figures(
            "fills by block into rows", taken, ours="ours", value=rate, unit="MB of JSON/s of one core"
        )
