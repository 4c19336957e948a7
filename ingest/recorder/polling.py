"""REST polls of a running recorder: listings, the venue's clock, missed data, GaiaEx's health.

Every answer goes into the journal, and from there into the pipeline; nothing here affects rows directly.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from ingest.concurrency import run_unless, wait_for
from ingest.feed.listing_client import request_listings
from ingest.feed.rest_client import RestClient
from ingest.recorder.frame_sink import FrameSink
from ingest.venues.gaiaex import protocol as gaiaex
from storage.errors import VenueError
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)


class Poller:
    """Polls of one recorder, each in a loop of its own until `ending` is set."""

    def __init__(
        self, settings: Settings, rest: RestClient, intake: FrameSink, ending: asyncio.Event
    ) -> None:
        self._settings = settings
        self._rest = rest
        self._intake = intake
        self._ending = ending
        self._failed: set[str] = set()

    async def listings(self, changed: Callable[[], None]) -> None:
        """Poll what is listed; `changed` is called after each answer."""
        while await self._pause(self._settings.record.discover_s):
            with self._log_failure("listings"):
                answers = await run_unless(self._ending, request_listings(self._rest, self._settings))
                for request, answer in answers or ():
                    self._intake.answer(request, answer.body, answer.asked_ns)
                self._intake.flush()
                changed()

    async def venue_clock(self) -> None:
        """Poll the venue's time."""
        while await self._pause(self._settings.record.clock_check_s):
            await self._ask({"type": "exchangeStatus"})

    async def repairs(self) -> None:
        """Request what was missed."""
        while await self._pause(1.0):
            for request in self._intake.pipeline.repairs.due_requests(self._intake.seen_ns):
                await self._ask(request)
                if self._ending.is_set():
                    return

    async def gaia_state(self) -> None:
        """Poll GaiaEx's time and health."""
        base = self._settings.gaiaex.rest_url
        while self._settings.gaiaex.symbols and await self._pause(self._settings.gaiaex.poll_s):
            for path in ("time", "health"):
                await self._ask(gaiaex.question(path), gaiaex.rest_url(base, path))

    async def _ask(self, request: Mapping[str, Any], url: str = "") -> None:
        with self._log_failure(str(request["type"])):
            answer = await run_unless(self._ending, self._rest.get(url) if url else self._rest.ask(request))
            if answer is not None:
                self._intake.answer(dict(request), answer.body, answer.asked_ns)

    @contextlib.contextmanager
    def _log_failure(self, what: str) -> Any:
        """Log the first failure of a kind of request, and the first success after it."""
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

    async def _pause(self, seconds: float) -> bool:
        """Wait; return whether the recording continues."""
        return not await wait_for(self._ending, seconds)
