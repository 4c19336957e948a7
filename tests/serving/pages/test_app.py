"""The pages over HTTP: who may see and change what, what they show, and what they show when there is nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from html import unescape

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from serving.pages.app import HEADERS
from serving.pages.local_server import LocalAccess, make_local_app
from storage.clock import ManualTime, parse_time_ns
from storage.contracts.coverage_days import COVERAGE_DAYS
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.training.night.test_registry import FIRST
from training.night.registry import append_events, current_champion, read_versions

NOW_NS = parse_time_ns("2026-11-23T08:00")
ACCESS = LocalAccess(8090, "secret-token")
BASE = "http://127.0.0.1:8090"
PAPER = replace(FIRST, version="mlp-demo-2", night="demo-2", ts_knowable_ns=20)
LOGGED_IN = {"cookie": f"{ACCESS.cookie}={ACCESS.token}"}
CHANGE = {"action": "promote", "version": "mlp-demo-2", "champion": "mlp-demo-1", "reason": "we looked at it"}


def day(
    instrument: str, date: str, state: str, missing_h: float = 0.0, causes: str = ""
) -> dict[str, object]:
    return {
        "instrument": f"hyperliquid|perp|{instrument}", "day": date, "revision": 0, "state": state,
        "covered_h": 24.0 - missing_h, "missing_h": missing_h, "repairable_h": missing_h / 2, "causes": causes,
        "ts_knowable_ns": NOW_NS - 10,
    }  # fmt: skip


@pytest.fixture
def home(settings: Settings) -> Settings:
    settings.ensure_home()
    with Lake.open(settings) as lake:
        append_events(
            lake, [FIRST, replace(FIRST, event="champion", reason="earned <b>it</b>")], batch_id="v1"
        )
        append_events(lake, [PAPER, replace(PAPER, event="paper", reason="no quotes")], batch_id="v2")
        rows = [
            day("BTC", "2026-11-20", "complete"),
            day("BTC", "2026-11-22", "partial", 6.0, "recorder_down=5.5,silent_stream=0.5"),
            day("ETH", "2026-11-22", "repaired"),
            day("OLD", "2026-11-21", "missing", 24.0, "recorder_down=24.0"),
        ]
        lake.commit({"coverage_days": COVERAGE_DAYS.rows(rows)}, batch_id="days")
    return settings


@pytest.fixture
def client(home: Settings) -> Iterator[TestClient]:
    app = make_local_app(home, ACCESS, clock=ManualTime(NOW_NS))
    with TestClient(app, base_url=BASE, headers=LOGGED_IN) as opened:
        yield opened


def routes(client: TestClient) -> list[tuple[str, str]]:
    """Return every method and path of the application, with values for its parameters."""
    app = client.app
    found = [
        (
            method,
            route.path.replace("{night}", "demo-1").replace("{dag_id}", "d").replace("{run_id:path}", "r"),
        )
        for route in app.routes  # type: ignore[attr-defined]
        if isinstance(route, APIRoute)
        for method in sorted(route.methods)
    ]
    assert len(found) == len(app.routes), "a route of another kind may lie beside the guards"  # type: ignore[attr-defined]
    return found


def test_every_route_refuses_strangers_other_hosts_and_other_sites(client: TestClient) -> None:
    found = routes(client)
    assert {path for _, path in found} >= {"/", "/coverage", "/models", "/quality", "/pages.js", "/pages.css"}
    for method, path in found:
        answer = client.request(method, path, headers={"cookie": ""}, follow_redirects=False)
        assert answer.status_code == 401, path
        answer = client.request(method, path, headers={"cookie": f"{ACCESS.cookie}=guess"})
        assert answer.status_code == 401, path
        answer = client.request(method, path, headers={"host": "evil.example:8090"})
        assert answer.status_code == 421, path
        if method != "GET":
            for origin in ({}, {"origin": "http://evil.example"}, {"origin": "null"}):
                answer = client.request(method, path, data=CHANGE, headers=origin, follow_redirects=False)
                assert answer.status_code == 403, (path, origin)
        for name in HEADERS:
            assert name in answer.headers, path


def test_the_token_becomes_a_cookie_and_leaves_the_address(client: TestClient) -> None:
    answer = client.get("/?token=secret-token", headers={"cookie": ""}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("tickwalk-8090=secret-token; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} == set(cookie.split("; ")[1:])
    assert client.get("/?token=guess", headers={"cookie": ""}).status_code == 401


def test_the_morning_has_a_sentence_figures_and_what_waits(client: TestClient) -> None:
    text = unescape(client.get("/").text)
    assert "The night of 2026-11-22 is late: it was to start at 2026-11-23 00:20 UTC" in text
    assert "Champion: mlp-demo-1 serves demo for" in text
    assert "<b>87.5 %</b><span>of 48 hours of 2 instruments</span>" in text
    assert "mlp-demo-2 is on paper: promote it, or leave it" in text
    assert "no recorder has run in this home" in text


def test_the_coverage_has_a_letter_for_every_day_and_the_causes_of_one(client: TestClient) -> None:
    text = client.get("/coverage").text
    cells = json.loads(text.partition('id="cells">')[2].partition("</script>")[0])
    assert 'data-first="2026-11-20" data-days="3"' in text
    assert dict(zip(cells["instruments"], cells["rows"], strict=True)) == {
        "hyperliquid|perp|BTC": "c.p",
        "hyperliquid|perp|ETH": "..r",
        "hyperliquid|perp|OLD": ".m.",
    }
    cell = client.get(
        "/coverage/cell", params={"instrument": "hyperliquid|perp|BTC", "day": "2026-11-22"}
    ).json()
    assert cell["causes"] == [
        {"cause": "recorder down", "hours": 5.5},
        {"cause": "silent stream", "hours": 0.5},
    ]
    assert cell["command"] == "tickwalk backfill candles --coin BTC --from 2026-11-22 --to 2026-11-23"
    none = client.get("/coverage/cell", params={"instrument": "hyperliquid|perp|BTC", "day": "2026-11-21"})
    assert none.status_code == 404
    assert client.get("/coverage/cell", params={"instrument": "x", "day": "../etc"}).status_code == 422


def test_models_show_the_registry_and_escape_what_people_wrote(client: TestClient) -> None:
    text = client.get("/models").text
    assert "<b>mlp-demo-1</b> serves." in text
    assert "earned &lt;b&gt;it&lt;/b&gt;" in text
    assert text.index("mlp-demo-2") < text.index("earned")


def test_a_person_promotes_and_rolls_back_by_post(client: TestClient, home: Settings) -> None:
    back = {"action": "roll back", "version": "demo", "champion": "mlp-demo-2", "reason": "it was worse"}
    for change, serving in ((CHANGE, "mlp-demo-2"), (back, "mlp-demo-1")):
        answer = client.post("/models/decide", data=change, headers={"origin": BASE}, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/models")
        with Lake.open(home, read_only=True) as lake:
            champion = current_champion(lake, "demo")
        assert champion is not None
        assert champion.version == serving
        assert "@" in champion.who


def test_a_change_that_met_another_champion_is_refused_with_the_next_step(
    client: TestClient, home: Settings
) -> None:
    stale = CHANGE | {"champion": "mlp-demo-0"}
    answer = client.post("/models/decide", data=stale, headers={"origin": BASE})
    assert answer.status_code == 409
    assert "the change was made for mlp-demo-0" in answer.text
    assert "tickwalk models list" in answer.text
    with Lake.open(home, read_only=True) as lake:
        assert len(read_versions(lake)) == 4


def test_quality_is_the_json_of_the_command(client: TestClient) -> None:
    found = client.get("/quality", params={"since": "2026-11-20"}).json()
    assert {row["day"] for row in found["days"]} == {"2026-11-20", "2026-11-21", "2026-11-22"}
    assert client.get("/quality", params={"since": "yesterday"}).status_code == 422


def test_a_run_without_a_night_and_a_night_that_does_not_exist_say_so(client: TestClient) -> None:
    assert "This run has opened no night yet." in client.get("/run/retrain_nightly/manual__2026").text
    missing = client.get("/report/demo-9")
    assert missing.status_code == 409
    assert "demo-9" in missing.text


@pytest.mark.parametrize("page", ["/", "/coverage", "/models"])
def test_an_empty_home_is_drawn_with_what_to_run(settings: Settings, page: str) -> None:
    settings.ensure_home()
    Lake.open(settings).close()
    with TestClient(make_local_app(settings, ACCESS, clock=ManualTime(NOW_NS)), base_url=BASE) as client:
        text = client.get(page, headers=LOGGED_IN).text
    assert "tickwalk" in text.partition("<main>")[2]
    assert "<code>" in text or page == "/"
