-- Run once, when Postgres makes its data folder: the database for a lake whose catalog is in Postgres (LAKE_CATALOG).
CREATE DATABASE tickwalk;
