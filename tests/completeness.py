"""How nearly integrated gradients add up on small random models, by site and nodes.

    python tests/completeness.py

prints the table of docs/method.md, section 3.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conftest import LABELS, ROWS, tiny_tokenizer
from families import save

import culnig_tl as ct
from culnig_tl.models import load_model
from culnig_tl.sites import SITES

CASES = {
    "gemma-3": ("mlp.hook_post", "attn.hook_q", "attn.hook_k", "attn.hook_v"),
    "olmo-2": ("mlp.hook_post", "attn.hook_v"),
    "qwen3": ("attn.hook_q", "attn.hook_k"),
    "llama": ("mlp.hook_post",),
}
"""Sites by family; only the last has no norm behind it."""

WAYS: tuple[dict[str, Any], ...] = (
    {"nodes": "midpoint", "steps": 20},
    {"nodes": "midpoint", "steps": 60},
    {"nodes": "geometric", "steps": 20},
    {"nodes": "geometric", "steps": 60},
)


HEAD = (
    f"| family | site | {' | '.join('{nodes}, m = {steps}'.format(**way) for way in WAYS)} |",
    "|---|---|" + "---|" * len(WAYS),
)


def table() -> str:
    """All cases, in Markdown."""
    return "\n".join([*HEAD, *(line for family in CASES for line in lines_of(family))])


def lines_of(family: str) -> Iterator[str]:
    """The lines of a family: completeness in %, on the joint path, summed over six prompts."""
    rows = [{**row, "options": LABELS} for row in ROWS]
    with TemporaryDirectory() as folder:
        save(family, Path(folder), tiny_tokenizer())
        model = load_model(folder, device="cpu")
    for site in CASES[family]:
        cells = [_in_percent(_completeness(model, rows, site, way)) for way in WAYS]
        yield f"| {family} | {SITES[site].plain_name} | {' | '.join(cells)} |"


def _completeness(model: Any, rows: Any, site: str, way: dict[str, Any]) -> float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Integrated gradients do not add up")
        scores = ct.attribute(
            model, rows, sites=[site], method="integrated_gradients", progress=False, **way
        )
    return scores.completeness_by_site[site]


def _in_percent(figure: float) -> str:
    if figure < 1e-4:
        return "< 0.01"
    return f"{100 * figure:.{0 if figure > 0.1 else 2}f}"


if __name__ == "__main__":
    print(table())
