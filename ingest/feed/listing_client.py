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
    """A client of `POST /info`: `RestClient`, or a wrapper of it."""

    async def ask(self, request: Mapping[str, Any]) -> RestAnswer:
        """Return the answer, or raise `VenueError`."""


async def request_listings(rest: RestClient, settings: Settings) -> list[AnsweredRequest]:
    """Request the listings that the settings need, in the order in which a registry must take them.

    Raises:
        VenueError: a venue cannot be reached, or refuses.
    """
    answered = await request_markets(rest, settings.record.coins)
    if settings.gaiaex.symbols:
        path = "symbols/list"
        answer = await rest.get(gaiaex.rest_url(settings.gaiaex.rest_url, path))
        answered.append((gaiaex.question(path), answer))
    return answered


async def request_markets(client: InfoClient, coins: Sequence[str]) -> list[AnsweredRequest]:
    """Request the Hyperliquid listings that names and patterns need, in the order in which a registry must take them.

    Raises:
        VenueError: the venue cannot be reached, or refuses.
    """
    answered: list[AnsweredRequest] = []

    async def ask(request: dict[str, Any]) -> RestAnswer:
        answered.append((request, await client.ask(request)))
        return answered[-1][1]

    if any(coin.startswith("@") or "/" in coin for coin in coins):
        await ask({"type": "spotMeta"})
    named = {coin.partition(":")[0] for coin in coins if ":" in coin}
    if named:
        listed = _dex_names((await ask({"type": "perpDexs"})).body)
        wanted = listed if any(_GLOB & set(dex) for dex in named) else [dex for dex in listed if dex in named]
        for dex in wanted:
            await ask({"type": "meta", "dex": dex})
    await ask({"type": "meta"})
    return answered


def update_registry(registry: InstrumentRegistry, answered: Iterable[AnsweredRequest]) -> None:
    """Give answers to a registry.

    Raises:
        VenueError: an answer does not fit its schema.
    """
    for request, answer in answered:
        registry.apply_answer(request, msgspec.json.decode(answer.body), answer.received_ns)


def _dex_names(body: bytes) -> list[str]:
    entries = msgspec.json.decode(body)
    if not isinstance(entries, list):
        raise VenueError("the venue's perpDexs is no list")
    return [str(entry["name"]) for entry in entries if isinstance(entry, dict) and entry.get("name")]
