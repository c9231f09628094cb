"""ArviZ objects and functions."""
