"""Memory that the layout of the weights costs, in a forward and backward pass and in loading.

    python tests/benchmarks/memory_of_mlp_weights.py [--repeats 5] [--d-model 1024]

HookedTransformer multiplies by ``W.T.contiguous()``. As TransformerLens lays its weights out that
is a copy of every matrix, and the backward pass keeps it; as ``load_model`` lays them out it is the
weight itself. Each case is a process of its own, whose peak is read from Linux. Figures are MB,
medians with the smallest and largest.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformer_lens import HookedTransformer, loading_from_pretrained
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from culnig_tl.logits import last_logits
from culnig_tl.models import load_model

N_LAYERS = 8


def save(folder: Path, d_model: int) -> None:
    """A random Llama of 8 layers with MLPs 2.75 times as wide as the residual stream."""
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=d_model,
        intermediate_size=11 * d_model // 4,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {"<s>": 0, "a": 1}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="<s>"
    ).save_pretrained(folder)


def of_process(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak_above(start: float) -> float:
    """Peak since ``start``, which ``fresh_peak`` gave."""
    return of_process("VmHWM") - start


def fresh_peak() -> float:
    """Forget the peak so far; memory in use now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return of_process("VmRSS")


def load_as_transformer_lens(folder: Path) -> Any:
    """TransformerLens's own way from the same files: convert, then copy weight by weight."""
    hf_model: Any = AutoModelForCausalLM.from_pretrained(folder)
    config = loading_from_pretrained.get_pretrained_model_config(str(folder), device="cpu")
    weights = loading_from_pretrained.get_pretrained_state_dict(str(folder), config, hf_model)
    model = HookedTransformer(config, move_to_device=False)
    model.load_and_process_state_dict(
        weights,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.requires_grad_(False)


def measure(folder: Path, layout: str, batch: int, length: int) -> dict[str, float]:
    """One case, in a process of its own."""
    start = fresh_peak()
    model: Any = load_model(folder) if layout == "ours" else load_as_transformer_lens(folder)
    loading = peak_above(start)
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters()) / 2**20
    for weight in model.parameters():
        weight.sum()  # every page of the file is in memory before counting starts
    tokens = torch.arange(batch * length).view(batch, length) % 8000
    start, leaves = fresh_peak(), []

    def begin(residual: torch.Tensor, hook: object) -> torch.Tensor:
        leaves.append(residual.detach().requires_grad_())
        return leaves[-1]

    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", begin)]):
        logits = last_logits(model, tokens, torch.ones_like(tokens, dtype=torch.bool))
        torch.autograd.grad(logits.softmax(-1)[:, 0].sum(), leaves)
    return {"weights": weights, "loading": loading, "pass": peak_above(start)}


def main() -> None:
    """Both layouts, with many tokens and with few."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--d-model", type=int, default=1024)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        folder, layout, batch, length = arguments.case
        print(json.dumps(measure(Path(folder), layout, int(batch), int(length))))
        return
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        save(Path(folder), arguments.d_model)
        for batch, length in ((1, 32), (8, 128)):
            for layout in ("TransformerLens's", "ours"):
                command = [sys.executable, __file__, "--case", folder, layout]
                command += [str(batch), str(length)]
                runs = [
                    json.loads(subprocess.run(command, stdout=-1, stderr=-3, check=True).stdout)
                    for _ in range(arguments.repeats)
                ]
                print(f"{batch:2} x {length:3} tokens, {layout:18}", end="")
                for name in runs[0]:
                    values = sorted(run[name] for run in runs)
                    spread = f"({values[0]:.0f}..{values[-1]:.0f})"
                    print(f"  {name} {statistics.median(values):6.0f} {spread:14}", end="")
                print()


if __name__ == "__main__":
    main()
