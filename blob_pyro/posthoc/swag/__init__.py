"""SWAG: moments of a path of steps."""
