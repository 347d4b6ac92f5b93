"""How far bfloat16 moves scores, and the neurons that are selected by them.

    python tests/benchmarks/bfloat16.py [--real] [--out tests/benchmarks/RESULTS.md]

Each model is run in float32 and in bfloat16 with the same weights, rounded to bfloat16 first, as
the weights of published models are: what differs is arithmetic. The embedded model reads a draw of
its questions, of its control and of its country names for each seed; a random Llama, whose weights
are drawn too, reads random prompts, without a control. With ``--real``, smollm2 reads draws of the
cloze questions as the embedded model does of its own.

    error              norm of the difference of ``S(D)`` over the norm in float32
    rank correlation   Spearman's, of ``S(D)`` over all neurons of a site
    Jaccard            of the two sets of culture-general neurons, at the paper's shares (1 % of MLP
                       and 0.2 % of attention neurons) and at five times those

Figures are medians over seeds with the smallest and largest.
"""

import argparse
import platform
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import results
import torch
from attribution import SHAPES, processor, random_batches, random_model, spread

import culnig_tl as ct
from culnig_tl.attribution import attribute
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general
from culnig_tl.sites import DEFAULT_SITES

METHODS: dict[str, str] = {
    "gradient x activation": "gradient_x_activation",
    "IG": "integrated_gradients",
}
ROLES = ("", "-control", "-countries")
RANDOM = SHAPES["small"] | {"hidden_size": 128, "intermediate_size": 1024, "vocab_size": 1000}
SHARES = {"paper's shares": 1, "5 x": 5}

Scores = list[NeuronScores]
"""Cultural scores, and those of control and country names where there are any."""


class Moved(NamedTuple):
    """How far one set of scores is from another.

    Attributes:
        errors: relative error of ``S(D)`` by site.
        ranks: rank correlation by site.
        jaccard: of the selected sets, by multiple of the paper's shares.
        n_selected: neurons that float32 selects, by multiple.
    """

    errors: dict[str, float]
    ranks: dict[str, float]
    jaccard: dict[str, float]
    n_selected: dict[str, int]


def of_questions(
    name: str, benchmark: str, seed: int, n_prompts: int
) -> tuple[list[Any], list[Any]]:
    """A model in both precisions, and a draw of a benchmark's questions by role."""
    models = [ct.load_model(name, dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16")]
    rows = [
        ct.load_benchmark(f"{benchmark}{role}", split="identify", limit=n_prompts, seed=seed)
        for role in ROLES
    ]
    return models, rows


def random_llama(seed: int, n_prompts: int) -> tuple[list[Any], list[Any]]:
    """A random Llama in both precisions, and random prompts."""
    models = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(seed)
        models.append(random_model(RANDOM, "hooked", "cpu", dtype))
    return models, [random_batches(n_prompts, 16, (20, 40), RANDOM["vocab_size"], "cpu")]


MODELS = {
    "the embedded model": partial(of_questions, "atlas", "atlas"),
    "a random Llama": random_llama,
}
REAL = {"smollm2": partial(of_questions, "smollm2", "cloze")}


def moved(exact: Scores, rounded: Scores) -> Moved:
    """How far ``rounded`` is from ``exact``."""
    pairs = {site: (exact[0].total(site), rounded[0].total(site)) for site in exact[0].sites}
    jaccard, n_selected = {}, {}
    for name, times in SHARES.items():
        shares = {"mlp_top": 0.01 * times, "attention_top": 0.002 * times}
        first, second = (culture_general(*scores, **shares) for scores in (exact, rounded))
        jaccard[name], n_selected[name] = first.jaccard(second), len(first)
    return Moved(
        errors={site: float((b - a).norm() / a.norm()) for site, (a, b) in pairs.items()},
        ranks={site: rank_correlation(a, b) for site, (a, b) in pairs.items()},
        jaccard=jaccard,
        n_selected=n_selected,
    )


def rank_correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Spearman's, without ties."""
    ranks = [values.flatten().argsort().argsort().double() for values in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def measured(make: Any, method: str, arguments: argparse.Namespace) -> list[Moved]:
    """One measurement a seed."""
    found = []
    for seed in range(arguments.seeds):
        models, data = make(seed, arguments.prompts)
        for weight in models[0].parameters():
            weight.copy_(weight.bfloat16())
        exact, rounded = (
            [
                attribute(
                    model,
                    rows,
                    method=method,
                    steps=arguments.steps,
                    clamp=number == 1,
                    progress=False,
                )
                for number, rows in enumerate(data)
            ]
            for model in models
        )
        found.append(moved(exact, rounded))
    return found


def report(arguments: argparse.Namespace) -> str:
    """Both tables, and how they came about."""
    torch.set_num_threads(1)
    runs = {
        (name, said): measured(make, method, arguments)
        for name, make in (MODELS | (REAL if arguments.real else {})).items()
        for said, method in METHODS.items()
    }
    by_site = [
        _row(
            *labels,
            site,
            spread([each.errors[site] for each in found], 3),
            spread([each.ranks[site] for each in found], 4),
        )
        for labels, found in runs.items()
        for site in DEFAULT_SITES
    ]
    by_share = [
        _row(
            *labels,
            name,
            spread([each.n_selected[name] for each in found], 0),
            spread([each.jaccard[name] for each in found]),
        )
        for labels, found in runs.items()
        for name in SHARES
    ]
    return "\n".join(
        [
            "# What bfloat16 changes",
            "",
            f"- command: `python {shlex.join(sys.argv)}`",
            f"- processor: {processor('cpu')}; Python {platform.python_version()}, "
            f"torch {torch.__version__}",
            "- the same weights, rounded to bfloat16, in float32 and in bfloat16 arithmetic; the "
            "embedded model (and smollm2) on draws of questions, less control and country names; "
            f"a random Llama, {RANDOM}, on random prompts of 20 to 40 tokens",
            f"- {arguments.prompts} prompts of each kind, IG: {arguments.steps} steps on the joint "
            f"path; medians over {arguments.seeds} seeds (smallest..largest)",
            "",
            *_table("model", "method", "site", "error of S(D)", "rank correlation", rows=by_site),
            "",
            *_table("model", "method", "selected", "neurons", "Jaccard", rows=by_share),
            "",
        ]
    )


def _table(*headings: str, rows: Sequence[str]) -> list[str]:
    return [_row(*headings), _row(*["---"] * len(headings)), *rows]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = results.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--real", action="store_true", help="the real model too")
    arguments = parser.parse_args()
    results.show(report(arguments), arguments.out)


if __name__ == "__main__":
    main()
