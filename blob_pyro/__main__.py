"""``python -m blob_pyro`` is the command line."""

from blob_pyro.cli import main

main()
