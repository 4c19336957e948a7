"""Where does Airflow meet tickwalk: what its daemons run, and how a local set of them starts and stops."""
