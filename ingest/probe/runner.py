"""Probe of the live venues: requests and subscriptions, with raw answers kept as fixtures.

The wire contract was read from pages. The probe sends every request and opens every channel for a few seconds, keeps
the raw answers, and reports what answered, what did not and why. It changes nothing and sends no secret; one run
spends about 300 of the weight of 1200 that Hyperliquid allows an address in a minute.

Files, below one folder: `VENUE/rest/NAME.json` (address, request, time, latency, status, headers, body as text),
`VENUE/NAME.txt` (frames, `<recv_ns> <frame>`, which `tickwalk replay` reads) with `VENUE/NAME.json` beside it
(address, sent messages, handshake, end of the connection), and `findings.json`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from ingest.feed.subscription_plan import explorer_url
from ingest.probe import requests, summary
from ingest.venues.gaiaex import protocol as gaiaex
from ingest.venues.hyperliquid.protocol import VENUE as HYPERLIQUID
from storage.clock import MS_NS, NS, TimeSource, WallTime, iso
from storage.errors import SettingsError, VenueError
from storage.settings import Settings

VENUES: Final = (HYPERLIQUID, gaiaex.VENUE)
_MAX_FRAME_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProbeFinding:
    """Result of one request or channel.

    Args:
        venue: that was probed.
        what: the request, or the channel.
        url: its address.
        answered: whether the answer fits the wire contract.
        status: HTTP status, `open`, or why there was none.
        latency_ms: of the answer or the handshake (None: there was none).
        note: summary of the answer.
        file: the fixture, below the folder of the probe.
    """

    venue: str
    what: str
    url: str
    answered: bool
    status: str
    latency_ms: float | None
    note: str
    file: str


class Probe:
    """One probe of the venues."""

    def __init__(
        self, settings: Settings, folder: Path, *, seconds: float, clock: TimeSource | None = None
    ) -> None:
        """Prepare a probe.

        Args:
            settings: sections `record` and `gaiaex` for the addresses.
            folder: for the fixtures; created if missing.
            seconds: duration of each connection; measuring the pace of a slow book takes 15.
            clock: stamps received messages (default: wall clock).

        Raises:
            SettingsError: the folder is not empty, or cannot be created.
        """
        self._settings = settings
        self._folder = folder
        self._seconds = seconds
        self._clock = clock or WallTime()
        self._findings: list[ProbeFinding] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            is_empty = not any(folder.iterdir())
        except OSError as error:
            raise SettingsError(
                f"the folder {folder} cannot be made: {error.strerror}", hint="choose another with --out"
            ) from error
        if not is_empty:
            raise SettingsError(f"the folder {folder} is not empty", hint="choose another with --out")

    async def run(self, venues: Sequence[str] = VENUES) -> list[ProbeFinding]:
        """Send requests and listen; return one finding per request and channel, in order."""
        timeout_s = self._settings.record.connect_timeout_s
        async with httpx.AsyncClient(timeout=timeout_s, follow_redirects=False) as client:
            if HYPERLIQUID in venues:
                await self._hyperliquid(client)
            if gaiaex.VENUE in venues:
                await self._gaiaex(client)
        self._write("findings.json", [asdict(item) for item in self._findings])
        return self._findings

    # Hyperliquid.

    async def _hyperliquid(self, client: httpx.AsyncClient) -> None:
        coin = next((name for name in self._settings.record.coins if not set(name) & set("*?[")), "BTC")
        answers = {}
        for request in requests.info_requests(coin, self._clock.now_ns() // MS_NS):
            answers[request["type"]] = await self._ask(client, request)
        dex, spot = requests.first_dex(answers["perpDexs"]), requests.first_pair(answers["spotMeta"])
        if dex:
            await self._ask(client, {"type": "meta", "dex": dex})
        asked = requests.subscriptions(coin, dex, spot)
        listens = [self._listen(HYPERLIQUID, "socket", self._settings.record.ws_url, asked)]
        if url := explorer_url(self._settings):
            listens.append(self._listen(HYPERLIQUID, "explorer", url, [{"type": "explorerBlock"}]))
        await asyncio.gather(*listens)

    async def _ask(self, client: httpx.AsyncClient, request: dict[str, Any]) -> bytes:
        url, kind = self._settings.record.info_url, str(request["type"])
        what = f"{kind} {request['dex']}" if request.get("dex") else kind
        return await self._request(
            client, HYPERLIQUID, what, url, request, lambda *times: summary.describe_answer(request, *times)
        )

    async def _listen(self, venue: str, name: str, url: str, asked: Sequence[dict[str, Any]]) -> None:
        """Subscribe to channels on one socket, and make a finding for each."""
        sends = [json.dumps({"method": "subscribe", "subscription": item}) for item in asked]
        result = await self._record(venue, name, url, sends, {})
        if result.failure:
            self._add_finding(result, venue, f"{name}, {len(asked)} channels", url, False, result.failure)
            return
        for channel, channel_summary in summary.summarize_channels(result.frames, asked).items():
            self._add_finding(
                result,
                venue,
                f"{name} {channel}",
                url,
                channel_summary.answered,
                channel_summary.describe(self._seconds),
            )

    # GaiaEx.

    async def _gaiaex(self, client: httpx.AsyncClient) -> None:
        chosen = self._settings.gaiaex
        for url in requests.gaiaex_urls(chosen.rest_url):
            await self._get(client, url)
        symbols = chosen.symbols or ("BTC",)
        for host in requests.gaiaex_hosts(chosen.ws_url):
            for symbol in symbols:
                # One after another: the venue demands few handshakes, without a number.
                await self._listen_gaia(gaiaex.socket_url(host, symbol), symbol)

    async def _get(self, client: httpx.AsyncClient, url: str) -> None:
        path = httpx.URL(url).path.removeprefix("/")
        await self._request(
            client, gaiaex.VENUE, path, url, None, lambda *times: summary.describe_gaiaex_answer(path, *times)
        )

    async def _listen_gaia(self, url: str, symbol: str) -> None:
        result = await self._record(
            gaiaex.VENUE, f"book {symbol}", url, [], {'"heartbeat"': gaiaex.HEARTBEAT_ANSWER}
        )
        fitting, note = summary.describe_gaiaex_frames(result.frames, self._seconds)
        answered = fitting > 0 and gaiaex.NOT_SUPPORTED not in note
        self._add_finding(result, gaiaex.VENUE, f"book {symbol}", url, answered, result.failure or note)

    async def _request(
        self,
        client: httpx.AsyncClient,
        venue: str,
        what: str,
        url: str,
        body: dict[str, Any] | None,
        describe: Callable[[bytes, int, int], str],
    ) -> bytes:
        """Send a request, keep its answer and note a finding; return the body, empty if there is none."""
        file = f"{venue}/rest/{self._free_name(venue, what)}.json"
        asked_ns, started_s = self._clock.now_ns(), time.perf_counter()
        head = {"url": url, "request": body, "asked_at": iso(asked_ns), "asked_ns": asked_ns}
        try:
            answer = await (client.get(url) if body is None else client.post(url, json=body))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = _describe(error)
            self._write(file, head | {"status": None, "error": reason})
            self._findings.append(ProbeFinding(venue, what, url, False, "not reached", None, reason, file))
            return b""
        took_s = time.perf_counter() - started_s
        received_ns = asked_ns + round(took_s * NS)
        # Cookies could identify the client.
        headers = {name: value for name, value in answer.headers.items() if name != "set-cookie"}
        text = answer.content.decode("utf-8", "backslashreplace")
        latency_ms = round(took_s * 1000, 1)
        taken = {"latency_ms": latency_ms, "status": answer.status_code, "headers": headers}
        self._write(file, head | taken | {"body": text})
        answered, note = answer.status_code == httpx.codes.OK, text[:120]
        if answered:
            try:
                note = describe(answer.content, asked_ns, received_ns)
            except VenueError as error:
                answered, note = False, error.message
        self._findings.append(
            ProbeFinding(venue, what, url, answered, str(answer.status_code), latency_ms, note, file)
        )
        return answer.content if answered else b""

    async def _record(
        self, venue: str, name: str, url: str, sends: Sequence[str], replies: dict[str, str]
    ) -> _SocketResult:
        """Listen to one socket for the duration of the probe, and keep every frame."""
        stem = f"{venue}/{self._free_name(venue, name)}"
        result = _SocketResult([], f"{stem}.txt")
        started_ns, started_s = self._clock.now_ns(), time.perf_counter()
        closed = "listened to the end"
        try:
            async with connect(
                url,
                compression=None,
                ping_interval=None,
                open_timeout=self._settings.record.connect_timeout_s,
                close_timeout=1.0,
                max_size=_MAX_FRAME_BYTES,
            ) as socket:
                result.handshake_ms = round((time.perf_counter() - started_s) * 1000, 1)
                for message in sends:
                    await socket.send(message)
                async with asyncio.timeout(self._seconds):
                    await self._receive(socket, result.frames, replies)
        except ConnectionClosed as error:
            closed = _describe(error)
        except TimeoutError:
            result.failure = "" if result.handshake_ms is not None else "no answer to the handshake"
        except (OSError, InvalidHandshake, InvalidURI) as error:
            closed = result.failure = _describe(error)
        head = {
            "url": url,
            "sent": list(sends),
            "opened_at": iso(started_ns),
            "handshake_ms": result.handshake_ms,
        }
        self._write(f"{stem}.json", head | {"frames": len(result.frames), "closed": result.failure or closed})
        lines = [b"%d %s\n" % (recv_ns, body) for recv_ns, body in result.frames]
        (self._folder / result.file).write_bytes(b"".join(lines))
        return result

    async def _receive(
        self, socket: ClientConnection, frames: list[tuple[int, bytes]], replies: dict[str, str]
    ) -> None:
        while True:
            body = await socket.recv(decode=False)
            frames.append((self._clock.now_ns(), body))
            for mark, reply in replies.items():
                if mark.encode() in body[:60]:
                    await socket.send(reply)

    def _add_finding(
        self, result: _SocketResult, venue: str, what: str, url: str, answered: bool, note: str
    ) -> None:
        status = "not reached" if result.handshake_ms is None else "open"
        self._findings.append(
            ProbeFinding(venue, what, url, answered, status, result.handshake_ms, note, result.file)
        )

    def _free_name(self, venue: str, what: str) -> str:
        """Return a file name for a request; requests to several hosts are numbered."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", what)
        taken = sum(item.venue == venue and item.what == what for item in self._findings)
        return f"{name}-{taken + 1}" if taken else name

    def _write(self, file: str, content: object) -> None:
        path = self._folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(slots=True)
class _SocketResult:
    """Frames and outcome of one socket."""

    frames: list[tuple[int, bytes]]
    file: str
    handshake_ms: float | None = None
    failure: str = ""


def _describe(error: BaseException) -> str:
    """Return why nothing was reached, with the message of the system if there is one."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return f"{type(error).__name__}: {error}".rstrip(": ")
