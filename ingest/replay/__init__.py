"""Replay of journals and captures, crash recovery, rebuild of the lake."""
