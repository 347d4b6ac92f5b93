"""Cost of answers and scores on real vocabularies, against transformers' own trunk.

    python tests/benchmarks/vocabulary.py [--out tests/benchmarks/RESULTS.md]

A random Llama of six layers, 576 wide, reads batches of 768 tokens: 64 prompts of 12 or 6 of 130;
one for answers, four for scores, as in a run, where what a call does once hardly counts. The floor
of answers is transformers' trunk (SDPA) and its lm_head on the last position as a matrix
``[batch, d_model]``, the softmax included; the floor of scores is the same with a backward pass to
the embeddings. Beside it stand what a user would otherwise write: transformers with
``logits_to_keep=1``, and the bare HookedTransformer, which unembeds every position. Ours is the
pass of ``evaluate`` with 1 % of the MLP neurons switched off, and ``attribute`` at four sites; this
one is also held against the backend's own forward and backward pass.

One thread; measurements take turns, each a process of its own, and a ratio is that of two
neighbours. Medians with the smallest and largest; CPU seconds, and peak memory above the model.
"""

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import attribution
import results
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from culnig_tl.attribution import attribute
from culnig_tl.hooks import scaled_neurons
from culnig_tl.logits import last_logits
from culnig_tl.models import bridge, conversion
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch
from culnig_tl.sites import site_shape

SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
TINY = {"hidden_size": 36, "intermediate_size": 64, "num_hidden_layers": 2}
VOCABULARIES = (49152, 262144)
LENGTHS = {12: 64, 130: 6}
N_SCORED = 4
GOALS = {"hooked": 1.15, "bridge": 1.05}


def read(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """What an evaluation reads off the logits."""
    return logits.float().softmax(-1).gather(1, batch.answers[:, None])


def trunk(llama: Any, batch: Batch) -> None:
    """transformers' layers, and lm_head on a matrix."""
    with torch.no_grad():
        hidden = llama.model(batch.tokens, attention_mask=batch.mask.long()).last_hidden_state
        read(llama.lm_head(hidden[:, -1].contiguous()), batch)


def kept(llama: Any, batch: Batch) -> None:
    """transformers with ``logits_to_keep=1``."""
    with torch.no_grad():
        output = llama(batch.tokens, attention_mask=batch.mask.long(), logits_to_keep=1)
        read(output.logits[:, -1], batch)


def bare(model: Any, batch: Batch) -> None:
    """A model with hook points as it is."""
    with torch.no_grad():
        read(model(batch.tokens, attention_mask=batch.mask.long())[:, -1], batch)


def masked(model: Any, batch: Batch, neurons: NeuronSet) -> None:
    """The pass of ``evaluate``."""
    with torch.no_grad(), scaled_neurons(model, neurons):
        read(last_logits(model, batch.tokens, batch.mask, ids=batch.ids), batch)


def trunk_backward(llama: Any, batches: Sequence[Batch]) -> None:
    """transformers' layers forward, and backward to the embeddings."""
    for batch in batches:
        embedded = llama.get_input_embeddings()(batch.tokens).detach().requires_grad_()
        hidden = llama.model(inputs_embeds=embedded, attention_mask=batch.mask.long())
        logits = llama.lm_head(hidden.last_hidden_state[:, -1].contiguous())
        torch.autograd.grad(read(logits, batch).sum(), embedded)


def case(vocabulary: int, dtype: torch.dtype, length: int, arguments: Any) -> list[str]:
    """One line per way to do it."""
    shape = SHAPE | (TINY if arguments.tiny else {})
    torch.manual_seed(0)
    options: dict[str, Any] = {**shape, "vocab_size": vocabulary, "tie_word_embeddings": True}
    llama: Any = LlamaForCausalLM(LlamaConfig(**options))
    llama.to(dtype).eval().requires_grad_(False)
    size = 2 if arguments.tiny else LENGTHS[length]
    lengths = (length, length)
    batches = attribution.random_batches(N_SCORED * size, size, lengths, vocabulary, "cpu")
    batch = batches[0]
    models = {
        "hooked": conversion.convert(llama, device="cpu", dtype=dtype),
        "bridge": bridge.build(llama, "a random Llama", dtype),
    }
    lines = []
    for backend, model in models.items():
        model.cfg.model_name = "a random Llama"
        width = site_shape(model, "mlp.hook_post")[1]
        layers, some = range(shape["num_hidden_layers"]), range(max(1, width // 100))
        neurons = NeuronSet.of({"mlp.hook_post": [(at, n) for at in layers for n in some]})
        runs = [
            partial(trunk, llama, batch),
            partial(kept, llama, batch),
            partial(bare, model, batch),
            partial(masked, model, batch, neurons),
            partial(trunk_backward, llama, batches),
            partial(attribute, model, batches, progress=False),
            partial(attribution.floor, model, batches),
        ]
        floor, plain, whole, ours, backward, scores, own = attribution.alternate(
            model, runs, arguments.repeats
        )
        name = f"{vocabulary:,} | {str(dtype).removeprefix('torch.')} | {length} | {backend}"
        ratios = [
            attribution.spread(_over(costs, base, "seconds"))
            for costs, base in (
                (ours, floor),
                (plain, floor),
                (whole, floor),
                (scores, backward),
                (scores, own),
            )
        ]
        memory = attribution.spread(_over(ours, floor, "peak"))
        lines.append(f"| {name} | {' | '.join([ratios[0], memory, *ratios[1:]])} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def _over(costs: Sequence[Any], base: Sequence[Any], measure: str) -> list[float]:
    return [
        getattr(one, measure) / getattr(other, measure)
        for one, other in zip(costs, base, strict=True)
    ]


def main() -> None:
    """Every vocabulary, type, length and backend."""
    parser = results.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--vocabulary", type=int, nargs="+", default=VOCABULARIES, help="sizes, in tokens"
    )
    parser.add_argument("--tiny", action="store_true", help="a model that shows only that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        line
        for vocabulary in ((500,) if arguments.tiny else arguments.vocabulary)
        for dtype in (torch.float32, torch.bfloat16)
        for length in ((12,) if arguments.tiny else LENGTHS)
        for line in case(vocabulary, dtype, length, arguments)
    ]
    goals = ", ".join(f"{goal:g} on {backend}" for backend, goal in GOALS.items())
    section = [
        "# Real vocabularies",
        "",
        f"`python {shlex.join(['tests/benchmarks/vocabulary.py', *sys.argv[1:]])}`, "
        f"{attribution.processor('cpu')}, torch {torch.__version__}.",
        "Ratios of CPU seconds to the floor, transformers' trunk and lm_head on a matrix; goals of "
        f"masked answers: {goals}; of their memory 1.15; of scores 1.10.",
        "",
        "| vocabulary | type | tokens per prompt | backend | masked answers | their memory | "
        "logits_to_keep=1 | the backend bare | scores / forward + backward | "
        "scores / the backend's own |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *lines,
    ]
    results.show("\n".join(section), arguments.out)


if __name__ == "__main__":
    main()
