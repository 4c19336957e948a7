"""REST client over real sockets: retries, rate limits, final errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from ingest.feed.rate_limiter import RateLimiter, RateLimitRule
from ingest.feed.rest_client import RestClient
from ingest.simulator.faults.faults import FailInfo, Fault
from ingest.simulator.venue import SimulatedVenue
from storage.clock import ManualTime
from storage.errors import VenueError
from storage.settings import Settings
from tests.ingest.feed.listeners import quick
from tests.ingest.simulator.clients import market
from tests.patience import assert_within

META = {"type": "meta"}


@contextlib.asynccontextmanager
async def asking(settings: Settings, *faults: Fault, **record: Any) -> AsyncIterator[RestClient]:
    """Return a client of a simulated venue."""
    async with (
        SimulatedVenue(market(), faults=faults) as venue,
        RestClient(quick(settings, info_url=venue.info_url, **record)) as rest,
    ):
        yield rest


@contextlib.asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """Return the address of a server that answers everything by `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def elapsed() -> Callable[[], float]:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    return lambda: loop.time() - began_s


async def test_an_answer_is_raw_and_stamped(settings: Settings) -> None:
    clock = ManualTime(5)
    async with (
        SimulatedVenue(market()) as venue,
        RestClient(quick(settings, info_url=venue.info_url), clock=clock) as rest,
    ):
        answer = await rest.ask(META)
    assert {"BTC", "SOL"} <= {item["name"] for item in json.loads(answer.body)["universe"]}
    assert (answer.asked_ns, answer.received_ns) == (5, 5)


@pytest.mark.parametrize(
    "fault",
    [FailInfo(status=429, times=2), FailInfo(status=500, times=2), FailInfo(status=502, html=True, times=2),
     FailInfo(status=200, html=True, times=2)],
)  # fmt: skip
async def test_refusals_errors_and_pages_are_retried(settings: Settings, fault: FailInfo) -> None:
    async with asking(settings, fault) as rest:
        assert json.loads((await rest.ask(META)).body)["universe"]
        assert rest.budget.spent(asyncio.get_running_loop().time()) == 60, "every try is paid for"


async def test_an_invalid_request_is_not_retried(settings: Settings) -> None:
    async with asking(settings) as rest:
        with pytest.raises(VenueError, match=r"answered 422"):
            await rest.ask({"type": "weather"})
        assert rest.budget.spent(asyncio.get_running_loop().time()) == 20


async def test_retry_after_is_honoured(settings: Settings) -> None:
    async with asking(settings, FailInfo(status=429, retry_after_s=1)) as rest:
        passed_s = elapsed()
        await rest.ask(META)
        assert passed_s() >= 1.0


@pytest.mark.timed
async def test_a_venue_that_never_recovers_times_out_with_the_reason(settings: Settings) -> None:
    async with asking(settings, FailInfo(status=503, times=10_000), rest_timeout_s=0.4) as rest:
        passed_s = elapsed()
        with pytest.raises(
            VenueError, match=r"did not answer meta within 0.4 s: it answered 503"
        ) as given_up:
            await rest.ask(META)
        assert_within(passed_s(), 2.0)
    assert "record.info_url" in given_up.value.hint


async def test_an_unreachable_venue_says_what_to_check(settings: Settings) -> None:
    async with RestClient(quick(settings, info_url="http://127.0.0.1:9/info", rest_timeout_s=0.3)) as rest:
        with pytest.raises(VenueError, match=r"did not answer meta within 0.3 s: Connect.*record.info_url"):
            await rest.ask(META)


async def test_an_invalid_address_is_refused_without_its_secrets(settings: Settings) -> None:
    async with RestClient(quick(settings)) as rest:
        with pytest.raises(VenueError, match="is not an address") as refused:
            await rest.get("ftp://user:hunter2@host/path?key=hunter2")
    assert "hunter2" not in str(refused.value)


async def test_the_rate_limit_spaces_requests_and_its_wait_does_not_count_as_timeout(
    settings: Settings,
) -> None:
    async with SimulatedVenue(market()) as venue:
        chosen = quick(settings, info_url=venue.info_url, rest_timeout_s=0.5)
        async with RestClient(chosen, RateLimiter(RateLimitRule(40, 0.4))) as rest:
            passed_s = elapsed()
            await asyncio.gather(*(rest.ask(META) for _ in range(6)))
            assert passed_s() >= 0.8


async def test_the_weight_of_rows_is_charged_once_known(settings: Settings) -> None:
    async def candles(_: web.Request) -> web.Response:
        return web.json_response([{} for _ in range(5_000)])

    async with serving(candles) as url, RestClient(quick(settings, info_url=url)) as rest:
        await rest.ask({"type": "candleSnapshot", "req": {}})
        assert rest.budget.spent(asyncio.get_running_loop().time()) == 104


@pytest.mark.timed
async def test_ctrl_c_ends_an_unanswered_request_at_once(settings: Settings) -> None:
    asked = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(silent) as url, RestClient(quick(settings, info_url=url)) as rest:
        question = asyncio.create_task(rest.ask(META))
        await asked.wait()
        passed_s = elapsed()
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
        assert_within(passed_s(), 0.2)


async def test_gaiaex_is_asked_five_times_a_second_at_most(settings: Settings) -> None:
    async with SimulatedVenue(market()) as venue, RestClient(quick(settings)) as rest:
        passed_s = elapsed()
        answers = await asyncio.gather(*(rest.get(f"{venue.gaia_rest_url}/time") for _ in range(6)))
        assert passed_s() >= 1.0
    assert all(json.loads(answer.body)["serverTime"] > 0 for answer in answers)
