"""Requests for listings and markets over REST."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from ingest.feed.rest_client import RestAnswer, RestClient
from ingest.instruments.registry import InstrumentRegistry
from ingest.venues.gaiaex import protocol as gaiaex
from storage.errors import VenueError
from storage.settings import Settings

_GLOB: Final = frozenset("*?[")
AnsweredRequest = tuple[dict[str, Any], RestAnswer]


class InfoClient(Protocol):
    """What asks `POST /info`: `RestClient`, or something around it."""

    async def ask(self, request: Mapping[str, Any]) -> RestAnswer:
        """Return the answer, or raise `VenueError`."""


async def ask_listings(rest: RestClient, settings: Settings) -> list[AnsweredRequest]:
    """Ask what the venues list, as far as the settings name it; in the order in which it is to be learnt.

    Raises:
        VenueError: a venue cannot be reached, or refuses.
    """
    asked = await ask_markets(rest, settings.record.coins)
    if settings.gaiaex.symbols:
        path = "symbols/list"
        answer = await rest.get(gaiaex.rest_url(settings.gaiaex.rest_url, path))
        asked.append((gaiaex.question(path), answer))
    return asked


async def ask_markets(asker: InfoClient, coins: Sequence[str]) -> list[AnsweredRequest]:
    """Ask Hyperliquid what it lists, as far as names and patterns need it; in the order in which it is to be learnt.

    Raises:
        VenueError: the venue cannot be reached, or refuses.
    """
    asked: list[AnsweredRequest] = []

    async def ask(request: dict[str, Any]) -> RestAnswer:
        asked.append((request, await asker.ask(request)))
        return asked[-1][1]

    if any(coin.startswith("@") or "/" in coin for coin in coins):
        await ask({"type": "spotMeta"})
    named = {coin.partition(":")[0] for coin in coins if ":" in coin}
    if named:
        listed = _dex_names((await ask({"type": "perpDexs"})).body)
        wanted = listed if any(_GLOB & set(dex) for dex in named) else [dex for dex in listed if dex in named]
        for dex in wanted:
            await ask({"type": "meta", "dex": dex})
    await ask({"type": "meta"})
    return asked


def learn(registry: InstrumentRegistry, asked: Iterable[AnsweredRequest]) -> None:
    """Have a registry learn from answers.

    Raises:
        VenueError: one does not fit.
    """
    for request, answer in asked:
        registry.take(request, msgspec.json.decode(answer.body), answer.received_ns)


def _dex_names(body: bytes) -> list[str]:
    entries = msgspec.json.decode(body)
    if not isinstance(entries, list):
        raise VenueError("the venue's perpDexs is no list")
    return [str(entry["name"]) for entry in entries if isinstance(entry, dict) and entry.get("name")]
