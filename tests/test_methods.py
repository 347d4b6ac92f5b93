"""AtP*, the gradient alone and activation x weight norm equal their equations written out."""

import math
import re
from functools import cache
from typing import get_args

import pytest
import reference
import torch
from families import FAMILIES, needs_hooked, save
from reference import SITES, AtpStarLlama, NaiveLlama, max_error
from test_attribution import EXACT, unpadded
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import culnig_tl as ct
from culnig_tl.attribution.attention import check_attention, key_drop, query_drop
from culnig_tl.attribution.methods import METHODS
from culnig_tl.attribution.pooling import Reduction
from culnig_tl.attribution.targets import read_answer
from culnig_tl.cli import app
from culnig_tl.cli.options import Method
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.hooked_model import hooked
from culnig_tl.questions import Batch, batches
from culnig_tl.sites import hook_name, site_named

PUBLISHED = Reduction(pool="max", padding="ignore", clamp=False, weight="probability")
EACH_POSITION = Reduction(pool=None, padding="ignore", clamp=False, weight="none")
WRITING = ("mlp.hook_post", "mlp.hook_pre", "mlp.hook_pre_linear", "attn.hook_v")
STEERING = ("attn.hook_q", "attn.hook_k")
NEW = ("gradient", "atp_star", "activation_x_weight_norm")


@pytest.fixture(scope="module")
def scores_of(loaded, rows):
    """``scores_of(method, key_value_heads, sites, reduction)``: the batch of all rows, padded, and
    its scores."""

    @cache
    def score(method, key_value_heads=2, sites=SITES, reduction=PUBLISHED, dtype="float64"):
        model = loaded(key_value_heads, "hooked", dtype)
        batch = batches(model, rows)[0]
        return batch, METHODS[method](model, batch, sites, reduction, "probability")

    return score


def traced(twin, batch, line):
    return reference.trace(twin, unpadded(batch, line), int(batch.answers[line]))


def pooled(probability, products):
    """METHOD section 1 of [pos][neuron]: P times the maximum over positions."""
    return torch.tensor(
        [probability * max(line[k] for line in products) for k in range(len(products[0]))],
        dtype=torch.float64,
    )


# ---------------------------------------------------------------- the gradient alone


@pytest.mark.parametrize("key_value_heads", [2, 4])
def test_the_gradient_alone_equals_the_naive_loops(scores_of, folders, key_value_heads):
    batch, scored = scores_of("gradient", key_value_heads)
    twin = NaiveLlama(folders[key_value_heads])
    for line in range(len(batch)):
        seen = traced(twin, batch, line)
        for (site, layer), gradient in seen.gradient.items():
            naive = pooled(seen.probability, gradient)
            assert max_error(scored.scores[site][line, layer], naive) < EXACT


# ---------------------------------------------------------------- activation x weight norm


def naive_norm(twin, site, layer, neuron):
    """Length of what one unit adds to the residual stream; a value, by all heads that read it."""
    name = f"model.layers.{layer}"
    if site != "attn.hook_v":
        row = twin.weights[f"{name}.mlp.down_proj.weight"][:, neuron].tolist()
        return math.sqrt(sum(weight * weight for weight in row))
    total = torch.zeros(32, dtype=torch.float64)
    for head in range(twin.n_heads):
        if twin.read_by(head) == neuron // twin.d_head:
            column = head * twin.d_head + neuron % twin.d_head
            total += twin.weights[f"{name}.self_attn.o_proj.weight"][:, column]
    return float(total.norm())


@pytest.mark.parametrize("key_value_heads", [2, 4])
def test_activation_x_weight_norm_equals_the_naive_loops(scores_of, folders, key_value_heads):
    batch, scored = scores_of("activation_x_weight_norm", key_value_heads, WRITING)
    twin = NaiveLlama(folders[key_value_heads])
    for line in range(2):
        seen = traced(twin, batch, line)
        assert float(scored.probability[line]) == pytest.approx(seen.probability, rel=EXACT)
        for site in WRITING:
            for layer in range(3):
                activation = seen.activation[site, layer]
                norms = [naive_norm(twin, site, layer, k) for k in range(len(activation[0]))]
                products = [
                    [a * norm for a, norm in zip(of_position, norms, strict=True)]
                    for of_position in activation
                ]
                naive = pooled(seen.probability, products)
                assert max_error(scored.scores[site][line, layer], naive) < EXACT


def test_weight_norms_are_those_of_each_sites_output_directions(either, rows):
    batch = batches(either, rows)[0]
    scored = METHODS["activation_x_weight_norm"](either, batch, WRITING, EACH_POSITION)
    activations = {}
    points = [(hook_name(site, 1), site) for site in WRITING]

    def keep(activation, hook, site):
        activations[site] = activation.flatten(2)

    hooks = [(name, lambda a, hook, site=site: keep(a, hook, site)) for name, site in points]
    with hooked(either, hooks, gradients=False):
        read_answer(either, batch)
    for site in WRITING:
        for neuron in (0, 5, 15):
            direction, _ = site_named(site).output_direction(either, 1, neuron)
            assert direction is not None
            expected = activations[site][:, -1, neuron] * direction.detach().norm()
            assert torch.allclose(scored.scores[site][:, 1, -1, neuron], expected, rtol=1e-5)


@pytest.mark.parametrize("site", STEERING)
def test_what_writes_nothing_has_no_weight_norm(model, rows, passes, site):
    ct.sites.measure_sites(model)
    passes.clear()
    with pytest.raises(InvalidInputError, match=rf"at {re.escape(site)} have no output weights"):
        attribute(model, rows, "activation_x_weight_norm", sites=("mlp.hook_post", site))
    assert not passes


def test_no_target_is_differentiated(model, rows):
    with pytest.raises(InvalidInputError, match="'log_probability' and 'activation_x_weight_norm'"):
        attribute(model, rows, "activation_x_weight_norm", WRITING, target="log_probability")


# ---------------------------------------------------------------- AtP*


@pytest.mark.parametrize("key_value_heads", [2, 4])
def test_atp_star_equals_the_naive_loops(scores_of, folders, key_value_heads):
    batch, scored = scores_of("atp_star", key_value_heads)
    twin = AtpStarLlama(folders[key_value_heads])
    for line in batch.mask.sum(1).argsort()[:2].tolist():  # the shortest: most padding
        twin.seen.clear()
        seen = traced(twin, batch, line)
        for site in STEERING:
            for layer in range(3):
                naive = pooled(seen.probability, twin.drops(seen, site, layer))
                assert max_error(scored.scores[site][line, layer], naive) < EXACT


def test_atp_star_is_gradient_x_activation_elsewhere(scores_of):
    _, plain = scores_of("gradient_x_activation")
    _, corrected = scores_of("atp_star")
    assert list(corrected.scores) == list(SITES)
    for site in SITES:
        if site in STEERING:
            assert max_error(corrected.scores[site], plain.scores[site]) > 0.01
        else:
            assert torch.equal(corrected.scores[site], plain.scores[site])


@pytest.mark.parametrize("site", STEERING)
def test_one_site_alone_scores_the_same(scores_of, site):
    _, both = scores_of("atp_star")
    _, alone = scores_of("atp_star", sites=(site,))
    assert list(alone.scores) == [site]
    assert max_error(alone.scores[site], both.scores[site]) < EXACT


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_atp_star_in_other_types(scores_of, dtype):
    _, exact = scores_of("atp_star")
    _, scored = scores_of("atp_star", dtype=dtype)
    for site in STEERING:
        pair = torch.stack([exact.scores[site].flatten(), scored.scores[site].double().flatten()])
        # bfloat16 keeps 8 bits of weights, activations and gradients: about 1 % each
        assert torch.corrcoef(pair)[0, 1] > (1 - 1e-9 if dtype == "float32" else 0.99)


def one_layer_of_attention(folder, tokenizer):
    """Logits depend on the pattern almost linearly, and the pattern is all but decided."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        factors = {"down_proj": 0.0, "o_proj": 0.002, "q_proj": 3.0, "k_proj": 3.0}
        for name, weight in model.named_parameters():
            weight.mul_(factors.get(name.split(".")[-2], 1.0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ct.load_model(folder, backend="hooked", dtype="float64", device="cpu")


def without(model, batch, site, position, neuron):
    """P(y|x) with one neuron at 0 at one position."""

    def zero(activation, hook):
        flat = activation.flatten(2).clone()
        flat[:, position, neuron] = 0
        return flat.view_as(activation)

    with hooked(model, [(hook_name(site, 0), zero)], gradients=False):
        return read_answer(model, batch).probability


@needs_hooked
@pytest.mark.parametrize("site", STEERING)
def test_where_the_softmax_is_saturated_only_atp_star_predicts_the_ablation(
    tmp_path, make_tokenizer, rows, site
):
    model = one_layer_of_attention(tmp_path, make_tokenizer())
    batch = batches(model, rows.select([3]))[0]
    scores = {
        method: METHODS[method](model, batch, (site,), EACH_POSITION, "probability").scores[site]
        for method in ("atp_star", "gradient_x_activation")
    }
    before = read_answer(model, batch).probability.detach()
    n_positions, n_neurons = scores["atp_star"].shape[2:]
    true = torch.stack(
        [
            torch.stack(
                [before - without(model, batch, site, i, neuron) for neuron in range(n_neurons)]
            )
            for i in range(n_positions)
        ]
    )[..., 0]
    errors = {
        method: float((each[0, 0] - true).abs().sum() / true.abs().sum())
        for method, each in scores.items()
    }
    assert errors["atp_star"] < 0.05
    assert errors["gradient_x_activation"] > 0.5


def a_batch():
    tokens = torch.randint(5, 300, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    tokens[0, :3], mask[0, :3] = 0, False
    return Batch(
        tokens=tokens, mask=mask, answers=torch.tensor([7, 9]), cultures=("", ""), ids=("a", "b")
    )


def family_model(name, folder, tokenizer):
    save(name, folder, tokenizer)
    return ct.load_model(folder, backend="hooked", dtype="float64", device="cpu")


def drop_by_hand(model, batch, site, layer, position, neuron):
    """(pattern - pattern') . dT/dpattern, with the pattern' that the model itself computes."""
    patterns = []

    def keep(pattern, hook):
        patterns.append(pattern.detach().requires_grad_())
        return patterns[-1]

    def zero(activation, hook):
        flat = activation.flatten(2).clone()
        flat[:, position, neuron] = 0
        return flat.view_as(activation)

    pattern_name = hook_name("attn.hook_pattern", layer)
    with hooked(model, [(pattern_name, keep)], gradients=True):
        read_answer(model, batch).value.sum().backward()
    with hooked(model, [(hook_name(site, layer), zero), (pattern_name, keep)], gradients=True):
        read_answer(model, batch)
    before, after = patterns
    assert before.grad is not None
    model.zero_grad()
    return ((before - after) * before.grad).detach().sum((1, 2, 3))


# norms of heads, windows, soft caps, biases of distance, clipping, parts of heads rotated, or none
@needs_hooked
@pytest.mark.parametrize(
    "family",
    [
        *("qwen3", "gemma-3-caps", "gemma-2-tight-caps", "mistral", "gpt-neo", "bloom", "olmo"),
        *("pythia", "gpt2", "gpt-j", "phi-4-mini", "falcon3", "llama-3.1"),
    ],
)
def test_patterns_are_those_that_the_model_computes(tmp_path, make_tokenizer, family):
    model = family_model(family, tmp_path, make_tokenizer())
    batch = a_batch()
    scored = METHODS["atp_star"](model, batch, STEERING, EACH_POSITION, "probability")
    for site in STEERING:
        scores = scored.scores[site]
        for layer, position, neuron in ((0, 4, 0), (1, 8, 3), (1, 11, 15), (0, 11, 5), (1, 2, 7)):
            by_hand = drop_by_hand(model, batch, site, layer, position, neuron)
            difference = (scores[:, layer, position, neuron] - by_hand).abs().max()
            assert difference < EXACT * scores.abs().max()
            assert scores.abs().max() > 0


@needs_hooked
@pytest.mark.parametrize("family", ["olmo-2", "gpt-oss"])
def test_patterns_that_cannot_be_recomputed_are_refused(tmp_path, make_tokenizer, family):
    save(family, tmp_path, make_tokenizer())
    model = ct.load_model(tmp_path, backend="hooked", device="cpu")
    said = {"olmo-2": "norms over all heads of a query together", "gpt-oss": "attention sinks"}
    with pytest.raises(InvalidInputError, match=f"'atp_star', and this model has {said[family]}"):
        check_attention(model, FAMILIES[family].attention_sites)
    check_attention(model, ("attn.hook_v",))


def test_a_bridge_is_refused_for_queries_and_keys_only(loaded, rows):
    bridge = loaded(2, "bridge", "float32")
    with pytest.raises(
        InvalidInputError, match=r"'atp_star', which recomputes .* backend='hooked'"
    ):
        attribute(bridge, rows, "atp_star")
    scores = attribute(bridge, rows, "atp_star", ("attn.hook_v",))
    plain = attribute(bridge, rows, "gradient_x_activation", ("attn.hook_v",))
    assert torch.equal(scores.total("attn.hook_v"), plain.total("attn.hook_v"))


def naive_softmax_drop(scores, changed, gradient):
    return float(((scores.softmax(-1) - changed.softmax(-1)) * gradient).sum())


@pytest.mark.parametrize("gap", [0.1, 5.0, 30.0, 90.0])
def test_a_saturated_key_gives_way(gap):
    """In float32, where 1 - p would be 0: the first key has all of the attention and loses it."""
    scores = torch.tensor([gap, 0.0, -1.0, -torch.inf])
    gradient = torch.tensor([1.0, 0.25, 0.5, 100.0])
    change = torch.tensor([-gap - 3.0, 0.0, 0.0, 0.0])
    pattern = scores.softmax(-1)[None, None, None]
    expected = naive_softmax_drop(scores.double(), (scores + change).double(), gradient.double())
    by_key = key_drop(pattern, gradient[None, None, None])(change[None, None, None])
    by_query = query_drop(pattern, gradient[None, None, None])(change[None, None, None])
    assert by_key[0, 0, 0].item() == pytest.approx(expected, rel=1e-5)
    assert by_query[0, 0, 0].item() == pytest.approx(expected, rel=1e-5)
    assert by_key[0, 0, 1:].tolist() == [0.0, 0.0, 0.0]


def test_a_query_with_a_single_key_has_no_choice():
    pattern, gradient = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[3.0, 7.0]]]])
    change = torch.tensor([[[[-50.0, 50.0]]]])
    assert not key_drop(pattern, gradient)(change).any()
    assert not query_drop(pattern, gradient)(change).any()
    assert not key_drop(0 * pattern, gradient)(change).any()  # padding attends nowhere


# ---------------------------------------------------------------- all of them


def attribute(model, rows, method, sites=ct.DEFAULT_SITES, **options):
    return ct.attribute(model, rows, method=method, sites=sites, progress=False, **options)


@pytest.mark.parametrize("method", NEW)
def test_a_data_set_is_scored_whatever_its_batches(model, rows, method):
    options = {"sites": ("attn.hook_v", *(() if "norm" in method else STEERING)), "pool": "sum"}
    together = attribute(model, rows, method, **options)
    apart = attribute(model, rows, method, **options, token_budget=12)
    assert together.source["method"] == method
    for site in options["sites"]:
        assert max_error(apart.total(site), together.total(site)) < EXACT


@pytest.mark.parametrize("method", NEW)
def test_methods_leave_no_hook_and_no_gradient(model, rows, n_hooks, method):
    before = n_hooks(model)
    attribute(model, rows.select([0]), method, ("attn.hook_v",))
    assert n_hooks(model) == before
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("method", NEW)
def test_unknown_sites_are_named(model, rows, method):
    with pytest.raises(UnknownNameError, match=r"'attn.hook_x' is not a known site|not a site"):
        attribute(model, rows, method, ("attn.hook_x",))


def test_the_shell_offers_every_method(tmp_path):
    choices = ", ".join(map(repr, METHODS))
    shell = ["score", "atlas", "atlas:test", "--out", str(tmp_path / "s.safetensors")]
    result = CliRunner().invoke(app, [*shell, "--method", "atp"])
    assert result.exit_code == 2
    assert f"method is 'atp'; choose one of {choices}." in result.output
    (option,) = get_args(Method)[1:]
    assert option.help.endswith(f": {', '.join(METHODS)}.")
