"""Features once more, as plain loops over one cell at a time; tests/features/library/reference.py gathers them."""
