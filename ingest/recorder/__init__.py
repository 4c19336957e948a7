"""The live recording process."""
