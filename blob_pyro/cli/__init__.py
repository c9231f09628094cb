"""The command line ``blob-pyro``."""

from blob_pyro.cli.app import app, main

__all__ = ["app", "main"]
