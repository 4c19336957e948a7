"""Features once more, as plain loops over one cell at a time; tests/features/reference.py gathers them."""
