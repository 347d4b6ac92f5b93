"""Cost of attribution against the passes that it cannot do without.

    python tests/benchmarks/attribution.py [--out tests/benchmarks/RESULTS.md]
    python tests/benchmarks/attribution.py --device cuda --dtype bfloat16 --shape llama-3.1-8b \\
        [--backend bridge] [--out tests/benchmarks/RESULTS.md]

A random Llama reads random prompts of 100 to 140 tokens in batches of 16. The floor is one forward
pass, of which the last position is unembedded, and one backward pass to the embeddings, with frozen
parameters and no scoring. Measurements alternate (floor, attribution, floor, ...), and a ratio is
that of two neighbours, so that other work on the machine changes both alike.

On a CPU each measurement is a process of its own, forked after loading, of one thread: CPU seconds,
and peak memory above the model, which Linux tells. On a GPU: seconds, and torch's own peak.
Matrix work is what torch counts in the products of a run, padding included; its share of the matrix
rate is its time at the speed of plain products of two square matrices of the same type on the same
device, measured in turn with the run, over the time of the run. Figures are medians with the
smallest and largest.
"""

import argparse
import gc
import multiprocessing
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import results
import torch
from memory_of_mlp_weights import fresh_peak, peak_above
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import LlamaConfig, LlamaForCausalLM

from culnig_tl.attribution import attribute, integrated_gradients
from culnig_tl.hooks import scaled_neurons
from culnig_tl.logits import last_logits
from culnig_tl.models import bridge, conversion
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch
from culnig_tl.sites import DEFAULT_SITES, site_shape

Run = Callable[[], object]

SITE = "mlp.hook_post"
STEPS = 5
SHAPES: dict[str, dict[str, int]] = {
    "small": {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
    },
}
SIDES = {"small": 1024, "llama-3.1-8b": 8192, "tiny": 64}
"""Of the square matrices whose products show the matrix rate."""
N_PRODUCTS = 10
FOR_SCALING = SHAPES["small"] | {"hidden_size": 128, "vocab_size": 1000}


class Cost(NamedTuple):
    """What one run took.

    Attributes:
        seconds: of one CPU thread, or of the GPU.
        peak: memory above the model in MB.
    """

    seconds: float
    peak: float


def random_model(shape: dict[str, int], backend: str, device: str, dtype: torch.dtype) -> Any:
    """A random, frozen Llama."""
    config = LlamaConfig(**shape, rms_norm_eps=1e-5)  # pyright: ignore[reportArgumentType]
    with torch.device(device):
        llama: Any = LlamaForCausalLM(config)
    llama.to(dtype).eval().requires_grad_(False)
    if backend == "bridge":
        model: Any = bridge.build(llama, "a random Llama", dtype)
    else:
        model = conversion.convert(llama, device=device, dtype=dtype)
    model.cfg.model_name = "a random Llama"
    model.eval().requires_grad_(False)
    site_shape(model, SITE)  # found once a model, by a short pass that no run should take
    return model


def random_batches(
    n_prompts: int,
    size: int,
    lengths: tuple[int, int],
    vocabulary: int,
    device: str,
    n_cultures: int = 4,
) -> list[Batch]:
    """Left-padded batches, longest prompts first."""
    drawn = torch.randint(lengths[0], lengths[1] + 1, (n_prompts,)).sort(descending=True).values
    found = []
    for part in torch.arange(n_prompts).split(size):
        longest = int(drawn[part].max())
        mask = torch.arange(longest) >= longest - drawn[part][:, None]
        found.append(
            Batch(
                tokens=torch.randint(vocabulary, mask.shape).to(device),
                mask=mask.to(device),
                answers=torch.randint(vocabulary, (len(part),)).to(device),
                cultures=tuple(f"culture {int(line) % n_cultures}" for line in part),
                ids=tuple(str(int(line)) for line in part),
            )
        )
    return found


def floor(model: Any, batches: Sequence[Batch]) -> None:
    """Forward and backward to the embeddings."""
    for batch in batches:
        leaves: list[torch.Tensor] = []

        def begin(residual: torch.Tensor, hook: object, leaves: Any = leaves) -> torch.Tensor:
            leaves.append(residual.detach().requires_grad_())
            return leaves[-1]

        with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", begin)]):
            logits = last_logits(model, batch.tokens, batch.mask)
            torch.autograd.grad(logits.gather(1, batch.answers[:, None]).sum(), leaves)


def forward(model: Any, batches: Sequence[Batch], neurons: NeuronSet | None = None) -> None:
    """Forward only, with ``neurons`` switched off if there are any."""
    for batch in batches:
        with torch.no_grad():
            if neurons is None:
                last_logits(model, batch.tokens, batch.mask)
            else:
                with scaled_neurons(model, neurons):
                    last_logits(model, batch.tokens, batch.mask)


def products(model: Any, side: int) -> None:
    """Plain matrix products of the model's type, on its device."""
    one, other = (
        torch.ones(side, side, dtype=model.cfg.dtype, device=model.cfg.device) for _ in range(2)
    )
    for _ in range(N_PRODUCTS):
        torch.matmul(one, other)


class MatrixWork(TorchDispatchMode):
    """Counts floating-point operations of matrix products, by torch's own formulas.

    Torch's FlopCounterMode also tells modules apart, which ``torch.autograd.grad`` does not allow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            count = flop_registry[func.overloadpacket]
            self.operations += count(*args, **(kwargs or {}), out_val=result)
        return result


def matrix_work(run: Run) -> int:
    """Floating-point operations of a run's matrix products, padding included."""
    with MatrixWork() as work:
        run()
    return work.operations


def measure(model: Any, run: Run) -> Cost:
    """Cost of one run."""
    if str(model.cfg.device).startswith("cuda"):
        return _on_gpu(run)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(model, run, there))
    process.start()
    there.close()
    cost = here.recv()
    process.join()
    return cost


def _on_gpu(run: Run) -> Cost:
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    held, start = torch.cuda.memory_allocated(), _gpu_clock()
    run()
    seconds = _gpu_clock() - start
    return Cost(seconds, (torch.cuda.max_memory_allocated() - held) / 2**20)


def _gpu_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _in_process(model: Any, run: Run, connection: Any) -> None:
    for weight in model.parameters():
        weight.sum()  # every page of the weights is in this process before counting starts
    held, start = fresh_peak(), time.process_time()
    run()
    seconds = time.process_time() - start
    connection.send(Cost(seconds, peak_above(held)))


def alternate(model: Any, runs: Sequence[Run], repeats: int) -> list[list[Cost]]:
    """Costs of each run; the runs take turns, on a GPU after one that is not counted."""
    if str(model.cfg.device).startswith("cuda"):
        for run in runs:
            run()
    turns = [[measure(model, run) for run in runs] for _ in range(repeats)]
    return [list(costs) for costs in zip(*turns, strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median with smallest and largest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def goals(model: Any, batches: Sequence[Batch], side: int, repeats: int) -> list[str]:
    """The table of ratios, and what floor and attribution cost in themselves."""
    runs: dict[str, Run] = {
        "floor": partial(floor, model, batches),
        "attribution at four sites": partial(attribute, model, batches, progress=False),
    }
    plain = partial(products, model, side)
    low, scored, multiplied = alternate(model, [*runs.values(), plain], repeats)
    n_layers = model.cfg.n_layers
    some = [(layer, neuron) for layer in range(n_layers) for neuron in range(8)]
    neurons = NeuronSet.of(dict.fromkeys(DEFAULT_SITES, some))
    bare, scaled = alternate(
        model,
        [partial(forward, model, batches[:1]), partial(forward, model, batches[:1], neurons)],
        repeats,
    )
    few = batches[0].select([0, 1])
    tiled = [few.select([0, 1] * STEPS)]
    integrate = partial(integrated_gradients, model, few, sites=[SITE], steps=STEPS)
    once, joint, full, layered = alternate(
        model,
        [
            partial(attribute, model, tiled, sites=[SITE], progress=False),
            partial(integrate, path="joint"),
            partial(floor, model, tiled),
            partial(integrate, path="layer"),
        ],
        repeats,
    )
    table = [
        ("attribution at four sites / floor, seconds", _seconds(scored, low), 1.10),
        ("attribution at four sites / floor, peak memory", _peaks(scored, low), 1.30),
        (f"integrated gradients, joint / {STEPS} attributions", _seconds(joint, once), 1.05),
        (
            f"integrated gradients, by layer / {n_layers} x {STEPS} full passes",
            [ratio / n_layers for ratio in _seconds(layered, full)],
            0.60,
        ),
        ("forward in scaled_neurons / bare forward", _seconds(scaled, bare), 1.03),
    ]
    return [
        "| ratio | goal | measured | met |",
        "|---|---|---|---|",
        *(_goal_row(name, values, goal) for name, values, goal in table),
        "",
        *_absolute(
            sum(int(batch.mask.sum()) for batch in batches),
            {name: matrix_work(run) for name, run in runs.items()},
            [low, scored],
            [matrix_work(plain) / cost.seconds for cost in multiplied],
        ),
        "",
        f"Matrix rate: that of products of two {side} x {side} matrices.",
    ]


def scaling(device: str, dtype: torch.dtype, backend: str, repeats: int) -> list[str]:
    """Seconds of attribution as one thing grows at a time, the others at their first value."""
    lines = ["| what grows | seconds | at 2 x | at 4 x |", "|---|---|---|---|"]
    firsts = {"questions": 32, "num_hidden_layers": 4, "intermediate_size": 1024, "cultures": 4}
    for name, first in firsts.items():
        cells = []
        for times in (1, 2, 4):
            sizes = FOR_SCALING | firsts | {name: times * first}
            n_prompts, n_cultures = sizes.pop("questions"), sizes.pop("cultures")
            model = random_model(sizes, backend, device, dtype)
            batches = random_batches(
                n_prompts, 16, (60, 80), sizes["vocab_size"], device, n_cultures
            )
            score = partial(attribute, model, batches, progress=False)
            (costs,) = alternate(model, [score], repeats)
            cells.append(f"{times * first}: {spread([cost.seconds for cost in costs])}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def report(arguments: argparse.Namespace) -> str:
    """All tables, and what they were measured on."""
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    dtype, device = getattr(torch, arguments.dtype), arguments.device
    shape = SHAPES[arguments.shape]
    tiny = arguments.shape == "tiny"
    model = random_model(shape, arguments.backend, device, dtype)
    lengths = (10, 14) if tiny else (100, 140)
    n_prompts, size = (8, 4) if tiny else (64, 16)
    batches = random_batches(n_prompts, size, lengths, shape["vocab_size"], device)
    lines = goals(model, batches, SIDES[arguments.shape], arguments.repeats)
    if not tiny:
        lines += [
            "",
            "Seconds of attribution at four sites of a small model, as one thing grows:",
            "",
        ]
        lines += scaling(device, dtype, arguments.backend, arguments.repeats)
    return "\n".join(
        [
            title(arguments),
            "",
            f"- command: `python {shlex.join(sys.argv)}`",
            f"- processor: {processor(device)}; Python {platform.python_version()}, "
            f"torch {torch.__version__}; seed {arguments.seed}",
            f"- model: random Llama, {shape}, {arguments.dtype}, {arguments.backend}",
            f"- prompts: {n_prompts} of {lengths[0]} to {lengths[1]} tokens, batch {size}; "
            f"integrated gradients: {STEPS} steps at {SITE} on 2 of them, against passes that take "
            f"those 2 {STEPS} times over",
            f"- medians of {arguments.repeats} (smallest..largest)",
            "",
            *lines,
            "",
        ]
    )


def title(arguments: argparse.Namespace) -> str:
    """A section for the CPU, and one a backend for GPUs."""
    gpu = arguments.device.startswith("cuda")
    return f"# Cost of attribution{f' on a GPU, {arguments.backend}' if gpu else ''}"


def machine() -> str:
    """Cores and processor."""
    return f"{os.cpu_count()} cores of {processor('cpu').removesuffix(', one thread')}"


def processor(device: str) -> str:
    """Name of the processor or GPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, one thread" if names else f"{platform.machine()}, one thread"


def _goal_row(name: str, values: Sequence[float], goal: float) -> str:
    met = "yes" if statistics.median(values) <= goal else "**no**"
    return f"| {name} | {goal:.2f} | {spread(values)} | {met} |"


def _absolute(
    n_tokens: int,
    work: Mapping[str, int],
    measured: Sequence[Sequence[Cost]],
    rates: Sequence[float],
) -> list[str]:
    lines = [
        f"| {n_tokens} tokens | seconds | tokens a second | peak above the model, MB | "
        "matrix work, TFLOP | TFLOP a second | share of the matrix rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, operations), costs in zip(work.items(), measured, strict=True):
        speeds = [operations / cost.seconds for cost in costs]
        cells = [
            spread([cost.seconds for cost in costs]),
            spread([n_tokens / cost.seconds for cost in costs], 0),
            spread([cost.peak for cost in costs], 0),
            f"{operations / 1e12:.3g}",
            spread([speed / 1e12 for speed in speeds], 3),
            spread([speed / rate for speed, rate in zip(speeds, rates, strict=True)]),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _seconds(above: Sequence[Cost], below: Sequence[Cost]) -> list[float]:
    return [a.seconds / b.seconds for a, b in zip(above, below, strict=True)]


def _peaks(above: Sequence[Cost], below: Sequence[Cost]) -> list[float]:
    return [a.peak / b.peak for a, b in zip(above, below, strict=True)]


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = results.parser(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--tiny", action="store_const", const="tiny", dest="shape")
    parser.add_argument("--backend", choices=["hooked", "bridge"], default="hooked")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results.show(report(arguments), arguments.out)


if __name__ == "__main__":
    main()
