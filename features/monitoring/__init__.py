"""Health, drift and limit checks of features."""
