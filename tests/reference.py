"""The equations of the method as naive, literal loops; the witness that the package is held to.

Nothing here is shared with the package. Two twins of a model stand in for its two backends:

* ``NaiveLlama`` is Llama written out in float64, one head and one position at a time. It is the
  witness of HookedTransformer, which computes in float64 where it is asked to.
* ``PlainTransformers`` is transformers' own LlamaForCausalLM with module hooks. It is the witness
  of TransformerBridge; transformers rounds norms and attention to float32 inside a float64 model,
  so the two twins agree to about 1e-5 only.

Both read one prompt at a time and never pad.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

SITES = (
    "mlp.hook_post",
    "mlp.hook_pre",
    "mlp.hook_pre_linear",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
)
Change = Callable[[str, int, Tensor], Tensor]
"""(site, layer, activation [pos neuron]) -> the activation to go on with."""
Neuron = tuple[str, int, int]


def _keep(site: str, layer: int, activation: Tensor) -> Tensor:
    return activation


class NaiveLlama:
    """Llama in float64, equation by equation."""

    def __init__(self, folder: Path) -> None:
        config = AutoConfig.from_pretrained(folder)
        self.weights = {
            name: weight.double()
            for name, weight in load_file(folder / "model.safetensors").items()
        }
        self.n_layers = config.num_hidden_layers
        self.n_heads = config.num_attention_heads
        self.n_key_value_heads = config.num_key_value_heads
        self.d_head = config.hidden_size // config.num_attention_heads
        self.epsilon = config.rms_norm_eps
        self.theta = config.rope_parameters["rope_theta"]

    def logits(self, ids: Sequence[int], change: Change = _keep) -> Tensor:
        """Logits at the last position."""
        residual = self.weights["model.embed_tokens.weight"][list(ids)]
        if torch.is_grad_enabled():
            residual = residual.clone().requires_grad_()
        for layer in range(self.n_layers):
            name = f"model.layers.{layer}"
            normed = self._norm(residual, f"{name}.input_layernorm")
            residual = residual + self._attention(normed, layer, change)
            normed = self._norm(residual, f"{name}.post_attention_layernorm")
            gate = change("mlp.hook_pre", layer, self._linear(normed, f"{name}.mlp.gate_proj"))
            up = change("mlp.hook_pre_linear", layer, self._linear(normed, f"{name}.mlp.up_proj"))
            post = change("mlp.hook_post", layer, self._gated(gate, up))
            residual = residual + self._linear(post, f"{name}.mlp.down_proj")
        return self._linear(self._norm(residual, "model.norm"), "lm_head")[-1]

    def _attention(self, normed: Tensor, layer: int, change: Change) -> Tensor:
        name = f"model.layers.{layer}.self_attn"
        queries = change("attn.hook_q", layer, self._linear(normed, f"{name}.q_proj"))
        keys = change("attn.hook_k", layer, self._linear(normed, f"{name}.k_proj"))
        values = change("attn.hook_v", layer, self._linear(normed, f"{name}.v_proj"))
        queries, keys, values = self._shared(queries, keys, values)
        heads = []
        for head in range(self.n_heads):
            shared = self.read_by(head)
            value = values[:, shared * self.d_head : (shared + 1) * self.d_head]
            mixed = []
            for i, pattern in enumerate(self.patterns(queries, keys, head)):
                mixed.append(pattern @ value[: i + 1])
            heads.append(torch.stack(mixed))
        return self._linear(torch.cat(heads, dim=1), f"{name}.o_proj")

    def read_by(self, head: int) -> int:
        """Which of the shared keys and values a head reads."""
        return head * self.n_key_value_heads // self.n_heads

    def patterns(self, queries: Tensor, keys: Tensor, head: int) -> list[Tensor]:
        """The attention of every query of a head to the keys up to its own position."""
        shared = self.read_by(head)
        query = self._rotated(queries[:, head * self.d_head : (head + 1) * self.d_head])
        key = self._rotated(keys[:, shared * self.d_head : (shared + 1) * self.d_head])
        return [
            self._pattern(key[: i + 1] @ query[i] / math.sqrt(self.d_head))
            for i in range(len(query))
        ]

    def _rotated(self, vectors: Tensor) -> Tensor:
        half = self.d_head // 2
        turned = []
        for position, vector in enumerate(vectors):
            angles = [position * self.theta ** (-2 * j / self.d_head) for j in range(half)]
            cos = torch.tensor([math.cos(angle) for angle in angles], dtype=torch.float64)
            sin = torch.tensor([math.sin(angle) for angle in angles], dtype=torch.float64)
            first, second = vector[:half], vector[half:]
            turned.append(torch.cat([first * cos - second * sin, second * cos + first * sin]))
        return torch.stack(turned)

    def _norm(self, residual: Tensor, name: str) -> Tensor:
        mean_square = (residual**2).mean(-1, keepdim=True)
        scale = self._scale(torch.sqrt(mean_square + self.epsilon))
        return residual / scale * self.weights[f"{name}.weight"]

    def _scale(self, scale: Tensor) -> Tensor:
        return scale

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        return gate / (1 + torch.exp(-gate)) * up

    def _pattern(self, scores: Tensor) -> Tensor:
        return torch.softmax(scores, dim=0)

    def _shared(self, *vectors: Tensor) -> tuple[Tensor, ...]:
        return vectors

    def _linear(self, vectors: Tensor, name: str) -> Tensor:
        return vectors @ self.weights[f"{name}.weight"].T


def part(value: Tensor, share: float) -> Tensor:
    """The same value with a share of its gradient."""
    return share * value + ((1 - share) * value).detach()


class RelpLlama(NaiveLlama):
    """arXiv 2508.21258: norms and sigmoids are constants, the factors of a product get half."""

    def __init__(self, folder: Path, *, freeze_attention: bool = False) -> None:
        super().__init__(folder)
        self.freeze_attention = freeze_attention

    def _scale(self, scale: Tensor) -> Tensor:
        return scale.detach()

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        return part(gate * (1 / (1 + torch.exp(-gate))).detach() * up, 0.5)

    def _pattern(self, scores: Tensor) -> Tensor:
        pattern = super()._pattern(scores)
        return pattern.detach() if self.freeze_attention else pattern


class GimLlama(NaiveLlama):
    """arXiv 2505.17630: norms are constants, products are shared, softmax at temperature 2."""

    def _scale(self, scale: Tensor) -> Tensor:
        return scale.detach()

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        return part(super()._gated(gate, up), 0.5)

    def _pattern(self, scores: Tensor) -> Tensor:
        soft = torch.softmax(scores / 2, dim=0).detach()
        line = soft * (scores - (soft * scores).sum())
        return super()._pattern(scores).detach() + line - line.detach()

    def _shared(self, *vectors: Tensor) -> tuple[Tensor, ...]:
        shares = (0.25, 0.25, 0.5)
        return tuple(part(each, share) for each, share in zip(vectors, shares, strict=True))


class AtpStarLlama(NaiveLlama):
    """arXiv 2403.00745: what a neuron of a query or a key does to each pattern, and the pattern's
    gradient."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: list[Tensor] = []
        """By layer, head and query, as they come."""

    def _pattern(self, scores: Tensor) -> Tensor:
        pattern = super()._pattern(scores)
        if pattern.requires_grad:
            pattern.retain_grad()
            self.seen.append(pattern)
        return pattern

    def drops(self, trace: "Trace", site: str, layer: int) -> list[list[float]]:
        """[pos][neuron]: each neuron is set to 0 at one position, and nothing else is."""
        vectors = {
            each: torch.tensor(trace.activation[each, layer], dtype=torch.float64)
            for each in ("attn.hook_q", "attn.hook_k")
        }
        length, width = vectors[site].shape
        return [
            [self._drop(vectors, site, layer, i, neuron) for neuron in range(width)]
            for i in range(length)
        ]

    def _drop(
        self, vectors: Mapping[str, Tensor], site: str, layer: int, position: int, neuron: int
    ) -> float:
        without = vectors[site].clone()
        without[position, neuron] = 0.0
        changed = {**vectors, site: without}
        drop = 0.0
        for head in range(self.n_heads):
            own = head if site == "attn.hook_q" else self.read_by(head)
            if own != neuron // self.d_head:
                continue
            after = self.patterns(changed["attn.hook_q"], changed["attn.hook_k"], head)
            first = (layer * self.n_heads + head) * len(without)
            for i in range(len(without)):
                before = self.seen[first + i]
                assert before.grad is not None
                drop += float(((before.detach() - after[i]) * before.grad).sum())
        return drop


class PlainTransformers:
    """LlamaForCausalLM with module hooks, parameters not frozen."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float64) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        ).eval()
        self.n_layers = self.model.config.num_hidden_layers

    def logits(self, ids: Sequence[int], change: Change = _keep) -> Tensor:
        """Logits at the last position."""
        handles = []
        for layer, block in enumerate(self.model.model.layers):
            for site, module in {
                "mlp.hook_pre": block.mlp.gate_proj,
                "mlp.hook_pre_linear": block.mlp.up_proj,
                "attn.hook_q": block.self_attn.q_proj,
                "attn.hook_k": block.self_attn.k_proj,
                "attn.hook_v": block.self_attn.v_proj,
            }.items():

                def on_output(_module, _inputs, output, site=site, layer=layer):
                    return change(site, layer, output[0])[None]

                handles.append(module.register_forward_hook(on_output))

            def on_input(_module, inputs, layer=layer):
                return (change("mlp.hook_post", layer, inputs[0][0])[None],)

            handles.append(block.mlp.down_proj.register_forward_pre_hook(on_input))
        try:
            return self.model(torch.tensor([list(ids)])).logits[0, -1]
        finally:
            for handle in handles:
                handle.remove()


Twin = NaiveLlama | PlainTransformers


@dataclass
class Trace:
    """What one prompt leaves behind: P(y|x), and ``a`` and ``dP/da`` as [pos][neuron] lists."""

    probability: float
    activation: dict[tuple[str, int], list[list[float]]] = field(default_factory=dict)
    gradient: dict[tuple[str, int], list[list[float]]] = field(default_factory=dict)


def target_value(
    logits: Tensor, answer: int, target: str = "probability", options: Sequence[int] = ()
) -> Tensor:
    """METHOD section 3: P(y|x), log P(y|x), or the right label's logit minus the mean logit of the
    other options."""
    if target == "logit_difference":
        others = [logits[option] for option in options if option != answer]
        return logits[answer] - torch.stack(others).sum() / len(others)
    probability = torch.exp(logits[answer]) / torch.exp(logits).sum()
    return torch.log(probability) if target == "log_probability" else probability


def trace(twin: Twin, ids: Sequence[int], answer: int, **target) -> Trace:
    """One forward and one backward pass of one prompt; ``target, options`` as in
    ``target_value``."""
    seen: dict[tuple[str, int], Tensor] = {}

    def watch(site: str, layer: int, activation: Tensor) -> Tensor:
        activation = activation.clone()
        activation.retain_grad()
        seen[site, layer] = activation
        return activation

    with torch.enable_grad():
        logits = twin.logits(ids, watch)
        target_value(logits, answer, **target).backward()
    gradients = {place: activation.grad for place, activation in seen.items()}
    return Trace(
        probability=target_value(logits, answer).item(),
        activation={place: activation.tolist() for place, activation in seen.items()},
        gradient={place: g.tolist() for place, g in gradients.items() if g is not None},
    )


def question_score(
    seen: Trace, neuron: Neuron, *, batch_length: int | None = None, clamp: bool = False
) -> float:
    """METHOD section 1: P * max over positions of a * dP/da.

    ``batch_length`` is the longest prompt of the batch for the published definition, in which
    padding counts as 0 in the maximum; without it, real tokens only.
    """
    site, layer, k = neuron
    activation, gradient = seen.activation[site, layer], seen.gradient[site, layer]
    products = [activation[i][k] * gradient[i][k] for i in range(len(activation))]
    if batch_length is not None:
        products += [0.0] * (batch_length - len(products))
    largest = products[0]
    for product in products[1:]:
        largest = max(largest, product)
    score = seen.probability * largest
    return max(score, 0.0) if clamp else score


def question_scores(seen: Trace, site: str, n_layers: int, **options) -> Tensor:
    """``question_score`` of every neuron of a site, [layer neuron]."""
    width = len(seen.activation[site, 0][0])
    return torch.tensor(
        [
            [question_score(seen, (site, layer, k), **options) for k in range(width)]
            for layer in range(n_layers)
        ],
        dtype=torch.float64,
    )


Nodes = Sequence[tuple[float, float]]
"""(factor, weight) of each step of a path."""


def midpoint_nodes(steps: int) -> Nodes:
    """The midpoints of equal intervals from 0 to 1."""
    return [((step + 0.5) / steps, 1 / steps) for step in range(steps)]


def geometric_nodes(steps: int, start: float, knee: float) -> Nodes:
    """METHOD section 3: two Gauss-Legendre nodes on each panel, a midpoint on the first one if the
    number of steps is odd. The first panel ends at ``start``, others in equal ratios at ``knee``,
    a quarter of all in equal ratios at 1."""
    n_panels = math.ceil(steps / 2)
    n_upper = n_panels // 4 if knee < 1 else 0
    n_lower = n_panels - n_upper - 1
    top = knee if n_upper else 1.0
    ends = [0.0, start]
    ends += [start * (top / start) ** (i / n_lower) for i in range(1, n_lower + 1)]
    ends += [knee * (1 / knee) ** (i / n_upper) for i in range(1, n_upper + 1)]
    nodes = []
    for number in range(n_panels):
        low, high = ends[number], ends[number + 1]
        if number == 0 and steps % 2 == 1:
            nodes.append(((low + high) / 2, high - low))
        else:
            for sign in (-1, 1):
                position = (1 + sign / math.sqrt(3)) / 2
                nodes.append((low + (high - low) * position, (high - low) / 2))
    return nodes


def integrated_shares(
    twin: Twin,
    ids: Sequence[int],
    answer: int,
    site: str,
    layers: Sequence[int],
    *,
    nodes: Nodes,
    **target,
) -> dict[int, list[list[float]]]:
    """METHOD section 3 by layer, as [pos][neuron]: the activations of the site in ``layers`` are
    multiplied by f, and a * dT / d(f a) is averaged over the factors f."""
    shares: dict[int, Tensor] = {}
    for factor, weight in nodes:
        seen: dict[int, tuple[Tensor, Tensor]] = {}

        def scale(at: str, layer: int, activation: Tensor, factor=factor, seen=seen) -> Tensor:
            if at != site or layer not in layers:
                return activation
            scaled = factor * activation
            if not scaled.requires_grad:
                scaled.requires_grad_()
            scaled.retain_grad()
            seen[layer] = (activation, scaled)
            return scaled

        with torch.enable_grad():
            target_value(twin.logits(ids, scale), answer, **target).backward()
        for layer, (activation, scaled) in seen.items():
            assert scaled.grad is not None
            product = activation.detach() * scaled.grad * weight
            shares[layer] = shares.get(layer, torch.zeros_like(product)) + product
    return {layer: share.tolist() for layer, share in shares.items()}


def gap(
    twin: Twin,
    ids: Sequence[int],
    answer: int,
    site: str,
    layers: Sequence[int],
    *,
    nodes: Nodes,
    **target,
) -> tuple[float, float]:
    """METHOD section 3: |sum of IG - (T(1) - T(0))| and |T(1) - T(0)| of one path."""

    def suppress(at: str, layer: int, activation: Tensor) -> Tensor:
        return 0 * activation if at == site and layer in layers else activation

    shares = integrated_shares(twin, ids, answer, site, layers, nodes=nodes, **target)
    total = 0.0
    for positions in shares.values():
        for neurons in positions:
            for share in neurons:
                total += share
    with torch.no_grad():
        full = target_value(twin.logits(ids), answer, **target).item()
        without = target_value(twin.logits(ids, suppress), answer, **target).item()
    return abs(total - (full - without)), abs(full - without)


def suppressed(neurons: Sequence[Neuron], factor: float = 0.0) -> Change:
    """METHOD section 7: multiply neurons by a factor at every position, in plain transformers."""

    def change(site: str, layer: int, activation: Tensor) -> Tensor:
        activation = activation.clone()
        for at, in_layer, neuron in neurons:
            if (at, in_layer) == (site, layer):
                for i in range(len(activation)):
                    activation[i, neuron] = factor * activation[i, neuron]
        return activation

    return change


def culture_scores(
    scores: Sequence[float], cultures: Sequence[str], ids: Sequence[str]
) -> dict[str, float]:
    """METHOD section 4 for one neuron: S_c(D) by culture, in order of first appearance."""
    distinct: list[str] = []
    for question in ids:
        if question not in distinct:
            distinct.append(question)
    sums: dict[str, float] = {}
    for score, culture in zip(scores, cultures, strict=True):
        sums[culture] = sums.get(culture, 0.0) + score
    return {culture: total / len(distinct) for culture, total in sums.items()}


Table = Mapping[str, Mapping[Neuron, float]]
"""S_c(D) by culture, then by neuron in pool order."""


def _best(scores: Mapping[Neuron, float], share: float) -> list[Neuron]:
    """The top ``int(pool * share)``; ties keep the order of the pool."""
    ranked = list(scores)
    ranked.sort(key=lambda neuron: -scores[neuron])  # Python's sort is stable
    return ranked[: int(len(ranked) * share)]


def _sum_over_cultures(table: Table, pool: Sequence[Neuron]) -> dict[Neuron, float]:
    return {neuron: sum(scores[neuron] for scores in table.values()) for neuron in pool}


def culture_general(
    cultural: Table,
    control: Table,
    recognition: Table,
    *,
    mlp_top: float,
    attention_top: float,
    recognition_top: float,
) -> set[Neuron]:
    """METHOD section 5, culture-general."""
    every = list(next(iter(cultural.values())))
    neurons: set[Neuron] = set()
    for family, share in (("mlp.", mlp_top), ("attn.", attention_top)):
        pool = [
            neuron
            for neuron in every
            if neuron[0].startswith(family) and neuron[0] != "mlp.hook_pre_linear"
        ]
        with_question = _sum_over_cultures(cultural, pool)
        without = _sum_over_cultures(control, pool)
        gain = {neuron: with_question[neuron] - without[neuron] for neuron in pool}
        names = _best(_sum_over_cultures(recognition, pool), recognition_top)
        neurons |= {neuron for neuron in _best(gain, share) if neuron not in names}
    return neurons


def culture_specific(
    cultural: Table,
    control: Table,
    recognition: Table,
    *,
    culture: str,
    top: float,
    recognition_top: float,
    min_z: float,
) -> set[Neuron]:
    """METHOD section 5, culture-specific; z of the quantity that is ranked."""
    pool = [neuron for neuron in cultural[culture] if neuron[0] != "mlp.hook_pre_linear"]
    gain = {
        each: {neuron: cultural[each][neuron] - control[each][neuron] for neuron in pool}
        for each in cultural
    }
    names = _best({neuron: recognition[culture][neuron] for neuron in pool}, recognition_top)
    neurons = set()
    for neuron in _best(gain[culture], top):
        values = [gain[each][neuron] for each in cultural]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        z = (gain[culture][neuron] - mean) / deviation if deviation > 0 else 0.0
        if neuron not in names and z >= min_z:
            neurons.add(neuron)
    return neurons


def bootstrap_interval(values: Sequence[float], *, draws: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean, by drawing one value after the other."""
    generator = random.Random(seed)
    means = sorted(
        sum(generator.choice(values) for _ in values) / len(values) for _ in range(draws)
    )
    return means[int(0.025 * draws)], means[int(0.975 * draws)]


def auroc(inside: Sequence[float], outside: Sequence[float]) -> float:
    """Chance that a value inside is larger than one outside, ties half."""
    wins = 0.0
    for one in inside:
        for other in outside:
            wins += 1.0 if one > other else 0.5 if one == other else 0.0
    return wins / (len(inside) * len(outside))


def norm_error(value: Tensor, expected: Tensor) -> float:
    """Length of the difference over the length of what was expected."""
    return float((value.double() - expected.double()).norm() / expected.double().norm())


def max_error(value: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value that was expected."""
    return float((value.double() - expected.double()).abs().max() / expected.double().abs().max())
