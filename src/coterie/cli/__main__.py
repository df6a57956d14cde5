"""What `python -m coterie.cli` runs: the command of an agent, wherever this Python is."""

from coterie.cli import main

main()
