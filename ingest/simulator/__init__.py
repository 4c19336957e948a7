"""A simulated venue over real sockets, for the demo and tests."""
