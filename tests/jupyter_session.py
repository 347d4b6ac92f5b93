"""A JupyterLab of its own, and its notebooks in a real browser that reaches nothing else."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from browser import chromium

_START_SECONDS = 300
_ACTION_MILLISECONDS = 300_000


@dataclass(frozen=True)
class JupyterLab:
    """A running server.

    Attributes:
        folder: where its notebooks are.
        url: its address, on this machine.
        token: what lets a browser in.
    """

    folder: Path
    url: str
    token: str

    def write(self, name: str, cells: list[str]) -> str:
        """A notebook of code cells in the server's folder."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        # without it JupyterLab asks which kernel to take, and waits
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, self.folder / name)
        return name

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """A notebook in a browser, all of its cells run; requests to elsewhere fail the test."""
        blocked = []

        def answer(route: Any) -> None:
            if route.request.url.startswith((self.url, "data:", "blob:")):
                route.continue_()
            else:
                blocked.append(route.request.url)
                route.abort()

        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1200, "height": 1400})
            page.set_default_timeout(_ACTION_MILLISECONDS)
            page.route("**/*", answer)
            page.goto(f"{self.url}lab/tree/{name}?token={self.token}&reset")
            page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext")
            page.evaluate(
                """async () => {
                    const app = window.jupyterapp;
                    await app.restored;
                    await app.shell.currentWidget.context.ready;
                    await app.shell.currentWidget.sessionContext.ready;
                    await app.commands.execute("notebook:run-all-cells");
                }"""
            )
            yield page
        assert blocked == []


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[JupyterLab]:
    """A server whose settings, kernels and files lie in ``folder``; ended in the end."""
    notebooks, runtime = folder / "notebooks", folder / "runtime"
    notebooks.mkdir()
    kinds = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    environment = os.environ | {f"JUPYTER_{kind}": str(folder / kind) for kind in kinds}
    environment |= {"JUPYTER_RUNTIME_DIR": str(runtime), "IPYTHONDIR": str(folder / "ipython")}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.port=0",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={notebooks}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            info = _server_info(server, runtime, folder / "log")
            yield JupyterLab(notebooks, info["url"], info["token"])
        finally:
            server.terminate()
            server.wait(timeout=30)


def _server_info(server: "subprocess.Popen[bytes]", runtime: Path, log: Path) -> dict[str, Any]:
    """What the server writes into its runtime folder once it listens."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            if (written := path.read_text()).rstrip().endswith("}"):  # all of it
                return json.loads(written)
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()}")
