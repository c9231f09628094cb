"""Sphinx configuration."""

from typing import Any

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.util import logging

from blob_pyro import __version__

project = "blob_pyro"
author = copyright = "the blob_pyro developers"
version = release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
# Tables are parts of pages: what the commands beside them wrote, unchanged.
exclude_patterns = ["_build", "tables"]

html_theme = "furo"
html_title = "blob_pyro"
html_static_path = ["_static"]
html_css_files = ["blob_pyro.css"]
html_math_renderer = "mathml"

# Notebooks are stored with their outputs; a test executes them.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# That of MathJax, which is not used.
myst_update_mathjax = False

# Members in the order of a room's __all__, which groups them.
autodoc_member_order = "bysource"
autodoc_typehints = "none"
# torch.nn.Module's and Pyro's inherited docstrings are not ours.
autodoc_inherit_docstrings = False
napoleon_google_docstring = False
# Types are prose ("Class indices, ``B``, int64"), not names to link.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
nitpicky = True
# Other libraries' names are not looked up, so that the pages build offline.
nitpick_ignore_regex = [("py:.*", r"(collections|datasets|pyro|torch|torchmetrics)\..*")]


LOG = "<mi>log</mi>"


def add_mathml(translator: Any, node: Any, display: str, tag: str) -> None:
    """Write a formula as MathML, which browsers show by themselves: no script, no network."""
    latex = node.astext()
    # Without a space of its own, MathML sets "log p" as one word.
    formula = convert(latex, display=display).replace(LOG, f'{LOG}<mspace width="0.17em"/>')
    if "\\" in formula:
        logging.getLogger(__name__).warning("no MathML for %s", latex, location=node)
    translator.body.append(f'<{tag} class="math">{formula}</{tag}>')
    # Its LaTeX is not shown as well.
    raise SkipNode


def visit_inline(translator: Any, node: Any) -> None:
    """Write a formula within a line."""
    add_mathml(translator, node, "inline", "span")


def visit_block(translator: Any, node: Any) -> None:
    """Write a formula on its own."""
    add_mathml(translator, node, "block", "div")


def setup(app: Any) -> None:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
