"""Time and memory of the paper's whole table on large models, on paper.

    python tests/benchmarks/scale.py [--model NAME] [--out docs/scale.md]

With ``--model`` it measures tokens per second of answers and of scores on this machine; the table
is arithmetic with the formula that it prints.
"""

import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import attribution
import results
import torch

import culnig_tl as ct
from culnig_tl.logits import last_logits
from culnig_tl.pipeline.work import dealt

N_SETS = 1 + 2 * (1 + 10 + 10)
SPLIT_SETS = 1 + 2 * (1 + 1 + 1)
TOKENS = 7_700_000
"""Tokens of the paper's eight benchmarks, asked once: 330 million over 43 sets."""
SCORE_TOKENS = 5_000_000
"""Tokens that are scored, an upper bound: cultural questions, control and country names."""
N_BENCHMARKS = 8
SLICE = 1_000_000
PEAK, USE = 989e12, 0.35
"""Dense bfloat16 operations per second of an H100 SXM by its data sheet, and the share of them that
is assumed to be reached; measure your own with --model."""
BACKWARD = 3
"""A forward and a backward pass to the activations over a forward pass, at most."""
GPU_BYTES = 80e9


FORMULA = (
    "    seconds = longest hand of pieces, in tokens / tokens per second of a worker",
    "    tokens per second of a worker = operations per second x use / (2 x parameters)",
    "    GPUs of a worker = the power of 2 that holds 2 bytes x parameters in 3/4 of its memory",
    "    score tables = 8 bytes x cultures x layers x (MLP width + 1.5 x model width)",
)


class Size(NamedTuple):
    """A model."""

    name: str
    parameters: float
    layers: int
    width: int
    mlp: int


SIZES = (
    Size("8B", 8.0e9, 32, 4096, 14336),
    Size("12B", 12.2e9, 48, 3840, 15360),
    Size("27B", 27.4e9, 62, 5376, 21504),
    Size("70B", 70.6e9, 80, 8192, 28672),
)


def tokens_per_second(size: Size) -> float:
    """Answers of one worker: two operations per parameter and token. Of several GPUs that hold one
    model, one works at a time."""
    return PEAK * USE / (2 * size.parameters)


def gpus_of_worker(size: Size) -> int:
    """GPUs that hold weights in bfloat16, with a quarter left for what a pass keeps."""
    return 2 ** math.ceil(math.log2(max(1.0, 2 * size.parameters / (0.75 * GPU_BYTES))))


def hours(size: Size, n_gpus: int, n_sets: int) -> float | None:
    """Of the longest hand when the pieces are dealt; None where the model does not fit."""
    each = gpus_of_worker(size)
    if n_gpus < each:
        return None
    slices = math.ceil(TOKENS / N_BENCHMARKS / SLICE)
    answers = [TOKENS // N_BENCHMARKS // slices] * (N_BENCHMARKS * slices * n_sets)
    scores = [BACKWARD * SCORE_TOKENS // 96] * 96
    seconds = 0.0
    for costs in (scores, answers):
        hands = dealt(costs, n_gpus // each)
        seconds += max(sum(costs[n] for n in hand) for hand in hands) / tokens_per_second(size)
    return seconds / 3600


def table() -> list[str]:
    """Hours and memory by model and number of GPUs."""
    lines = [
        "| model | GPUs of a worker | weights, GB | score tables, GB | design | 1 GPU | 8 | 64 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        tables = 8 * 16 * size.layers * (size.mlp + 1.5 * size.width) / 1e9
        for design, n_sets in (("full", N_SETS), ("split", SPLIT_SETS)):
            found = [hours(size, n_gpus, n_sets) for n_gpus in (1, 8, 64)]
            cells = [
                size.name,
                str(gpus_of_worker(size)),
                f"{2 * size.parameters / 1e9:.0f}",
                f"{tables:.2g}",
                design,
                *("does not fit" if each is None else _duration(each) for each in found),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _duration(in_hours: float) -> str:
    return f"{in_hours:.1f} h" if in_hours >= 1 else f"{60 * in_hours:.0f} min"


def measure(name: str) -> list[str]:
    """Tokens per second of answers and scores on this machine."""
    model = ct.load_model(name)
    rows = ct.load_benchmark("cloze" if name == "smollm2" else "atlas", split="test", limit=96)
    batches = ct.prepare(model, rows).batches
    n_tokens = sum(batch.tokens.numel() for batch in batches)

    def rate(run: Callable[[], object]) -> list[float]:
        run()
        found = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            found.append(n_tokens / (time.perf_counter() - start))
        return found

    def answers() -> None:
        with torch.no_grad():
            for batch in batches:
                last_logits(model, batch.tokens, batch.mask)

    def scores() -> None:
        for batch in batches:
            ct.gradient_x_activation(model, batch)

    lines = ["| model | answers, tokens/s | scores, tokens/s |", "|---|---|---|"]
    cells: Sequence[str] = [
        f"{name}, {next(model.parameters()).device.type}, {torch.get_num_threads()} threads",
        attribution.spread(rate(answers), 0),
        attribution.spread(rate(scores), 0),
    ]
    return [*lines, f"| {' | '.join(cells)} |", ""]


def main() -> None:
    """Print the page, and write it where asked."""
    parser = results.parser(__doc__)
    parser.add_argument("--model", help="measure this one here")
    arguments = parser.parse_args()
    section = [
        "# What the whole table costs, on paper",
        "",
        "No GPU was at hand: nothing here was measured but a table that says so. It is arithmetic "
        "from the list of pieces, to be put right with your own tokens per second "
        "(`tests/benchmarks/scale.py --model NAME`); `culnig-tl paper --dry-run` measures and adds "
        "up for your model and machine.",
        "",
        f"`python {shlex.join(['tests/benchmarks/scale.py', *sys.argv[1:]])}`, "
        f"{attribution.processor('cpu')}, torch {torch.__version__}.",
        "",
        *(measure(arguments.model) if arguments.model else []),
        *FORMULA,
        "",
        f"The paper's table is {N_SETS} sets (the model as it is; two factors x general, ten "
        f"random and ten layer-matched sets) x {N_BENCHMARKS} benchmarks = "
        f"{N_SETS * N_BENCHMARKS} answer files, {TOKENS / 1e6:.1f} million tokens a set, in slices "
        f"of at most {SLICE / 1e6:.0f} million; with shared random sets, {SPLIT_SETS} sets. "
        f"Scoring is {SCORE_TOKENS / 1e6:.0f} million tokens, each at most {BACKWARD} times an "
        f"answer's. Operations per second are {PEAK / 1e12:.0f} x 10^12 (an H100 SXM, dense "
        f"bfloat16, by its data sheet), of which {100 * USE:.0f} % are assumed to be reached. "
        'With `device_map="auto"` the GPUs of a worker hold one model and take turns, so they are '
        "no faster than one. Loading a model, cards, doses and the report are not in it.",
        "",
        *table(),
    ]
    results.show("\n".join(section), arguments.out)


if __name__ == "__main__":
    main()
