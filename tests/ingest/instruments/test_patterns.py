"""Expansion of name patterns, and the nearest name of a misspelt one."""

from __future__ import annotations

import pytest

from storage.errors import InstrumentError
from tests.ingest.instruments.listing_answers import NOW, full


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["kPEPE", "BTC", "BTC"], ("kPEPE", "BTC")),
        (["xyz:*"], ("xyz:AAPL", "xyz:GOLD")),
        (["@*"], ("@107",)),
        (["k*", "*/USDC"], ("kPEPE", "PURR/USDC")),
        (["*"], ("BTC", "kPEPE", "xyz:AAPL", "xyz:GOLD", "PURR/USDC", "@107")),
        (["#120", "BTC"], ("#120", "BTC")),
        (["flx:TSLA"], ("flx:TSLA",)),
    ],
)
def test_patterns_match_what_trades(patterns: list[str], names: tuple[str, ...]) -> None:
    """An outcome matches only by name, and a name on a dex without an answer is accepted."""
    assert full().expand(patterns) == names


@pytest.mark.parametrize(
    ("pattern", "reason", "hint"),
    [
        ("KPEPE", "'KPEPE' is not listed on hyperliquid", "did you mean kPEPE?"),
        ("OLD", "'OLD' is delisted on hyperliquid", "did you mean xyz:GOLD?"),
        ("xyz:APPL", "'xyz:APPL' is not listed", "did you mean xyz:AAPL?"),
        ("@9", "'@9' is not listed", "tickwalk instruments"),
        ("K*", "no coin that trades on hyperliquid fits 'K\\*'", "tickwalk instruments"),
        ("#*", "no coin that trades", "tickwalk instruments"),
    ],
)
def test_a_name_that_does_not_trade_is_refused_with_the_nearest(pattern: str, reason: str, hint: str) -> None:
    with pytest.raises(InstrumentError, match=reason) as caught:
        full().expand([pattern])
    assert hint in caught.value.hint


def test_a_delisted_name_may_be_left_out_and_an_unknown_one_may_not() -> None:
    """A recorder outlives what it records; a name that is misspelt is still refused."""
    assert full().expand(["BTC", "OLD", "K*"], leaves_out_gone=True) == ("BTC",)
    with pytest.raises(InstrumentError, match="'KPEPE' is not listed"):
        full().expand(["BTC", "KPEPE"], leaves_out_gone=True)


def test_a_name_on_a_dex_that_nobody_deployed_is_not_listed() -> None:
    registry = full()
    registry.apply_answer({"type": "perpDexs"}, [None, {"name": "xyz"}, {"name": "flx"}], NOW)
    assert registry.expand(["flx:TSLA"]) == ("flx:TSLA",), "its own meta was not asked for yet"
    with pytest.raises(InstrumentError, match=r"'XYZ:AAPL' is not listed.*did you mean xyz:AAPL\?"):
        registry.expand(["XYZ:AAPL"])
