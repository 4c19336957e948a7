"""Drills: failures of the network, disk, clock and process on a running system."""
