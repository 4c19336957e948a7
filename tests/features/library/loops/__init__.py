"""Reference implementations of features as plain loops over cells, collected by tests/features/library/reference.py."""
