"""Health, drift and limits of features."""
