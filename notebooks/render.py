"""Execute notebooks and write each as one page that needs no network: make notebooks.

The notebooks run one after the other in one kernel, emptied before each, so that libraries load
once. A page has its figures drawn by plotly.js, which stands in it once; progress bars are left
out. It names no address that a browser would fetch (no require.js, MathJax, Mermaid or widgets).
Cells tagged ``real-model`` are left out where that model is not installed.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from plotly import io
from plotly.offline import get_plotlyjs

from culnig_tl.errors import MissingFileError
from culnig_tl.models.pretrained import locate

HERE = Path(__file__).parent
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
SOLUTIONS = sorted(HERE.glob("solutions/*.ipynb"))
FIGURE = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
REAL = "real-model"
"""The tag of cells that run a real pretrained model."""

_SECONDS = 600
_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}
{%- if resources.plotly -%}<script>{{ resources.plotly }}</script>{%- endif -%}
{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
"""
_INDEX = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Notebooks</title>
<style>body{font:16px/1.6 sans-serif;max-width:40em;margin:3em auto;padding:0 1em}</style>
<h1>Notebooks of culnig_tl</h1><ul>{% for path, title in pages %}
<li><a href="{{ path }}">{{ title }}</a>{% endfor %}</ul></html>"""


@contextmanager
def kernel() -> Iterator[KernelManager]:
    """A kernel that works in an empty folder, so that a notebook leaves nothing behind."""
    with tempfile.TemporaryDirectory() as folder:
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(cwd=folder)
        try:
            yield manager
        finally:
            manager.shutdown_kernel(now=True)


def executed(
    path: Path, manager: KernelManager, *, with_real: bool = True, then: str | None = None
) -> Any:
    """The notebook with its outputs; a cell that fails raises.

    Names of notebooks that ran before in the same kernel are gone; what they imported is loaded.

    Args:
        path: the notebook.
        manager: of a kernel.
        with_real: False leaves out the cells that are tagged ``REAL``, which take most of the time.
        then: code that runs after the last cell, where all its names are; it stays as one more cell
            with its outputs, an error among them.
    """
    notebook = nbformat.read(path, as_version=4)
    if not with_real or not _has_real_model():
        notebook.cells = [cell for cell in notebook.cells if REAL not in tags_of(cell)]
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    if then is not None:
        metadata = {"tags": ["raises-exception"]}
        notebook.cells.append(nbformat.v4.new_code_cell(then, metadata=metadata))
    client = NotebookClient(notebook, km=manager, timeout=_SECONDS)
    client.execute()
    client.kc.stop_channels()
    notebook.cells.pop(0)
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    for number, cell in enumerate(code, start=1):  # as in a kernel of its own
        for counted in (cell, *cell.outputs):
            if "execution_count" in counted:
                counted.execution_count = number
    return notebook


def tags_of(cell: Any) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def _has_real_model() -> bool:
    try:
        locate("smollm2", {})
    except MissingFileError:
        return False
    return True


def for_page(notebook: Any) -> Any:
    """An executed notebook without progress bars, its figures as HTML that plotly.js draws.

    Without the state of its widgets either, since for them Sphinx loads scripts off a network.
    """
    shown = nbformat.from_dict(notebook)
    shown.metadata.pop("widgets", None)
    for cell in shown.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _stands_on_a_page(output)]
            for output in cell.outputs:
                if FIGURE in output.get("data", {}):
                    output.data = {"text/html": _drawn(output.data[FIGURE])}
    return shown


def page(notebook: Any, name: str) -> str:
    """The page of an executed notebook."""
    exporter = HTMLExporter(raw_template=_TEMPLATE)
    resources = {"plotly": get_plotlyjs(), "metadata": {"name": name}}
    html, _ = exporter.from_notebook_node(for_page(notebook), resources=resources)
    return html


def _stands_on_a_page(output: Any) -> bool:
    """Whether an output is more than a progress bar; a widget's live part is taken out of it."""
    data = output.get("data", {})
    if data.pop(WIDGET, None) is not None:
        return "text/html" in data
    return output.get("name") != "stderr"


def _drawn(figure: Any) -> str:
    return io.to_html(
        {"data": figure["data"], "layout": figure["layout"]},
        include_plotlyjs=False,
        full_html=False,
        config={"responsive": True, "displaylogo": False},
        validate=False,
    )


def main(out: Path) -> None:
    """Write every page, and one that lists them."""
    pages = []
    with kernel() as manager:
        for path in NOTEBOOKS + SOLUTIONS:
            notebook = executed(path, manager)
            target = out / path.relative_to(HERE).with_suffix(".html")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(page(notebook, path.stem), encoding="utf-8")
            heading = notebook.cells[0].source.partition("\n")[0].lstrip("# ")
            pages.append((target.relative_to(out).as_posix(), heading))
            print(target)
    index = Environment(autoescape=True).from_string(_INDEX).render(pages=pages)
    (out / "index.html").write_text(index, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/notebooks"))
