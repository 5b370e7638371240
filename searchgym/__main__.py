"""`python -m searchgym …` is `searchgym …`; launchers of several processes need it."""

from .cli import main

main()
