"""The commands that read archives: announced price, results, and a second run without effect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingest.backfill.archive.object_keys import BLOCKS, HOUR_NS, book_key, context_key
from serving import cli
from storage.clock import iso, parse_time_ns
from storage.lake.lake import Lake
from storage.settings import load_settings
from tests.ingest.backfill.archive.archives import HOUR, HOUR_MS, both, iso_ns, packed, pulse
from tests.ingest.backfill.archive.conftest import Put
from tests.ingest.backfill.archive.test_books_and_contexts import HEADER
from tests.ingest.recorder.faults.test_archive_fills import a_block

DAY = parse_time_ns("2025-07-29")
LEVELS = [[{"px": f"{100 - n}", "sz": "1", "n": 1} for n in range(3)],
          [{"px": f"{101 + n}", "sz": "1", "n": 1} for n in range(3)]]  # fmt: skip


def run(home: Path, *arguments: str) -> int:
    try:
        cli.main(["--home", str(home), *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def a_book(second: int) -> bytes:
    data = {"coin": "BTC", "time": HOUR_MS + second * 1_000, "levels": LEVELS}
    line = {
        "time": iso_ns(HOUR_MS + second * 1_000 + 300),
        "ver_num": 1,
        "raw": {"channel": "l2Book", "data": data},
    }
    return json.dumps(line).encode()


OBJECTS = {
    "trades": {
        BLOCKS.key(HOUR - HOUR_NS): pulse(HOUR_MS - 100_000, HOUR_MS),
        BLOCKS.key(HOUR): [
            a_block(*both(1, HOUR_MS + 1_000)),
            *pulse(HOUR_MS + 2_000, HOUR_MS + 3_600_000),
        ],
        BLOCKS.key(HOUR + HOUR_NS): pulse(HOUR_MS + 3_600_000, HOUR_MS + 3_700_000),
    },
    "books": {book_key(HOUR, "BTC"): [a_book(second) for second in range(9)]},
    "contexts": {
        context_key(DAY): [
            HEADER.encode(),
            *(
                f"2025-07-29T00:0{n}:00Z,BTC,0.0000125,100.5,1,2000.0,0.0003,118000.0,118010.5,118005.0,1,1".encode()
                for n in range(7)
            ),
        ]
    },
}
ASKED = {
    "trades": (HOUR, HOUR + HOUR_NS, "trades of 2025-07-29T14:00", "bars 120, coverage 2, trades 181"),
    "books": (HOUR, HOUR + HOUR_NS, "books of BTC, 2025-07-29T14:00", "books 9"),
    "contexts": (DAY, DAY + 24 * HOUR_NS, "contexts of 2025-07-29", "contexts 7"),
}


@pytest.mark.parametrize("kind", list(ASKED))
def test_a_price_a_refusal_a_run_and_a_second_run(
    place: tuple[str, Put], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    where, put = place
    bodies = {key: packed(lines) for key, lines in OBJECTS[kind].items()}
    for key, body in bodies.items():
        put(key, body)
    from_ns, to_ns, step, rows = ASKED[kind]
    dear = [f"archive.node_data={where}", f"archive.market_data={where}", "archive.usd_per_gb=1000000"]
    asked = [part for value in dear for part in ("--set", value)]
    asked += ["--set", "archive.limit_usd=0.1", "backfill", kind, "--from", iso(from_ns), "--to", iso(to_ns)]
    size = sum(map(len, bodies.values()))

    assert run(tmp_path / "home", *asked, "--dry-run") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "1 steps, 0 more are in the lake already"
    assert said[1] == f"  first     {step}"
    assert said[3] == f"  download  about {size / 1e6:,.1f} MB"
    assert said[4].startswith(f"  price     about {size / 1e3:,.2f} USD, paid by you, at archive.usd_per_gb")

    if kind == "trades":
        assert run(tmp_path / "home", *asked) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert f"{size / 1e3:,.2f} USD, more than archive.limit_usd = 0.10" in error
        assert "say --yes to pay it" in error
    assert not list((tmp_path / "home/archive").rglob("*.lz4")), "nothing was fetched"

    assert run(tmp_path / "home", *asked, "--yes") == 0
    assert capsys.readouterr().out.splitlines() == [
        "steps     1 done, 0 were in the lake",
        f"new rows  {rows}",
    ]
    assert run(tmp_path / "home", *asked) == 0, "what is held has no price"
    said_again = capsys.readouterr()
    assert "nothing to do: all 1 steps are in the lake" in said_again.err
    assert said_again.out.splitlines() == ["steps     0 done, 1 were in the lake", "new rows  nothing"]
    settings = load_settings(overrides={"home": tmp_path / "home"}, environ={})
    with Lake.open(settings, read_only=True) as lake:
        assert lake.query(f"FROM {kind}").num_rows == {"trades": 181, "books": 9, "contexts": 7}[kind]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ["trades", "--from", "2024-01-01", "--to", "2024-01-02"],
            "no archive has trades of 2024-01-01",
            "let --from be 2025-03-22T10",
        ),
        (
            ["books", "--from", "2025-07-29T14", "--to", "2025-07-29T15", "--coin", "btc"],
            "has no book of 'btc' in those days",
            "the nearest is BTC",
        ),
    ],
)
def test_a_mistake_ends_with_its_message_and_the_next_step(
    place: tuple[str, Put],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
    hint: str,
) -> None:
    where, put = place
    put(book_key(HOUR, "BTC"), packed([a_book(1)]))
    values = [f"archive.node_data={where}", f"archive.market_data={where}"]
    asked = [part for value in values for part in ("--set", value)]
    assert run(tmp_path / "home", *asked, "backfill", *arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert hint in said
    assert "Traceback" not in said
