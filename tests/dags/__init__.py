"""Tests of the DAGs."""
