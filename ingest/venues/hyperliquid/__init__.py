"""Hyperliquid's wire format."""
