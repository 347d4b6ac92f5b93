"""Draw the figures of README.md and docs/: make quickstart, make real, make league and make
finetuning, then make figure."""

import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from playwright.sync_api import sync_playwright

import culnig_tl as ct
from culnig_tl.evaluation import selectivity_of_sets
from culnig_tl.finetuning import FineTuningStudy

DEMO = Path("runs/demo")
LEAGUE = Path("build/league/real.csv")
TRAINED = Path("build/finetuning")
STUDY = Path("build/real/split-0/answers")
CONDITIONS = ("original", "published", "selective", "layer-matched", "random")
OUT = Path(__file__).parent
sys.path.append(str(OUT.parent / "tests" / "benchmarks"))

import finetuning  # noqa: E402


def main() -> None:
    table = pd.read_csv(DEMO / "table.csv")
    draw(ct.figures.comparison_bars(table), OUT / "quickstart.png", width=860, height=380)
    paths = [path for name in CONDITIONS for path in sorted(STUDY.glob(f"{name}-*.parquet"))]
    answers = pd.concat(map(pd.read_parquet, paths), ignore_index=True)
    figure = ct.figures.selectivity(ct.selectivity(answers), sets=selectivity_of_sets(answers))
    draw(figure, OUT / "real-model.png", width=860, height=460)
    frame = pd.read_csv(LEAGUE)
    draw(ct.figures.league(frame), OUT / "league.png", width=860, height=520)
    studies = [finetuning.embedded(TRAINED, seed) for seed in finetuning.SEEDS]
    study = FineTuningStudy.joined(studies)
    draw(study.figure(), OUT / "finetuning.png", width=860, height=720)


def draw(figure: go.Figure, out: Path, *, width: int, height: int) -> None:
    """A figure as a picture, by a browser without a network."""
    figure.update_layout(width=width, height=height, paper_bgcolor="white", plot_bgcolor="white")
    page_file = Path(tempfile.mkdtemp()) / "figure.html"
    figure.write_html(page_file, include_plotlyjs=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(
            viewport={"width": width + 20, "height": height + 20}, device_scale_factor=2
        )
        page.goto(page_file.as_uri())
        page.wait_for_selector(".main-svg")
        page.locator(".plotly-graph-div").screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main()
