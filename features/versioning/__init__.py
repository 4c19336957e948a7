"""Versions of feature sets: fingerprints, source hashes and differences."""
