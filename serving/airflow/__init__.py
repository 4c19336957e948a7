"""Airflow on one machine: its services, and how they start and stop."""
