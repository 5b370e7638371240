"""`python -m searchgym …` is `searchgym …`; launchers of several processes need it."""

from .commands import main

main()
