"""Bars against the venue's own candles, and what explains a bar."""
