"""Sphinx configuration."""

from blob_pyro import __version__

project = "blob_pyro"
author = "the blob_pyro developers"
version = release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "blob_pyro"

# Notebooks are stored with their outputs; a test executes them.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Members in the order of a room's __all__, which groups them.
autodoc_member_order = "bysource"
autodoc_typehints = "none"
# torch.nn.Module's and Pyro's inherited docstrings are not ours.
autodoc_inherit_docstrings = False
napoleon_google_docstring = False
# Types are prose ("Class indices, ``B``, int64"), not names to link.
napoleon_use_param = False
napoleon_use_rtype = False
nitpicky = True
# Other libraries' names are not looked up, so that the pages build offline.
nitpick_ignore_regex = [("py:.*", r"(collections|datasets|pyro|torch|torchmetrics)\..*")]
