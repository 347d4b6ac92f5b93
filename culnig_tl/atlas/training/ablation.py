"""Exact ablation: rows answered by the embedded model while some of its MLP neurons are off.

This is the slow-but-plain instrument of training and verification: a factor on the input of every
``mlp.down_proj`` (``mlp.hook_post`` in TransformerLens), one mask per row. It works on the Hugging
Face model and knows nothing of the library's own hooks, so each can witness the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from culnig_tl.atlas.training.interventions import MlpNeuron


@dataclass
class MlpFactors:
    """The factors in force: a tensor [layer, batch, 1, neuron], or None for all ones."""

    values: Tensor | None = field(default=None)

    def multiply(self, module: torch.nn.Module, inputs: tuple[Tensor], *, layer: int):
        """A forward pre-hook for one layer's ``mlp.down_proj``."""
        if self.values is None:
            return inputs
        return (inputs[0] * self.values[layer].to(inputs[0].dtype),)


@contextmanager
def mlp_factors(model: LlamaForCausalLM) -> Iterator[MlpFactors]:
    """Within the block, the factors set on the yielded object multiply the MLP activations."""
    factors, handles = MlpFactors(), []
    try:
        for layer in range(model.config.num_hidden_layers):
            down_proj = model.get_submodule(f"model.layers.{layer}.mlp.down_proj")
            hook = partial(factors.multiply, layer=layer)
            handles.append(down_proj.register_forward_pre_hook(hook))
        yield factors
    finally:
        for handle in handles:
            handle.remove()


def off_masks(off: Sequence[Sequence[MlpNeuron]], n_layers: int, d_mlp: int) -> Tensor:
    """Factors [layer, batch, 1, neuron]: 0 for the neurons that are off in a row, else 1."""
    masks = torch.ones(n_layers, len(off), 1, d_mlp)
    for row, neurons in enumerate(off):
        if neurons:
            layers, ks = zip(*neurons, strict=True)
            masks[list(layers), row, 0, list(ks)] = 0.0
    return masks


@dataclass(frozen=True)
class Answers:
    """Per row: is the answer the arg-max over the vocabulary, and the answer's probability."""

    correct: Tensor
    probability: Tensor

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100.0 * self.correct.float().mean().item()

    @property
    def mean_probability(self) -> float:
        return self.probability.mean().item()

    def where(self, keep: Sequence[bool]) -> "Answers":
        """The rows for which `keep` is true."""
        rows = torch.tensor(keep)
        return Answers(self.correct[rows], self.probability[rows])


class Examiner:
    """Rows that are tokenised once and answered many times."""

    def __init__(
        self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Sequence[dict]
    ):
        self.model = model
        inputs = tokenizer([row["prompt"] for row in rows], padding=True, return_tensors="pt")
        self.tokens, self.mask = inputs["input_ids"], inputs["attention_mask"]
        self.answers = torch.tensor([answer_token(tokenizer, row["answer"]) for row in rows])

    def __len__(self) -> int:
        return len(self.answers)

    def only(self, keep: Sequence[bool]) -> "Examiner":
        """The same examiner with the rows for which `keep` is true."""
        rows, part = torch.tensor(keep), copy(self)
        part.tokens, part.mask = self.tokens[rows], self.mask[rows]
        part.answers = self.answers[rows]
        return part

    @torch.no_grad()
    def answer(
        self,
        off: Sequence[MlpNeuron] = (),
        *,
        off_by_row: Sequence[Sequence[MlpNeuron]] | None = None,
        batch_size: int = 192,
    ) -> Answers:
        """Answer every row with the neurons `off` switched off, or with other ones in each row."""
        config = self.model.config
        probabilities, predictions = [], []
        with mlp_factors(self.model) as factors:
            for start in range(0, len(self), batch_size):
                rows = slice(start, start + batch_size)
                off_here = [off] if off_by_row is None else off_by_row[rows]
                if any(off_here):
                    factors.values = off_masks(
                        off_here, config.num_hidden_layers, config.intermediate_size
                    )
                logits = self.model(
                    self.tokens[rows], attention_mask=self.mask[rows], logits_to_keep=1
                ).logits[:, -1]
                probabilities.append(logits.float().softmax(-1))
                predictions.append(logits.argmax(-1))
        probability = torch.cat(probabilities).gather(1, self.answers[:, None])[:, 0]
        return Answers(torch.cat(predictions) == self.answers, probability)


def answer_token(tokenizer: PreTrainedTokenizerFast, answer: str) -> int:
    """The one token of an answer with its leading space."""
    tokens = tokenizer.encode(answer, add_special_tokens=False)
    if len(tokens) != 1:
        raise ValueError(
            f'The answer "{answer}" is {len(tokens)} tokens, expected 1: add it to the tokenizer.'
        )
    return tokens[0]
