"""Pages of a home for people: morning, coverage, models and reports."""
