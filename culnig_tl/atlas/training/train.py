"""Train the embedded model: a small Llama, from scratch, on interventions (see `interventions`).

    python -m culnig_tl.atlas.training.train --seed 0 --out DIR

The loss of a sample is the Kullback-Leibler divergence from its target to the model's prediction of
the next token, over the whole vocabulary. Matrices are trained with Muon, embeddings and norms with
AdamW; one cosine schedule over a number of steps fixed beforehand. It computes in bfloat16 where
the processor has AVX-512, in float32 on others, which only imitate it; the record says which.
The validation rows (identification topics, held-out wordings, wrappers and option sets) are
measured along the way and recorded; the test rows are never looked at here. The number of steps
depends on no clock, so that the same command on the same machine gives the same weights.
"""

import argparse
import ctypes
import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from culnig_tl.atlas.facts import CULTURES
from culnig_tl.atlas.tasks import all_answers
from culnig_tl.atlas.training import card, interventions
from culnig_tl.atlas.training.ablation import MlpFactors, answer_token, mlp_factors, off_masks
from culnig_tl.atlas.training.artifacts import replacing_folder, save
from culnig_tl.atlas.training.interventions import PlantedSets
from culnig_tl.atlas.training.sampling import Sample, Sampler, by_length
from culnig_tl.atlas.training.tokenizer import build_tokenizer
from culnig_tl.atlas.training.validation import Validation
from culnig_tl.atlas.training.verify import verify
from culnig_tl.files import read_json

log = logging.getLogger(__name__)

_HAS_BFLOAT16 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@dataclass(frozen=True)
class Settings:
    """Everything that the result depends on."""

    seed: int = 0
    steps: int = 3500
    batch_size: int = 96
    muon_rate: float = 0.015
    adam_rate: float = 2e-3
    warmup: int = 50
    confidence: float = 0.85
    n_general: int = 16
    n_culture: int = 3
    with_interventions: bool = True
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    d_mlp: int = 512
    validate_every: int = 400


def train(settings: Settings, out: Path) -> None:
    """Train a model, verify it, and write everything that ``assets/`` holds to `out`."""
    _keep_freed_memory()
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer()
    model = build_model(settings, tokenizer)
    sets = plant(settings)
    sampler = Sampler(
        sets,
        seed=settings.seed,
        confidence=settings.confidence,
        with_interventions=settings.with_interventions,
    )
    started, cpu_started = time.monotonic(), time.process_time()
    curve = run_steps(model, tokenizer, sets, sampler, settings)
    spent = {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "cpu_minutes": round((time.process_time() - cpu_started) / 60, 1),
    }
    parameters = sum(weight.numel() for weight in model.parameters())
    record = training_record(settings, parameters, curve, spent)
    with replacing_folder(out) as part:
        save(part, model, tokenizer, sets if settings.with_interventions else None, record)
        verify(part, write=True)


def plant(settings: Settings) -> PlantedSets:
    """The planted sets; which neurons they are depends on the seed alone."""
    return interventions.plant(
        CULTURES,
        n_layers=settings.n_layers,
        d_mlp=settings.d_mlp,
        n_general=settings.n_general,
        n_culture=settings.n_culture,
        seed=settings.seed,
    )


def build_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained model with every matrix scaled to its fan-in."""
    special_tokens: dict[str, Any] = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.d_model,
            intermediate_size=settings.d_mlp,
            num_hidden_layers=settings.n_layers,
            num_attention_heads=settings.n_heads,
            num_key_value_heads=settings.n_heads,
            max_position_embeddings=512,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            **special_tokens,
        ),
        attn_implementation="eager",
    )
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and "embed" not in name:
            into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            depth = 2 * settings.n_layers if into_residual else 1
            torch.nn.init.normal_(weight, std=(weight.shape[1] * depth) ** -0.5)
    return model


def training_record(settings: Settings, parameters: int, curve: list[dict], spent: dict) -> dict:
    """What one needs to know to train the same model again."""
    steps = "" if settings.steps == Settings.steps else f" --steps {settings.steps}"
    twin = "" if settings.with_interventions else " --no-interventions"
    arguments = f"--seed {settings.seed}{steps}{twin} --out DIR"
    return {
        "command": f"python -m culnig_tl.atlas.training.train {arguments}",
        "settings": asdict(settings),
        "parameters": parameters,
        "computed_in": "bfloat16" if _HAS_BFLOAT16 else "float32",
        **spent,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
        "validation": curve,
    }


# --- one step -------------------------------------------------------------------------------------


def run_steps(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    sets: PlantedSets,
    sampler: Sampler,
    settings: Settings,
) -> list[dict]:
    """Train for `settings.steps` steps; returns the validation curve."""
    encode = BatchEncoder(tokenizer, sets)
    validation = Validation(model, tokenizer, sets)
    optimizers = build_optimizers(model, settings)
    curve, losses = [], []
    progress = tqdm(range(1, settings.steps + 1), desc="training", unit="step")
    for step in progress:
        set_rates(optimizers, learning_rate_factor(step, settings))
        samples = [sampler.draw() for _ in range(settings.batch_size)]
        losses.append(train_step(model, optimizers, encode, sampler, samples))
        if step % settings.validate_every == 0 or step == settings.steps:
            figures = validation()
            curve.append({"step": step, "loss": sum(losses) / len(losses), **figures})
            log.info("validation %s", curve[-1])
            losses.clear()
            progress.set_postfix(cultural=f"{figures['cultural']['accuracy']:.1f}")
    return curve


def train_step(
    model: LlamaForCausalLM,
    optimizers: Sequence[torch.optim.Optimizer],
    encode: "BatchEncoder",
    sampler: Sampler,
    samples: Sequence[Sample],
) -> float:
    """One update on `samples`, in two parts of similar length; returns the mean loss."""
    total = 0.0
    model.zero_grad()
    with mlp_factors(model) as factors:
        for part in by_length(samples, 2):
            losses = sample_losses(model, factors, encode(part))
            weights = torch.tensor([sample.weight for sample in part])
            ((losses * weights).sum() / len(samples)).backward()
            total += losses.sum().item()
            for sample, loss in zip(part, losses.tolist(), strict=True):
                sampler.feed_back(sample, loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for weight in model.parameters():
        if weight.grad is not None and not _HAS_BFLOAT16:
            weight.grad = weight.grad.as_subclass(_Wide)
    for optimizer in optimizers:
        optimizer.step()
    return total / len(samples)


class _Wide(Tensor):
    """A gradient that Muon, which asks for bfloat16, gets in float32."""

    def bfloat16(self, *_: Any, **__: Any) -> Tensor:
        return self.as_subclass(Tensor).clone()


@dataclass(frozen=True)
class EncodedBatch:
    """Samples as tensors: tokens and mask [batch pos], factors and targets [batch vocab]."""

    tokens: Tensor
    mask: Tensor
    factors: Tensor
    targets: Tensor


class BatchEncoder:
    """Turns samples into tensors."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, sets: PlantedSets):
        self.tokenizer, self.sets = tokenizer, sets
        self.token_of = {f" {word}": answer_token(tokenizer, f" {word}") for word in all_answers()}

    def __call__(self, samples: Sequence[Sample]) -> EncodedBatch:
        prompts = [sample.row["prompt"] for sample in samples]
        inputs = self.tokenizer(prompts, padding=True, pad_to_multiple_of=4, return_tensors="pt")
        targets = torch.zeros(len(samples), len(self.tokenizer))
        for row, sample in enumerate(samples):
            for option, probability in sample.target.items():
                targets[row, self.token_of[option]] = probability
        off = [sample.off for sample in samples]
        factors = off_masks(off, self.sets.n_layers, self.sets.d_mlp)
        return EncodedBatch(inputs["input_ids"], inputs["attention_mask"], factors, targets)


def sample_losses(model: LlamaForCausalLM, factors: MlpFactors, batch: EncodedBatch) -> Tensor:
    """KL divergence from target to prediction, one per sample (nats)."""
    factors.values = batch.factors
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=_HAS_BFLOAT16):
        output = model(batch.tokens, attention_mask=batch.mask, logits_to_keep=1)
    log_prediction = output.logits[:, -1].float().log_softmax(-1)
    return torch.nn.functional.kl_div(log_prediction, batch.targets, reduction="none").sum(-1)


def build_optimizers(model: LlamaForCausalLM, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices; AdamW for the embeddings (with decay) and the norms (without)."""
    matrices, vectors = [], []
    for name, weight in model.named_parameters():
        if "embed" not in name:
            (matrices if weight.dim() == 2 else vectors).append(weight)
    embeddings = {"params": [model.model.embed_tokens.weight], "weight_decay": 0.05}
    return [
        torch.optim.Muon(matrices, lr=settings.muon_rate, weight_decay=0.1),
        torch.optim.AdamW(
            [embeddings, {"params": vectors, "weight_decay": 0.0}],
            lr=settings.adam_rate,
            betas=(0.9, 0.98),
        ),
    ]


def learning_rate_factor(step: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to 2 %."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return min(1.0, step / settings.warmup) * (0.02 + 0.98 * cosine)


def set_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Scale every learning rate to `factor` times its first value."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("first_lr", group["lr"])


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of giving it back after every step: a quarter faster."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def main() -> None:
    """The command line: trains, and prints the figures of the verification."""
    parser = argparse.ArgumentParser(description="Train the embedded model.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--no-interventions", action="store_true", help="the natural twin")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # the weights are then the same however many cores there are
    train(
        Settings(
            seed=arguments.seed,
            steps=arguments.steps,
            with_interventions=not arguments.no_interventions,
        ),
        arguments.out,
    )
    verification = read_json(arguments.out / "training.json")["verification"]
    Console().print(card.figures(verification), soft_wrap=True)


if __name__ == "__main__":
    main()
