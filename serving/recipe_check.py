"""Check at each start of Airflow which recipe a night without one uses: `python -m serving.recipe_check`."""

from __future__ import annotations

from serving.nightly import note_recipe
from storage.settings import load_settings

if __name__ == "__main__":
    note_recipe(load_settings())
