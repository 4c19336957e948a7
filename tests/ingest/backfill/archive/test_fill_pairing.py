"""Pairing by arrays equals pairing one by one, in any order and with repetitions."""

from __future__ import annotations

import random

import msgspec

from ingest.backfill.archive.fill_parser import HourReader
from ingest.backfill.archive.fills import Fill, Pairing
from tests.ingest.backfill.archive.archives import HOUR_MS, both

ROUNDS = 300


def some_fills(draw: random.Random) -> list[Fill]:
    """Return fills of a few trades, most of them adjacent, some changed, lost, repeated, or out of order."""
    made = [
        fill
        for tid in range(draw.randrange(1, 12))
        for fill in both(tid, HOUR_MS + draw.randrange(3), coin=draw.choice("AB"), is_buy=draw.random() < 0.5)
    ]
    for fill in made:
        if draw.random() < 0.1:
            key = draw.choice(("px", "sz", "side", "crossed", "tid", "oid", "coin"))
            fill[key] = {
                "px": "0.0",
                "sz": "7",
                "side": draw.choice("AB?"),
                "crossed": True,
                "coin": "A",
            }.get(key, draw.randrange(4))
    made = [fill for fill in made if draw.random() < 0.95]
    made += [dict(draw.choice(made)) for _ in range(draw.choice((0, 0, 3))) if made]
    if draw.random() < 0.3:
        draw.shuffle(made)
    return [msgspec.convert(fill, Fill, strict=False) for fill in made]


def test_pairing_by_arrays_equals_pairing_one_by_one() -> None:
    draw = random.Random(17)
    prints = odd = 0
    for _ in range(ROUNDS):
        fills, slow = some_fills(draw), Pairing()
        slow.add(fills)
        trades, unpaired = slow.settle()
        reader = HourReader(HOUR_MS, HOUR_MS + 3_600_000, spill_ms=0)
        lines = [msgspec.json.encode(("0xuser", fill)) + b"\n" for fill in fills]
        cut = draw.randrange(len(lines) + 1)
        reader.add([b"".join(lines[:cut]), b"".join(lines[cut:])], "fills", 0)
        hour = reader.finish()
        found = hour.prints
        names = {1: "buy", -1: "sell"}
        said = [
            (hour.coins[coin], time_ms, tid, names[side], price, size)
            for coin, time_ms, tid, side, price, size in zip(
                *(found[name].tolist() for name in ("coin", "time_ms", "tid", "side", "price", "size")),
                strict=True,
            )
        ]
        expected = [(t.coin, t.time_ms, t.tid, t.aggressor, t.price, t.size) for t in trades]
        assert sorted(said) == sorted(expected)
        # In the order of what was written: a print stands where the first of its fills did.
        first = {key: n for n, key in reversed(list(enumerate(fill.key for fill in fills)))}
        assert said == sorted(said, key=lambda item: first[item[:3]])
        assert sorted((o.unpaired.key, o.unpaired.reason) for o in hour.odd) == sorted(
            (u.key, u.reason) for u in unpaired
        )
        prints, odd = prints + len(said), odd + len(hour.odd)
    assert prints > 1_000
    assert odd > 200
