"""Run the command line as ``python -m seedtalk``."""

from seedtalk.cli import main

main(prog_name="seedtalk")
