"""Seconds from a click or a move of the slider to what the explorer shows.

    python tests/benchmarks/explorer.py [--model smollm2] [--out tests/benchmarks/RESULTS.md]

What a notebook runs between a click and the new picture, without the browser: the first look at a
neuron of the first, the middle and the last layer, the answers at another factor with one neuron
and with a whole set scaled, and the rest of a card, which fills in behind. Wall-clock time on every
core, median of the repeats with the shortest and the longest.
"""

import time
from collections.abc import Callable

import attribution
import results

import culnig_tl as ct

ROWS = {"smollm2": "cloze", "atlas": "atlas"}
GOALS = {"click": 1.0, "slider": 0.3}
N_QUESTIONS = 64


def times(do: Callable[[], object], repeats: int) -> list[float]:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        do()
        taken.append(time.perf_counter() - start)
    return sorted(taken)


def measured(model_name: str, repeats: int) -> dict[str, list[float]]:
    """Sorted seconds by what is done."""
    model = ct.load_model(model_name)
    rows = ct.load_benchmark(ROWS[model_name], split="identify", limit=N_QUESTIONS)
    scores = ct.attribute(model, rows, progress=False)
    general = ct.culture_general(scores)
    found: dict[str, list[float]] = {}
    start = time.perf_counter()
    explorer = ct.explore(model, rows, scores=scores, sets={"general": general})
    found["it opens"] = [time.perf_counter() - start]
    n_layers = model.cfg.n_layers
    for layer in (0, n_layers // 2, n_layers - 1):

        def click(layer: int = layer) -> None:
            explorer.point_at(f"L{layer}.mlp.hook_post.7")
            explorer.first_look().fragment()

        found[f"click, layer {layer}"] = times(click, repeats)
    for target in (explorer.targets[0], explorer.targets[-1]):
        explorer.target = target

        def slide() -> None:
            explorer.factor = 1.5 if explorer.factor < 1 else 0.5
            explorer.answers_html()

        found[f"slider, {target} ({len(explorer.scaled())})"] = times(slide, repeats)
    found["the rest of the first card"] = times(lambda: list(explorer.card_steps()), 1)
    explorer.point_at("L1.mlp.hook_post.9")
    found["the rest of the next card"] = times(lambda: list(explorer.card_steps()), 1)
    return found


def section(model_name: str, repeats: int) -> str:
    lines = [
        f"# The explorer on {model_name}",
        "",
        f"`python tests/benchmarks/explorer.py --model {model_name}`, {attribution.machine()}.",
        f"{repeats} repeats, {N_QUESTIONS} questions. Median, and shortest to longest.",
        "",
        "| what | seconds | goal |",
        "|---|---|---|",
    ]
    for name, taken in measured(model_name, repeats).items():
        goal = GOALS.get(name.partition(",")[0])
        median = taken[len(taken) // 2]
        met = "" if goal is None else f"{goal:g}: {'yes' if median <= goal else 'no'}"
        lines.append(f"| {name} | {median:.2f} ({taken[0]:.2f}..{taken[-1]:.2f}) | {met} |")
    return "\n".join(lines)


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--model", choices=ROWS, default="smollm2")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    results.show(section(arguments.model, arguments.repeats), arguments.out)


if __name__ == "__main__":
    main()
