"""`python -m serving.cli`: the command line without its entry point."""

from serving.cli import main

main()
