"""`python -m lazarus`: the command line."""

from lazarus.cli import main

main()
