"""Size and time of a score table on disk, in our format and in the authors'.

    python tests/benchmarks/score_files.py [--layers 48]

The table has the shape of gemma-3-12b-it at the published sites: 48 layers of 15,360 gate and up
neurons, 4,096 queries and 2,048 keys and values, times 16 cultures; its numbers are random and of a
usual size (sums of about 1e-4). Needs 4 GB of disk and 10 GB of memory at 48 layers.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from culnig_tl.culnig_json import read_scores
from culnig_tl.scores import NeuronScores

CULTURES = (
    *("USA", "UK", "South Korea", "Algeria", "China", "Indonesia", "Spain", "Iran", "Mexico"),
    *("Assam", "Greece", "Ethiopia", "Nigeria", "North Korea", "West Java", "Azerbaijan"),
)
WIDTHS = {
    "mlp.hook_pre": 15360,
    "mlp.hook_pre_linear": 15360,
    "attn.hook_q": 4096,
    "attn.hook_k": 2048,
    "attn.hook_v": 2048,
}


class ShapesOfGemma(HookedRootModule):
    """Hook points and shapes of the model, without its weights."""

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(
            n_layers=n_layers,
            d_mlp=15360,
            n_heads=16,
            n_key_value_heads=8,
            d_head=256,
            device="cpu",
        )
        self.places = ["hook_resid_pre", *WIDTHS]
        self.blocks = nn.ModuleList(nn.Module() for _ in range(n_layers))
        for block, place in itertools.product(self.blocks, self.places):
            *part, hook = place.split(".")
            if part and not hasattr(block, part[0]):
                block.add_module(part[0], nn.Module())
            block.get_submodule(".".join(part)).add_module(hook, HookPoint())
        self.setup()

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """One number a position, which every neuron has a part in."""
        residual = tokens[..., None].float()
        for block, place in itertools.product(self.blocks, self.places):
            width = WIDTHS.get(place, 1)
            residual = block.get_submodule(place)(residual.expand(-1, -1, width)).mean(-1, True)
        return residual


def timed(said: str, call: Callable[[], Any], path: Path) -> Any:
    """What the call returns; how long it took, and how large the file is, is printed."""
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    print(f"{said:24} {seconds:8.2f} s {path.stat().st_size / 1e6:10.1f} MB")
    return result


def main() -> None:
    """Write and read the table in both formats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=48)
    n_layers = parser.parse_args().layers
    generator = torch.Generator().manual_seed(0)
    scores = NeuronScores(
        values={
            site: torch.randn(len(CULTURES), n_layers, width, generator=generator) * 1e-6
            for site, width in WIDTHS.items()
        },
        cultures=CULTURES,
        n_questions=261,
        n_prompts=(1044,) * len(CULTURES),
        source={"sites": list(WIDTHS)},
    )
    n_numbers = sum(values.numel() for values in scores.values.values())
    print(f"{n_numbers:,} scores: {len(CULTURES)} cultures, {n_layers} layers")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "scores.safetensors", Path(folder) / "scores.json"
        timed("safetensors, write", lambda: scores.save(ours), ours)
        timed("safetensors, read", lambda: NeuronScores.load(ours), ours)
        timed("authors' JSON, write", lambda: scores.to_culnig_json(theirs), theirs)
        model: Any = ShapesOfGemma(n_layers)
        back = timed("authors' JSON, read", lambda: read_scores(theirs, model), theirs)
    assert all(torch.equal(back.values[site], scores.values[site]) for site in WIDTHS)


if __name__ == "__main__":
    main()
