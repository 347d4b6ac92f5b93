"""Draw the figure of README.md from the demo's run: make quickstart, then make figure."""

import shutil
import tempfile
from pathlib import Path

import pandas as pd
from playwright.sync_api import sync_playwright

import culnig_tl as ct

RUN = Path("runs/demo")
OUT = Path(__file__).parent / "quickstart.png"


def main() -> None:
    figure = ct.figures.comparison_bars(pd.read_csv(RUN / "table.csv"))
    figure.update_layout(width=860, height=380, paper_bgcolor="white", plot_bgcolor="white")
    page_file = Path(tempfile.mkdtemp()) / "figure.html"
    figure.write_html(page_file, include_plotlyjs=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 880, "height": 400}, device_scale_factor=2)
        page.goto(page_file.as_uri())
        page.wait_for_selector(".main-svg")
        page.locator(".plotly-graph-div").screenshot(path=OUT)
        browser.close()


if __name__ == "__main__":
    main()
