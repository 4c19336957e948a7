"""Do the DAGs load, run and show?"""
