"""Health checks, alerting, Prometheus metrics, live view."""
