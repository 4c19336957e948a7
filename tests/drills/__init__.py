"""Drills: what happens to the whole when the network, the disk or the clock fails?"""
