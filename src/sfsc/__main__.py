"""python -m sfsc."""

import os
import sys

# Python searches the working folder first. A file there must not be imported instead of a package.
if not sys.flags.safe_path and os.path.realpath(sys.path[0]) == os.path.realpath(os.curdir):
    del sys.path[0]

from sfsc.cli import main

main()
