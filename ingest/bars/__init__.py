"""Bars from trades or candles, and their reconciliation with the venue."""
