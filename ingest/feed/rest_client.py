"""REST client with rate limits, retries and a total timeout.

Answers are the raw bytes, for the journal; they are parsed elsewhere. A request is retried after 429, a server error,
a lost connection or an answer that is not JSON (a gateway's page), with jitter, and not before `Retry-After`. Other
errors concern the request itself and are final.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx
import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from ingest.feed.rate_limiter import RateLimiter, RateLimitRule
from ingest.sharding import parse_shard
from ingest.venues.hyperliquid.rate_limits import weight_of
from storage.clock import TimeSource, WallTime
from storage.errors import VenueError
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

# GaiaEx states 20 a second for one path and nothing for the others (read 2026-11): a quarter of it is safe.
_GETS: Final = RateLimitRule(5, 1.0)
_RETRYABLE_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """Body of an answer, and the times of request and receipt by our clock (ns)."""

    body: bytes
    asked_ns: int
    received_ns: int


class _Retryable(Exception):  # noqa: N818 - not an error of the program, but a reason to retry
    """An attempt failed in a way that the next one may not."""

    def __init__(self, reason: str, *, least_wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.least_wait_s = least_wait_s


class RestClient:
    """REST client of one recorder; an async context manager."""

    def __init__(
        self,
        settings: Settings,
        budget: RateLimiter | None = None,
        *,
        clock: TimeSource | None = None,
        random_source: random.Random | None = None,
    ) -> None:
        """Prepare a client.

        Args:
            settings: section `record`.
            budget: rate limit of `POST /info` weights (default: by the settings, divided among the shards).
            clock: stamps requests and answers (default: wall clock).
            random_source: for the waits between attempts.
        """
        record, (_, parts) = settings.record, parse_shard(settings.record.shard)
        self._record = record
        self.budget = budget or RateLimiter(
            RateLimitRule(max(1, record.rest_weight_per_minute // parts), 60.0)
        )
        self._gets = RateLimiter(RateLimitRule(max(1, _GETS.most // parts), _GETS.per_s))
        self._clock = clock or WallTime()
        self._random = random_source or random.Random()
        # One attempt without an answer must leave time for further ones.
        patience = httpx.Timeout(record.rest_timeout_s / 3, connect=record.connect_timeout_s)
        self._client = httpx.AsyncClient(timeout=patience)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def ask(self, request: Mapping[str, Any]) -> RestAnswer:
        """Return the answer of Hyperliquid's `POST /info` to a request such as `{"type": "meta"}`.

        Raises:
            VenueError: the venue refused, or did not answer within `record.rest_timeout_s`.
        """
        body = dict(request)
        weight = weight_of(body)

        async def attempt() -> RestAnswer:
            answer = await self._send("POST", self._record.info_url, json=body)
            # The weight of the answer's rows is known only now, and the venue has counted it.
            extra = weight_of(body, _rows(answer.body)) - weight
            self.budget.charge(extra, asyncio.get_running_loop().time())
            return answer

        what = str(body.get("type", "?"))
        return await self._retry(attempt, lambda: self.budget.spend(weight), what, "record.info_url")

    async def get(self, url: str) -> RestAnswer:
        """Return the answer of a `GET` request, which GaiaEx uses.

        Raises:
            VenueError: the venue refused, or did not answer within `record.rest_timeout_s`.
        """
        path = urlsplit(url).path
        return await self._retry(lambda: self._send("GET", url), self._gets.spend, path, "gaiaex.rest_url")

    async def _retry(
        self,
        attempt: Callable[[], Awaitable[RestAnswer]],
        spend: Callable[[], Awaitable[None]],
        what: str,
        key: str,
    ) -> RestAnswer:
        """Retry until an answer, a refusal or the timeout, which starts after the first wait for the rate limit."""
        timeout_s, reason = self._record.rest_timeout_s, "it is silent"

        def note(state: RetryCallState) -> None:
            nonlocal reason
            reason = str(_error_of(state))
            logger.debug("asking again", what=what, reason=reason)

        async def limited() -> RestAnswer:
            await spend()
            if patience.when() is None:
                patience.reschedule(asyncio.get_running_loop().time() + timeout_s)
            return await attempt()

        try:
            async with asyncio.timeout(None) as patience:
                retrying = AsyncRetrying(
                    retry=retry_if_exception_type(_Retryable), wait=self._wait_s, before_sleep=note
                )
                return await retrying(limited)
        except TimeoutError as error:
            raise VenueError(
                f"the venue did not answer {what} within {timeout_s:g} s: {reason}",
                hint=f"check the network and {key}; try without a network: tickwalk serve-venue",
            ) from error

    async def _send(self, method: str, url: str, **more: Any) -> RestAnswer:
        """Send a request once."""
        asked_ns = self._clock.now_ns()
        try:
            response = await self._client.request(method, url, **more)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
                raise VenueError(f"{_without_secrets(url)!r} is not an address that can be asked") from error
            raise _Retryable(f"{type(error).__name__} {error}".rstrip()) from error
        received_ns = self._clock.now_ns()
        status = response.status_code
        if status in _RETRYABLE_STATUS:
            retry_after = response.headers.get("Retry-After", "")
            raise _Retryable(
                f"it answered {status}", least_wait_s=float(retry_after) if retry_after.isdecimal() else 0.0
            )
        if status != httpx.codes.OK:
            raise VenueError(
                f"{_without_secrets(url)} answered {status}: {response.text[:120]!r}",
                hint="the venue does not accept this request",
            )
        try:
            msgspec.json.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _Retryable(f"it answered {response.text[:60]!r}, which is no JSON") from error
        return RestAnswer(response.content, asked_ns, received_ns)

    def _wait_s(self, state: RetryCallState) -> float:
        """Return the wait before the next attempt: the venue's `Retry-After` plus full jitter."""
        error = _error_of(state)
        least_s = error.least_wait_s if isinstance(error, _Retryable) else 0.0
        record = self._record
        longest_s = min(
            record.backoff_max_s, record.backoff_first_s * 2.0 ** min(state.attempt_number - 1, 30)
        )
        return least_s + self._random.uniform(0.0, longest_s)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _without_secrets(url: str) -> str:
    """Return an address without parts that may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def _rows(body: bytes) -> int:
    rows = msgspec.json.decode(body)
    return len(rows) if isinstance(rows, list) else 0
