"""Lineage of one bar or one feature value."""
