"""Prompts that were run once as the model is, and are run again with neurons scaled.

A neuron changes nothing below its layer, so a pass with neurons scaled starts at the lowest of
their layers, from the residual stream that the first pass recorded. Memory: layers x prompts x
tokens x ``d_model``, and the vocabulary per prompt.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.attribution import Residuals, last_mlp_trimmed, recording, starting_at
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import scaled_neurons
from culnig_tl.logits import last_logits
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch, TokenBudget


@dataclass(frozen=True)
class RecordedPrompts:
    """Prompts that can be run again from any layer.

    Attributes:
        model: the model that was run.
        batch: the prompts.
        inputs: the residual stream before each layer.
        probabilities: of the next token, as the model is.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> batches = ct.batches(model, ct.load_benchmark("atlas", split="test", limit=2))
        >>> (recorded,) = RecordedPrompts.each(model, batches)
        >>> recorded.scaled(NeuronSet.of("L2.mlp.hook_post.5"), factor=0.0).shape[0]
        2
    """

    model: HookedModel
    batch: Batch
    inputs: Residuals
    probabilities: Float[Tensor, "batch vocab"]

    @classmethod
    def each(cls, model: HookedModel, batches: Sequence[Batch]) -> "list[RecordedPrompts]":
        """Every batch by one pass, in pieces where memory does not hold it.

        Raises:
            InvalidInputError: logits that are not finite, or a prompt that does not fit into
                memory.
        """

        def record(batch: Batch) -> RecordedPrompts:
            with recording(model) as inputs:
                return cls(model, batch, inputs, _next_token(model, batch))

        budget = TokenBudget(max(batch.tokens.numel() for batch in batches))
        return [recorded for _, recorded in budget.passes(batches, record)]

    def scaled(self, neurons: NeuronSet, *, factor: float) -> Float[Tensor, "batch vocab"]:
        """The probabilities with neurons scaled.

        Raises:
            InvalidInputError: neurons outside the model, a factor that is no finite number, or a
                prompt that does not fit into memory.
        """
        lowest = min((neuron.layer for neuron in neurons), default=self.model.cfg.n_layers - 1)

        def run(part: Batch) -> Tensor:
            with ExitStack() as blocks:
                blocks.enter_context(scaled_neurons(self.model, neurons, factor=factor))
                if len(part) == len(self.batch):
                    started = starting_at(self.model, lowest, self.inputs, n_copies=1)
                    blocks.enter_context(started)
                    blocks.enter_context(last_mlp_trimmed(self.model))
                return _next_token(self.model, part)

        parts = TokenBudget(self.batch.tokens.numel()).passes([self.batch], run)
        return torch.cat([probabilities for _, probabilities in parts])

    def of_answers(self, probabilities: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch"]:
        """``P(answer)`` of each prompt."""
        return probabilities.gather(1, self.batch.answers[:, None])[:, 0]


def _next_token(model: HookedModel, batch: Batch) -> Float[Tensor, "batch vocab"]:
    with torch.no_grad():
        logits = last_logits(model, batch.tokens, batch.mask, ids=batch.ids)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
