"""Markets that the simulated venue serves: synthetic or recorded."""
