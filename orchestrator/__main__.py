"""The program as a module, ``python -m orchestrator``: how a job calls the code that was sent along, not the one that
is installed.
"""

from orchestrator.cli.app import main

main()
