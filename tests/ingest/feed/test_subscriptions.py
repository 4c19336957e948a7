"""Do subscriptions converge to what is wanted, whatever is lost on the way?"""

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


def said(desired: SubscriptionState, now_s: float) -> list[tuple[str, dict[str, Any]]]:
    out = []
    while (message := desired.next(now_s)) is not None:
        body = json.loads(message)
        out.append((body["method"], body["subscription"]))
    return out


def test_all_is_asked_for_once_in_order() -> None:
    desired = SubscriptionState([BTC, SLOW], timeout_s=10.0)
    assert said(desired, 0.0) == [("subscribe", BTC.body()), ("subscribe", SLOW.body())]
    assert said(desired, 9.9) == []
    assert desired.missing == {BTC, SLOW}


def test_an_echo_with_more_fields_answers_what_was_asked() -> None:
    desired = SubscriptionState([SLOW, FAST], timeout_s=10.0)
    said(desired, 0.0)
    slow = ack("subscribe", type="l2Book", coin="BTC", nSigFigs=None, mantissa=None)
    fast = ack("subscribe", type="l2Book", coin="BTC", nSigFigs=None, mantissa=None, fast=True)
    assert desired.take(fast) == SubscriptionChange(FAST, "held")
    assert desired.held == {FAST}
    assert desired.take(slow) == SubscriptionChange(SLOW, "held")
    assert desired.missing == frozenset()


def test_what_is_not_answered_is_asked_for_again_and_ever_more_patiently() -> None:
    desired = SubscriptionState([BTC], timeout_s=10.0)
    times = []
    for now_s in range(300):
        if said(desired, float(now_s)):
            times.append(now_s)
    assert times == [0, 10, 30, 70, 130, 190, 250]
    assert desired.overdue(310.0) == [BTC]


def test_already_subscribed_is_a_success() -> None:
    desired = SubscriptionState([BTC], timeout_s=10.0)
    said(desired, 0.0)
    assert desired.take(error(f"Already subscribed: {json.dumps(BTC.body())}")) == SubscriptionChange(
        BTC, "held"
    )


def test_what_the_venue_has_not_is_not_asked_for_again_on_this_connection() -> None:
    desired = SubscriptionState([BTC, ETH], timeout_s=10.0)
    said(desired, 0.0)
    assert desired.take(error(f"Invalid subscription {json.dumps(BTC.body())}")) == SubscriptionChange(
        BTC, "refused"
    )
    desired.take(ack("subscribe", **ETH.body()))
    assert desired.refused == {BTC}
    assert said(desired, 1e6) == []
    desired.forget()
    assert [body["coin"] for _, body in said(desired, 1e6)] == ["BTC", "ETH"]


def test_a_change_says_the_difference_only() -> None:
    desired = SubscriptionState([BTC, SLOW], timeout_s=10.0)
    said(desired, 0.0)
    desired.take(ack("subscribe", **BTC.body()))
    desired.take(ack("subscribe", **SLOW.body()))
    desired.want([BTC, ETH])
    assert said(desired, 1.0) == [("subscribe", ETH.body()), ("unsubscribe", SLOW.body())]
    assert desired.take(ack("unsubscribe", **SLOW.body())) == SubscriptionChange(SLOW, "gone")
    assert desired.held == {BTC}


def test_an_end_that_is_never_confirmed_is_let_go() -> None:
    desired = SubscriptionState([BTC], timeout_s=10.0)
    said(desired, 0.0)
    desired.take(ack("subscribe", **BTC.body()))
    desired.want([])
    messages = [method for now_s in range(1000) for method, _ in said(desired, float(now_s))]
    assert messages == ["unsubscribe"] * 3
    assert desired.due_s() is None


def test_renewing_ends_and_asks_again() -> None:
    desired = SubscriptionState([BTC, ETH], timeout_s=10.0)
    said(desired, 0.0)
    for want in (BTC, ETH):
        desired.take(ack("subscribe", **want.body()))
    assert desired.renew(BTC)
    assert said(desired, 5.0) == [("unsubscribe", BTC.body())]
    assert not desired.renew(BTC), "it is on its way already"
    assert said(desired, 6.0) == []
    assert desired.take(error(f"Already unsubscribed: {json.dumps(BTC.body())}")) == SubscriptionChange(
        BTC, "gone"
    )
    assert said(desired, 6.0) == [("subscribe", BTC.body())]


def test_renewing_asks_again_though_the_end_is_never_confirmed() -> None:
    desired = SubscriptionState([BTC], timeout_s=10.0)
    said(desired, 0.0)
    desired.take(ack("subscribe", **BTC.body()))
    desired.renew(BTC)
    said(desired, 5.0)
    assert said(desired, 15.0) == [("subscribe", BTC.body())]


@given(
    st.lists(
        st.tuples(st.sampled_from(["want", "renew", "answer", "lose", "wait"]), st.integers(0, 7)),
        max_size=40,
    )
)
def test_whatever_was_lost_the_venue_ends_up_carrying_what_is_wanted(steps: list[tuple[str, int]]) -> None:
    """A venue that answers as Hyperliquid does, of whose answers some are lost."""
    universe = [BTC, ETH, SLOW]
    desired = SubscriptionState([], timeout_s=1.0)
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
            desired.take(text)

    for step, number in steps:
        if step == "want":
            desired.want([want for at, want in enumerate(universe) if number >> at & 1])
        elif step == "renew":
            desired.renew(universe[number % 3])
        elif step == "wait":
            now_s += number
        elif (message := desired.next(now_s)) is not None:
            answer(message, is_lost=step == "lose")
    for _ in range(20):
        now_s += 10.0
        while (message := desired.next(now_s)) is not None:
            answer(message, is_lost=False)
    assert desired.held == set(desired.wanted)
    assert sorted(carried, key=str) == sorted((want.body() for want in desired.wanted), key=str)


@given(st.binary())
def test_no_answer_breaks_it(frame: bytes) -> None:
    desired = SubscriptionState([BTC], timeout_s=1.0)
    said(desired, 0.0)
    for body in (
        frame,
        b'{"channel":"error","data":' + frame,
        b'{"channel":"subscriptionResponse","data":[1]}',
    ):
        assert desired.take(body) is None
