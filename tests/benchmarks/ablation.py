"""Cost of ablating single neurons: many in one pass against one after the other.

    python tests/benchmarks/ablation.py [--out tests/benchmarks/RESULTS.md]

One after the other is the pass of ``evaluate``, over all layers and rows, with one neuron switched
off; together is ``ablation_drops`` of several neurons, the pass of the rows as they are included.
The embedded model answers rows of its own; a random Llama of 8 layers reads the same rows, and the
same texts several times over.

The bound is what is left to compute, in matrix work: a neuron at ``mlp.hook_post`` of layer ``l``
leaves a third of that layer's MLP, the layers above, and of the last one its attention; nothing
can be left out of the layers between, in which every position changes.

One thread; CPU seconds per neuron; the two take turns, each a process of its own, and a ratio is
that of two neighbours. Medians with the smallest and largest.
"""

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import attribution
import results
import torch

import culnig_tl as ct
from culnig_tl.evaluation import ablation_drops, answers
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions

SITE = "mlp.hook_post"


class Case(NamedTuple):
    """Rows of a model.

    Attributes:
        name: what a reader calls it.
        prepared: the rows.
        goals: times faster, by layer; None stands for all layers.
    """

    name: str
    prepared: PreparedQuestions
    goals: dict[int | None, float]


def cases(*, tiny: bool) -> list[Case]:
    """The embedded model, and a random one with few short and more long prompts."""
    embedded = ct.load_model(device="cpu")
    rows = ct.load_benchmark("atlas", split="identify", limit=8 if tiny else 64).to_list()
    llama = attribution.random_model(
        attribution.SHAPES["tiny" if tiny else "small"]
        | ({"vocab_size": embedded.cfg.d_vocab} if tiny else {}),
        "hooked",
        "cpu",
        torch.float32,
    )
    llama.tokenizer = embedded.tokenizer
    repeated = [row | {"prompt": " ".join([row["prompt"]] * (1 if tiny else 4))} for row in rows]
    last, name = llama.cfg.n_layers - 1, f"{llama.cfg.n_layers} layers"
    goals: dict[int | None, float] = {0: 8, last // 2 + 1: 8, last - 1: 8, last: 8, None: 8}
    return [
        Case("embedded", ct.prepare(embedded, rows), {0: 4, 2: 4, 3: 4, None: 4}),
        Case(name, ct.prepare(llama, rows[:4]), goals),
        Case(name, ct.prepare(llama, repeated[:16]), goals),
    ]


def neurons_of(model: Any, layer: int | None, n: int) -> NeuronSet:
    """As many of one layer, or spread over all."""
    n_layers = model.cfg.n_layers
    layers = [index % n_layers if layer is None else layer for index in range(n)]
    return NeuronSet.of({SITE: list(zip(layers, range(n), strict=True))})


def bound(case: Case, layer: int | None) -> float:
    """The whole matrix work of the layers over what a neuron leaves of it."""
    config = case.prepared.model.cfg
    width, heads = config.d_model, config.n_heads * config.d_head
    read = (config.n_key_value_heads or config.n_heads) * config.d_head
    attention, mlp = 2 * width * (heads + read), 3 * width * config.d_mlp
    last = config.n_layers - 1

    def left(layer: int) -> float:
        if layer == last:
            return 0
        return mlp / 3 + (last - 1 - layer) * (attention + mlp) + attention

    layers = range(config.n_layers) if layer is None else [layer]
    mean = sum(map(left, layers)) / len(layers)
    return config.n_layers * (attention + mlp) / mean if mean else float("inf")


def lines(case: Case, n: int, repeats: int) -> list[str]:
    """One line per layer."""
    prepared, model = case.prepared, case.prepared.model
    table = []
    for layer, goal in case.goals.items():
        neurons = neurons_of(model, layer, n)
        runs = [
            partial(answers, prepared, NeuronSet.of(next(iter(neurons)))),
            partial(ablation_drops, prepared, neurons),
        ]
        one, together = (
            [cost.seconds for cost in costs]
            for costs in attribution.alternate(model, runs, repeats)
        )
        together = [seconds / n for seconds in together]
        table.append(_line(case, layer, one, together, goal))
        print(table[-1], file=sys.stderr, flush=True)
    return table


def _line(
    case: Case, layer: int | None, one: Sequence[float], together: Sequence[float], goal: float
) -> str:
    ratios = [a / b for a, b in zip(one, together, strict=True)]
    met = sorted(ratios)[len(ratios) // 2] >= goal
    longest = case.prepared.batches[0].tokens.shape[1]
    cells = [
        f"{case.name}, {len(case.prepared)} prompts of up to {longest} tokens",
        "all" if layer is None else str(layer),
        attribution.spread(one, 4),
        attribution.spread(together, 4),
        attribution.spread(ratios, 1),
        f"{bound(case, layer):.1f}",
        f"{goal:g}",
        "yes" if met else "**no**",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, and write it where asked."""
    parser = results.parser(__doc__)
    parser.add_argument("--neurons", type=int, default=16, help="in one call")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="models that show only that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    section = [
        "# Ablation of single neurons",
        "",
        f"`python {shlex.join(['tests/benchmarks/ablation.py', *sys.argv[1:]])}`, "
        f"{attribution.processor('cpu')}, torch {torch.__version__}.",
        f"CPU seconds per neuron at {SITE}, {arguments.neurons} in one call; the bound is that of "
        "the matrix work that is left.",
        "",
        "| model and rows | layer | one after the other | together | times faster | bound | goal "
        "| met |",
        "|---|---|---|---|---|---|---|---|",
        *(
            line
            for case in cases(tiny=arguments.tiny)
            for line in lines(case, arguments.neurons, arguments.repeats)
        ),
    ]
    results.show("\n".join(section), arguments.out)


if __name__ == "__main__":
    main()
