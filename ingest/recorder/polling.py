"""What does a recorder ask beside listening: listings, the venue's clock, what was missed?

Every answer goes into the journal, and from there into the pipeline; nothing here decides a row.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from ingest.feed.listing_client import request_listings
from ingest.feed.rest_client import RestClient
from ingest.recorder.frame_sink import FrameSink
from ingest.venues.gaiaex import protocol as gaiaex
from storage.errors import VenueError
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)


T = TypeVar("T")


class Poller:
    """The questions of one recorder, each in a loop of its own until `ending` is set."""

    def __init__(
        self, settings: Settings, rest: RestClient, intake: FrameSink, ending: asyncio.Event
    ) -> None:
        self._settings = settings
        self._rest = rest
        self._intake = intake
        self._ending = ending
        self._failed: set[str] = set()

    async def listings(self, changed: Callable[[], None]) -> None:
        """Ask every so often what is listed; `changed` is told after each answer."""
        while await self._rest_for(self._settings.record.discover_s):
            with self._told("listings"):
                asked = await self._unless_ending(request_listings(self._rest, self._settings))
                for request, answer in asked or ():
                    self._intake.answer(request, answer.body, answer.asked_ns)
                self._intake.flush()
                changed()

    async def venue_clock(self) -> None:
        """Ask every so often what time the venue has."""
        while await self._rest_for(self._settings.record.clock_check_s):
            await self._ask({"type": "exchangeStatus"})

    async def repairs(self) -> None:
        """Ask for what was missed."""
        while await self._rest_for(1.0):
            for request in self._intake.pipeline.repairs.wishes(self._intake.seen_ns):
                await self._ask(request)
                if self._ending.is_set():
                    return

    async def gaia_state(self) -> None:
        """Ask GaiaEx every so often for its time and health."""
        base = self._settings.gaiaex.rest_url
        while self._settings.gaiaex.symbols and await self._rest_for(self._settings.gaiaex.poll_s):
            for path in ("time", "health"):
                await self._ask(gaiaex.question(path), gaiaex.rest_url(base, path))

    async def _ask(self, request: Mapping[str, Any], url: str = "") -> None:
        with self._told(str(request["type"])):
            answer = await self._unless_ending(self._rest.get(url) if url else self._rest.ask(request))
            if answer is not None:
                self._intake.answer(dict(request), answer.body, answer.asked_ns)

    async def _unless_ending(self, question: Coroutine[Any, Any, T]) -> T | None:
        """Return an answer; None where the recording ends first, which waits for no venue and no budget."""
        asking, ending = asyncio.create_task(question), asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait((asking, ending), return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else None
        finally:
            asking.cancel()
            ending.cancel()
            await asyncio.gather(asking, ending, return_exceptions=True)

    @contextlib.contextmanager
    def _told(self, what: str) -> Any:
        """Tell of the first failure of a kind of question, and of the first success after it."""
        try:
            yield
        except VenueError as error:
            if what not in self._failed:
                logger.warning("question not answered", what=what, reason=error.message)
            self._failed.add(what)
        else:
            if what in self._failed:
                logger.info("question answered again", what=what)
            self._failed.discard(what)

    async def _rest_for(self, seconds: float) -> bool:
        """Wait; return whether the recording goes on."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)
        return not self._ending.is_set()
