"""Versions of feature sets: source hashes and differences."""
