"""User interfaces: command line, report, monitoring, Airflow."""
