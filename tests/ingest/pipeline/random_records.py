"""Random recordings: every kind of record, in any order, with every oddity of a real feed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

from ingest.journal.records import RecordKind
from storage.clock import NS
from tests.ingest.pipeline.mutations import mutate
from tests.ingest.pipeline.scripts import START_NS, Script

COINS: Final = ("BTC", "ETH", "xyz:AAPL", "kPEPE")
TWINS: Final = (0, 1)
RELAY: Final = 2
EXPLORER: Final = 3
CONTEXT: Final = {
    "funding": "0.0001",
    "openInterest": "10",
    "prevDayPx": "90",
    "dayNtlVlm": "1000",
    "oraclePx": "100",
    "markPx": "100.1",
    "midPx": "100.05",
}


class Wild:
    """Writes one random recording; the same seed writes the same one."""

    def __init__(self, seed: int, *, events: int = 250, is_capture: bool = False) -> None:
        self.chance = random.Random(seed)
        self.script = Script(() if is_capture else COINS[:2])
        self._is_capture = is_capture
        self._at_s = 0.0
        self._sent: list[bytes] = []
        self._prints: list[dict[str, Any]] = []
        self._open: set[int] = set()
        if not is_capture:
            for connection in (*TWINS, RELAY, EXPLORER):
                self._toggle(connection)
        steps, weights = zip(*self._steps(), strict=True)
        for step in self.chance.choices(steps, weights, k=events):
            self._wait()
            step()
        self._wait(5.0)
        self.script.stop(self._at_s)

    def _steps(self) -> list[tuple[Callable[[], None], float]]:
        steps: list[tuple[Callable[[], None], float]] = [
            (self._quote, 40),
            (self._trades, 40),
            (self._again, 10),
            (self._odd, 8),
            (self._beside, 15),
            (self._silence, 0.7),
        ]
        if not self._is_capture:
            steps += [(self._told, 5), (self._lost, 2), (self._tick, 3), (self._answer, 2), (self._relay, 8)]
        return steps

    def _wait(self, longest_s: float = 0.0) -> None:
        mean_s = self.chance.choice((0.0, 0.01, 0.05, 0.2, 0.2))
        self._at_s += self.chance.expovariate(1 / mean_s) if mean_s else 0.0
        if self.chance.random() < 0.015:
            self._at_s += self.chance.choice((3.0, 7.0, 12.0, 35.0, 70.0))
        self._at_s = round(self._at_s + longest_s, 4)

    # What a twin hears, in its steady state.

    def _event_ms(self) -> int:
        lag_s = self.chance.choice((0.3, 0.5, 0.5, 0.7, 2.5, 40.0, 90.0, 1_000.0, -0.4))
        return Script.venue_ms(self._at_s - lag_s)

    def _number(self) -> str:
        chance = self.chance
        if chance.random() < 0.02:
            return chance.choice(
                ("0", "1e3", "0.0", "100.12345678901234567", "1e13", "-1", "1234567890123456")
            )
        return f"{chance.randrange(1, 10**6) / 10 ** chance.randrange(5):.6g}"

    def _coin(self) -> str:
        return self.chance.choice(COINS) if self.chance.random() < 0.97 else "DOGE"

    def _quote(self) -> None:
        bbo = [{"px": self._number(), "sz": self._number(), "n": 1} for _ in range(2)]
        data = {"coin": self._coin(), "time": self._event_ms(), "bbo": bbo}
        for side in range(2):
            if self.chance.random() < 0.1:
                data["bbo"][side] = None  # type: ignore[index]
        self._send({"channel": "bbo", "data": data})

    def _trades(self) -> None:
        coin, event_ms = self._coin(), self._event_ms()
        items = []
        for _ in range(self.chance.choice((0, 1, 1, 1, 2, 4)) if self.chance.random() < 0.3 else 1):
            if self._prints and self.chance.random() < 0.25:
                items.append(dict(self.chance.choice(self._prints[-40:])))
                if self.chance.random() < 0.1:
                    items[-1]["px"] = self._number()
                continue
            items.append(self.script.a_print(0.0, coin=coin, px=self._number(), sz=self._number()))
            items[-1]["time"] = event_ms if self.chance.random() < 0.9 else self._event_ms()
            items[-1]["side"] = self.chance.choice("ABABABABABX")
            items[-1]["hash"] = self.chance.choice(("0x1", "0x" + "0" * 64))
        self._prints += items
        self._send({"channel": "trades", "data": items})

    def _again(self) -> None:
        """The twin sends it too, or the same socket twice."""
        if self._sent:
            self._body(self.chance.choice(self._sent[-6:]))

    def _odd(self) -> None:
        if self._sent:
            self._body(mutate(self.chance.choice(self._sent[-50:]), self.chance, self._sent[-50:]))

    def _beside(self) -> None:
        coin, time = self._coin(), self._event_ms()
        level = {"px": "99", "sz": "1", "n": 1}, {"px": "101", "sz": "1", "n": 1}
        book = {"coin": coin, "time": time, "levels": [[level[0]], [level[1]]]}
        context = CONTEXT | {"markPx": self._number(), "dayBaseVlm": str(self.chance.randrange(5, 9))}
        candle = {
            "s": coin,
            "i": "1m",
            "t": time,
            "T": time,
            "o": "1",
            "c": "1",
            "h": "1",
            "l": "1",
            "v": "1",
            "n": 1,
        }
        self._send(
            self.chance.choice(
                (
                    {"channel": "l2Book", "data": book},
                    {"channel": "l2Book", "data": book | {"fast": True}},
                    {"channel": "l2Book", "data": None},
                    {"channel": "activeAssetCtx", "data": {"coin": coin, "ctx": context}},
                    {"channel": "activeSpotAssetCtx", "data": {"coin": coin, "ctx": context}},
                    {"channel": "allMids", "data": {"mids": {coin: self._number(), "#1": "0.5"}}},
                    {"channel": "allDexsAssetCtxs", "data": {"ctxs": [["", [context]]]}},
                    {"channel": "candle", "data": candle},
                    {"channel": "pong"},
                    {"channel": "error", "data": "Invalid subscription"},
                )
            )
        )

    def _silence(self) -> None:
        """Nothing prints for longer than a rhythm may allow, while quotes and volumes go on."""
        coin, until_s = self._coin(), self._at_s + self.chance.choice((15.0, 70.0, 250.0))
        while self._at_s < until_s:
            self._at_s = round(self._at_s + 9.7, 4)
            self._beside() if self.chance.random() < 0.3 else self._quote()
            volume = CONTEXT | {"dayBaseVlm": str(self.chance.randrange(5, 9))}
            self._send({"channel": "activeAssetCtx", "data": {"coin": coin, "ctx": volume}})

    def _send(self, message: dict[str, Any]) -> None:
        self._sent.append(json.dumps(message, separators=(",", ":")).encode())
        self._body(self._sent[-1])

    def _body(self, body: bytes) -> None:
        self.script.frame(self._at_s, body, self.chance.choice(TWINS))

    # What changes how streams are read.

    def _told(self) -> None:
        coin = self._coin()
        subscription = {"type": self.chance.choice(("trades", "bbo", "l2Book")), "coin": coin}
        method = self.chance.choice(("subscribe", "subscribe", "unsubscribe"))
        data: Any = {"method": method, "subscription": subscription}
        if self.chance.random() < 0.3:
            text = f"Already subscribed: {json.dumps(subscription)}"
            self.script.frame(self._at_s, {"channel": "error", "data": text}, self.chance.choice(TWINS))
            return
        message = {"channel": "subscriptionResponse", "data": data}
        self.script.frame(self._at_s, message, self.chance.choice(TWINS))

    def _lost(self) -> None:
        self._toggle(self.chance.choice((*TWINS, RELAY, EXPLORER)))

    def _toggle(self, connection: int) -> None:
        if connection in self._open:
            self._open.remove(connection)
            self.script.close(self._at_s, connection)
            return
        self._open.add(connection)
        if connection in TWINS:
            self.script.open(self._at_s, connection, *COINS[:3])
        elif connection == RELAY:
            self.script.opened(self._at_s, connection, venue="gaiaex", socket="BTC", symbol="BTC")
        else:
            self.script.opened(self._at_s, connection, venue="chain", socket="explorer")

    def _tick(self) -> None:
        self.script.clock(self._at_s)

    def _answer(self) -> None:
        """The newest trades, newest first; or the universe, in which a coin is delisted or back."""
        if self.chance.random() < 0.5 and self._prints:
            request: dict[str, Any] = {"type": "recentTrades", "coin": "BTC"}
            response: Any = [item for item in self._prints[:-11:-1] if item["coin"] == "BTC"]
        else:
            request = {"type": "meta"}
            gone = {"isDelisted": True} if self.chance.random() < 0.3 else {}
            response = {
                "universe": [{"name": "BTC", "szDecimals": 5}, {"name": "ETH", "szDecimals": 4} | gone]
            }
        self.script.answer(self._at_s, request, response)

    def _relay(self) -> None:
        now_ms = (START_NS + round(self._at_s * NS)) // 1_000_000
        symbol = {"symbol": "BTC", "timestamp": now_ms}
        book = symbol | {"bids": [[self._number(), "1"]], "asks": [["999999999", "1"]], "stale": False}
        message = self.chance.choice(
            (
                {"type": "orderbook"} | book,
                {"type": "orderbook"} | book | {"stale": True},
                {"type": "heartbeat"} | symbol,
                {"type": "stale", "reason": "upstream_disconnected"} | symbol,
                {"type": "recovered"} | symbol,
            )
        )
        if self.chance.random() < 0.5:
            self.script.frame(self._at_s, message, RELAY)
        else:
            block = {"blockTime": now_ms, "height": now_ms, "hash": "0x", "numTxs": 1, "proposer": "0x"}
            self.script.frame(self._at_s, json.dumps([block]).encode(), EXPLORER)


def in_capture(wild: Wild) -> Script:
    """Return a recording with its frames alone, as a capture file holds them."""
    wild.script.records = [
        record for record in wild.script.records if record.kind in (RecordKind.FRAME, RecordKind.STOPPED)
    ]
    return wild.script
