"""Panels: bars of all instruments on one clock, as known at each close."""
