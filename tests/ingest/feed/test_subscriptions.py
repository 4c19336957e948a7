"""Convergence of subscriptions to what is wanted, whatever is lost on the way."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ingest.feed.subscription_plan import Subscription
from ingest.feed.subscriptions import SubscriptionChange, SubscriptionState

BTC, ETH = Subscription("trades", "BTC"), Subscription("trades", "ETH")
SLOW, FAST = Subscription("l2Book", "BTC"), Subscription("l2BookFast", "BTC")


def ack(method: str, **echo: Any) -> bytes:
    data = {"method": method, "subscription": echo}
    return json.dumps({"channel": "subscriptionResponse", "data": data}).encode()


def error(text: str) -> bytes:
    return json.dumps({"channel": "error", "data": text}).encode()


def said(state: SubscriptionState, now_s: float) -> list[tuple[str, dict[str, Any]]]:
    out = []
    while (message := state.next_message(now_s)) is not None:
        body = json.loads(message)
        out.append((body["method"], body["subscription"]))
    return out


def test_all_subscriptions_are_requested_once_in_order() -> None:
    state = SubscriptionState([BTC, SLOW], timeout_s=10.0)
    assert said(state, 0.0) == [("subscribe", BTC.body()), ("subscribe", SLOW.body())]
    assert said(state, 9.9) == []
    assert state.missing == {BTC, SLOW}


def test_an_echo_with_more_fields_matches_its_request() -> None:
    state = SubscriptionState([SLOW, FAST], timeout_s=10.0)
    said(state, 0.0)
    slow = ack("subscribe", type="l2Book", coin="BTC", nSigFigs=None, mantissa=None)
    fast = ack("subscribe", type="l2Book", coin="BTC", nSigFigs=None, mantissa=None, fast=True)
    assert state.handle_answer(fast) == SubscriptionChange(FAST, "confirmed")
    assert state.confirmed == {FAST}
    assert state.handle_answer(slow) == SubscriptionChange(SLOW, "confirmed")
    assert state.missing == frozenset()


def test_unanswered_requests_are_repeated_with_growing_timeouts() -> None:
    state = SubscriptionState([BTC], timeout_s=10.0)
    times = []
    for now_s in range(300):
        if said(state, float(now_s)):
            times.append(now_s)
    assert times == [0, 10, 30, 70, 130, 190, 250]
    assert state.overdue(310.0) == [BTC]


def test_already_subscribed_is_a_success() -> None:
    state = SubscriptionState([BTC], timeout_s=10.0)
    said(state, 0.0)
    assert state.handle_answer(error(f"Already subscribed: {json.dumps(BTC.body())}")) == SubscriptionChange(
        BTC, "confirmed"
    )


def test_a_refused_subscription_is_not_repeated_on_this_connection() -> None:
    state = SubscriptionState([BTC, ETH], timeout_s=10.0)
    said(state, 0.0)
    assert state.handle_answer(error(f"Invalid subscription {json.dumps(BTC.body())}")) == SubscriptionChange(
        BTC, "refused"
    )
    state.handle_answer(ack("subscribe", **ETH.body()))
    assert state.refused == {BTC}
    assert said(state, 1e6) == []
    state.reset()
    assert [body["coin"] for _, body in said(state, 1e6)] == ["BTC", "ETH"]


def test_a_change_sends_only_the_difference() -> None:
    state = SubscriptionState([BTC, SLOW], timeout_s=10.0)
    said(state, 0.0)
    state.handle_answer(ack("subscribe", **BTC.body()))
    state.handle_answer(ack("subscribe", **SLOW.body()))
    state.set_wanted([BTC, ETH])
    assert said(state, 1.0) == [("subscribe", ETH.body()), ("unsubscribe", SLOW.body())]
    assert state.handle_answer(ack("unsubscribe", **SLOW.body())) == SubscriptionChange(SLOW, "removed")
    assert state.confirmed == {BTC}


def test_an_unconfirmed_unsubscription_is_dropped() -> None:
    state = SubscriptionState([BTC], timeout_s=10.0)
    said(state, 0.0)
    state.handle_answer(ack("subscribe", **BTC.body()))
    state.set_wanted([])
    messages = [method for now_s in range(1000) for method, _ in said(state, float(now_s))]
    assert messages == ["unsubscribe"] * 3
    assert state.due_s() is None


def test_renewing_unsubscribes_and_subscribes_again() -> None:
    state = SubscriptionState([BTC, ETH], timeout_s=10.0)
    said(state, 0.0)
    for want in (BTC, ETH):
        state.handle_answer(ack("subscribe", **want.body()))
    assert state.renew(BTC)
    assert said(state, 5.0) == [("unsubscribe", BTC.body())]
    assert not state.renew(BTC), "it is on its way already"
    assert said(state, 6.0) == []
    assert state.handle_answer(
        error(f"Already unsubscribed: {json.dumps(BTC.body())}")
    ) == SubscriptionChange(BTC, "removed")
    assert said(state, 6.0) == [("subscribe", BTC.body())]


def test_renewing_subscribes_again_though_the_unsubscription_is_never_confirmed() -> None:
    state = SubscriptionState([BTC], timeout_s=10.0)
    said(state, 0.0)
    state.handle_answer(ack("subscribe", **BTC.body()))
    state.renew(BTC)
    said(state, 5.0)
    assert said(state, 15.0) == [("subscribe", BTC.body())]


@given(
    st.lists(
        st.tuples(st.sampled_from(["want", "renew", "answer", "lose", "wait"]), st.integers(0, 7)),
        max_size=40,
    )
)
def test_lost_messages_never_prevent_convergence(steps: list[tuple[str, int]]) -> None:
    """The venue answers as Hyperliquid does, and some answers are lost."""
    universe = [BTC, ETH, SLOW]
    state = SubscriptionState([], timeout_s=1.0)
    carried: list[dict[str, Any]] = []
    now_s = 0.0

    def answer(message: str, *, is_lost: bool) -> None:
        request = json.loads(message)
        method, body = request["method"], request["subscription"]
        text = ack(method, **body, nSigFigs=None)
        if method == "subscribe":
            if body in carried:
                text = error(f"Already subscribed: {json.dumps(body)}")
            else:
                carried.append(body)
        elif body in carried:
            carried.remove(body)
        else:
            text = error(f"Already unsubscribed: {json.dumps(body)}")
        if not is_lost:
            state.handle_answer(text)

    for step, number in steps:
        if step == "want":
            state.set_wanted([want for at, want in enumerate(universe) if number >> at & 1])
        elif step == "renew":
            state.renew(universe[number % 3])
        elif step == "wait":
            now_s += number
        elif (message := state.next_message(now_s)) is not None:
            answer(message, is_lost=step == "lose")
    for _ in range(20):
        now_s += 10.0
        while (message := state.next_message(now_s)) is not None:
            answer(message, is_lost=False)
    assert state.confirmed == set(state.wanted)
    assert sorted(carried, key=str) == sorted((want.body() for want in state.wanted), key=str)


@given(st.binary())
def test_malformed_answers_are_ignored(frame: bytes) -> None:
    state = SubscriptionState([BTC], timeout_s=1.0)
    said(state, 0.0)
    for body in (
        frame,
        b'{"channel":"error","data":' + frame,
        b'{"channel":"subscriptionResponse","data":[1]}',
    ):
        assert state.handle_answer(body) is None
