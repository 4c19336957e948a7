"""Wire text of the simulated venue."""
