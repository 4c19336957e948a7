"""Proofs that no feature looks ahead, and that built and live values equal the proven ones."""
