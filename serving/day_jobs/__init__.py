"""Jobs of UTC days: seal, repair, backfill, build features, and describe the quality of the data.

The tasks of the DAGs `seal_day`, `repair_gaps`, `backfill_history` and `build_features` call these functions, and so do
`tickwalk seal`, `tickwalk backfill gaps` and `tickwalk quality`; none needs Airflow.
"""
