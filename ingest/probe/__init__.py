"""Probes of the live venues."""
