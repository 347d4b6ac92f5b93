"""How Sphinx builds the pages of docs/ as a site that reads offline: make docs."""

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

project = "culnig_tl"
author = "The culnig_tl founders"
release = metadata.version("culnig-tl")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = "culnig_tl"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
exclude_patterns = ["_build"]

nb_execution_mode = "off"  # docs/build.py has executed the lessons
nb_render_text_lexer = "none"
myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_missing",  # a lesson points to places in other notebooks
    "misc.highlighting_failure",  # "python no-run"
]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "none"  # the docstrings say it in words
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_use_ivar = True

_NOTEBOOK = re.compile(r"\]\(\.\./notebooks/(?=\d)")


def _to_the_executed_lessons(_app: Any, _name: str, source: list[str]) -> None:
    """On the site a lesson is a page; in the repository it is a notebook."""
    source[0] = _NOTEBOOK.sub("](lessons/", source[0])


def setup(app: Any) -> None:
    app.connect("source-read", _to_the_executed_lessons)
    app.add_lexer("mermaid", TextLexer)
    assert Path(app.srcdir, "lessons").is_dir(), "docs/build.py writes the lessons first"
