"""``python -m clipperfs.cli``: the command line where the console script is not on the path."""

from clipperfs.cli import main

main()
