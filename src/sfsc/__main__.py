"""python -m sfsc."""

from sfsc.cli import main

main()
