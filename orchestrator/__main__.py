"""The program as a module, ``python -m orchestrator``: this is how a job runs the code that was sent along instead of
the installed version.
"""

from orchestrator.cli.app import main

main()
