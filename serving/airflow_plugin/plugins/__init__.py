"""Airflow's plugins folder; every process of Airflow imports its files."""
