"""The pages within Airflow."""
