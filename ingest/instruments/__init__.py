"""Reference data: instruments, listings, trading sessions, fees."""
