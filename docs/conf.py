"""Sphinx builds these pages with `make docs`.

What can be read from the package is written to `generated/` first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import docstrings  # noqa: E402
import pages  # noqa: E402

import graphfsl  # noqa: E402

project = "graphfsl"
author = "The graphfsl developers"
copyright = author
version = release = graphfsl.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_ext", "_inventories"]
smartquotes = False  # "--out" stays as it is

myst_enable_extensions = ["colon_fence", "deflist", "linkify"]
myst_linkify_fuzzy_links = False  # only what starts with https:// is an address
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
autosummary_generate = False
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_use_rtype = False
napoleon_custom_sections = ["Source", "Deviations", "Shapes"]

# Inventories are files here, so that a build opens no connection (see _inventories/README.md).
intersphinx_mapping = {
    "torch": ("https://docs.pytorch.org/docs/stable", "_inventories/torch.inv"),
    "torch_geometric": (
        "https://pytorch-geometric.readthedocs.io/en/latest",
        "_inventories/torch_geometric.inv",
    ),
    "sklearn": ("https://scikit-learn.org/stable", "_inventories/sklearn.inv"),
}

html_theme = "pydata_sphinx_theme"
html_title = "graphfsl"
html_static_path = ["_static"]
html_css_files = ["graphfsl.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
}
html_sidebars = {"index": [], "tutorial": []}
html_context = {"default_mode": "auto"}
copybutton_prompt_text = "$ "


def _as_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Plain docstrings become reStructuredText, before napoleon reads their sections."""
    lines[:] = docstrings.to_rst(docstrings.parse("\n".join(lines)))


def _for_the_site(app: Any, docname: str, source: list[str]) -> None:
    """Links to files that are no pages become their names; tables of results scroll."""
    source[0] = pages.for_the_site(source[0], HERE / docname)


def _without_source_maps(app: Any, error: Exception | None) -> None:
    """The theme's source maps, a quarter of the site, serve its authors only."""
    for path in Path(app.outdir).rglob("*.map"):
        path.unlink()


def setup(app: Any) -> None:
    """Write the generated pages, and let docstrings through `_as_rst`."""
    pages.write_all(HERE / "generated")
    app.connect("autodoc-process-docstring", _as_rst, priority=400)
    app.connect("source-read", _for_the_site)
    app.connect("build-finished", _without_source_maps)
