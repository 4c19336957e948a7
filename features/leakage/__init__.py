"""Proofs that no feature looks ahead."""
