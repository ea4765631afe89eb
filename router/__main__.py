"""`python -m router` is the `fairlead` command."""

from router.cli import main

main(prog_name="fairlead")
