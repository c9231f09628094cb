"""Sphinx configuration."""

from blob_pyro import __version__

project = "blob_pyro"
author = "the blob_pyro developers"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = "blob_pyro"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
exclude_patterns = ["_build"]
# torch.nn.Module's and Pyro's inherited docstrings are not ours.
autodoc_inherit_docstrings = False
nitpicky = False
