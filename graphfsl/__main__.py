"""`python -m graphfsl`: the command line where no `graphfsl` is on the PATH."""

from graphfsl.cli.main import main

main()
