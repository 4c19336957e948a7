"""Provenance of one number: a bar or a feature."""
