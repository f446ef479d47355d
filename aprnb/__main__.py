"""`python -m aprnb` is the command line."""
from .cli import main

main()
