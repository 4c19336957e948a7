"""Tests of the room that turns bytes into trades and bars."""
