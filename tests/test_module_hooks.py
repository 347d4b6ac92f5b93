"""Hooks on plain transformers models do what ``scaled_neurons`` does on models with hook points.

Places are compared with those that tests/families.py finds on its own.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, PLAIN_MLP, _blocks, _place
from registries import restored
from torch import Tensor
from transformers import AutoModelForCausalLM, BertConfig, BertModel

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError
from culnig_tl.models import find_places, outline
from culnig_tl.neurons import NeuronSet
from culnig_tl.sites import SITES, Site, no_direction, register, site_shape

# Separate, fused and normalised projections; Conv1D; interleaved heads; a gate in one matrix.
NAMES = ("llama", "qwen3", "phi-4", "gemma-3", "gpt2", "pythia", "glm")
CASES = [(name, backend) for name in NAMES for backend in FAMILIES[name].backends]
SINGLE = 1e-5  # float32 rounding, of logits between 1 and 100


@pytest.fixture(scope="module")
def hf_model_of(folder_of: Callable[[str], Path]) -> Callable[[str], Any]:
    @cache
    def read(family: str) -> Any:
        folder = folder_of(family)
        return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()

    return read


def prompt() -> Tensor:
    return torch.arange(3, 15)[None] * 17 % 300


def half_of(model: Any, sites: Any, seed: int = 1) -> NeuronSet:
    """Every second neuron of every layer, at random."""
    generator = torch.Generator().manual_seed(seed)
    listed = {}
    for site in sites:
        n_layers, width = site_shape(model, site)
        listed[site] = [
            (layer, int(index))
            for layer in range(n_layers)
            for index in torch.randperm(width, generator=generator)[: width // 2]
        ]
    return NeuronSet.of(listed)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    made = model(prompt())
    made = getattr(made, "logits", made)
    return made - made.mean(-1, keepdim=True)


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


def assert_no_hooks(hf_model: Any) -> None:
    for module in hf_model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


# ---------------------------------------------------------------- where neurons are


@pytest.mark.parametrize("name", [*NAMES, "olmo-2", "mpt", "falcon-7b", "codegen", "bloom", "opt"])
def test_places_are_those_that_the_families_find(name: str) -> None:
    hf_model = AutoModelForCausalLM.from_config(FAMILIES[name].config)
    for site, places in find_places(hf_model, FAMILIES[name].sites).items():
        for layer, place in enumerate(places):
            try:
                module, is_input, columns = _place(_blocks(hf_model)[layer], site)
            except (AttributeError, StopIteration):  # a layout that these do not look for
                continue
            assert hf_model.get_submodule(place.module) is module
            assert is_input == (place.side == "input")
            every = torch.arange(module.weight.shape[place.axis])
            assert torch.equal(place.channels, every[columns])


@pytest.mark.parametrize("name", ["mpt", "falcon-7b", "codegen", "bloom", "starcoder"])
def test_the_parts_of_a_fused_layer_are_all_of_it(name: str) -> None:
    hf_model: Any = outline(FAMILIES[name].config)
    sites = ("attn.hook_q", "attn.hook_k", "attn.hook_v")
    first = [find_places(hf_model, [site])[site][0] for site in sites]
    fused = hf_model.get_submodule(first[0].module)
    channels = torch.cat([place.channels for place in first])
    assert channels.sort().values.tolist() == list(range(fused.weight.shape[first[0].axis]))


def test_looking_for_places_changes_nothing() -> None:
    hf_model = AutoModelForCausalLM.from_config(FAMILIES["phi-4"].config)
    modules = dict(hf_model.named_modules())
    before = {name: weight.clone() for name, weight in hf_model.state_dict().items()}
    state = torch.get_rng_state()
    find_places(hf_model, FAMILIES["phi-4"].sites)
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(hf_model.named_modules()) == modules
    for name, weight in hf_model.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("mixtral", "mlp.hook_post"),
        ("deepseek-v3", "attn.hook_q"),  # latent: what is scaled is no output of a layer
        ("gpt2", "mlp.hook_pre_linear"),
        ("modernbert-decoder", "mlp.hook_pre"),
        ("qwen3-next", "attn.hook_v"),
        ("phi-moe", "attn.hook_q"),
        ("mamba", "mlp.hook_post"),
        ("llama", "hook_resid_post"),
    ],
)
def test_what_has_no_place_is_refused_by_name(name: str, site: str) -> None:
    hf_model = outline(FAMILIES[name].config)
    with pytest.raises(InvalidInputError, match=f"{site}.* {type(hf_model).__name__} is not known"):
        find_places(hf_model, [site])


def test_only_models_of_transformers_have_places(model: Any) -> None:
    with pytest.raises(InvalidInputError, match="HookedTransformer is no model of transformers"):
        find_places(model, ["mlp.hook_post"])
    bert = BertModel(BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1))
    with pytest.raises(InvalidInputError, match=r"mlp\.hook_post is in a BertModel is not known"):
        find_places(bert, ["mlp.hook_post"])


# ---------------------------------------------------------------- the intervention


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_hooks_equal_scaled_neurons(
    name: str, backend: Any, folder_of: Any, hf_model_of: Any
) -> None:
    """Site by site and all together, to 1e-5; and they do change the logits."""
    hf_model = hf_model_of(name)
    model = ct.load_model(folder_of(name), backend=backend, device="cpu")
    as_it_is, sites = logits(hf_model), FAMILIES[name].sites
    for chosen in [*([site] for site in sites), sites]:
        neurons = half_of(model, chosen)
        for factor in (0.0, 2.5):
            with neurons.to_hooks(hf_model, factor):
                ours = logits(hf_model)
            with ct.scaled_neurons(model, neurons, factor=factor):
                assert distance(ours, logits(model)) < SINGLE
            assert distance(ours, as_it_is) > 1e-3
    assert_no_hooks(hf_model)


@pytest.fixture
def heads_output() -> Iterator[Site]:
    """The attention's own output, as a site that a user registers."""
    with restored():
        yield register(
            Site(
                "attn.hook_z",
                "attention",
                "z",
                SITES["attn.hook_q"].width,
                no_direction("it is the test's"),
            )
        )


@pytest.mark.parametrize(("name", "backend"), [("qwen3", "bridge"), ("gpt2", "hooked")])
def test_the_output_of_heads_is_the_input_of_their_projection(
    name: str, backend: Any, heads_output: Site, folder_of: Any, hf_model_of: Any
) -> None:
    hf_model = hf_model_of(name)
    model = ct.load_model(folder_of(name), backend=backend, device="cpu")
    neurons = half_of(model, [heads_output.name])
    with neurons.to_hooks(hf_model, 0.5):
        ours = logits(hf_model)
    with ct.scaled_neurons(model, neurons, factor=0.5):
        assert distance(ours, logits(model)) < SINGLE


def test_blocks_within_one_another_multiply(hf_model_of: Any) -> None:
    hf_model = hf_model_of("phi-4")
    neurons = NeuronSet.of({site: [(0, 1), (1, 2)] for site in FAMILIES["phi-4"].sites})
    with neurons.to_hooks(hf_model, 6.0):
        together = logits(hf_model)
    with neurons.to_hooks(hf_model, 2.0), neurons.to_hooks(hf_model, 3.0):
        assert distance(logits(hf_model), together) < SINGLE
    with neurons.to_hooks(hf_model, 2.0), neurons.to_hooks(hf_model, 0.5):
        assert distance(logits(hf_model), logits(hf_model_of("phi-4"))) < SINGLE
    assert_no_hooks(hf_model)


def test_blocks_may_be_left_in_any_order(hf_model_of: Any) -> None:
    hf_model = hf_model_of("llama")
    first, second = (NeuronSet.of({"mlp.hook_post": [(0, index)]}) for index in (1, 2))
    outer, inner = first.to_hooks(hf_model), second.to_hooks(hf_model)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    with second.to_hooks(hf_model):  # twice 0
        expected = logits(hf_model)
    assert distance(logits(hf_model), expected) < SINGLE
    inner.__exit__(None, None, None)
    assert_no_hooks(hf_model)


def test_an_exception_leaves_no_hook(hf_model_of: Any) -> None:
    hf_model = hf_model_of("llama")
    neurons = NeuronSet.of({"mlp.hook_post": [(0, 1)], "attn.hook_v": [(1, 2)]})
    with pytest.raises(ZeroDivisionError), neurons.to_hooks(hf_model):
        _ = 1 / 0
    assert_no_hooks(hf_model)


def test_generation_is_scaled_at_every_step(hf_model_of: Any) -> None:
    """With the key/value cache, token by token as a loop without it."""
    hf_model = hf_model_of("llama")
    neurons = NeuronSet.of({site: [(0, i) for i in range(8)] for site in FAMILIES["llama"].sites})
    tokens = prompt()
    with neurons.to_hooks(hf_model, 0.0), torch.no_grad():
        written = hf_model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=6, do_sample=False,
            eos_token_id=None,
        )  # fmt: skip
        for _ in range(6):
            tokens = torch.cat([tokens, hf_model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(written, tokens)
    plain = hf_model.generate(
        prompt(), attention_mask=torch.ones_like(prompt()), max_new_tokens=6, do_sample=False,
        eos_token_id=None,
    )  # fmt: skip
    assert not torch.equal(written, plain)


def test_gradients_pass_through(hf_model_of: Any) -> None:
    """The gradient of a neuron that is 0 is 0, of its column, and of no other."""
    hf_model = hf_model_of("llama")
    last = hf_model.model.layers[1].mlp.down_proj.weight
    with NeuronSet.of("L1.mlp.hook_post.7").to_hooks(hf_model):
        hf_model(prompt()).logits[:, -1].sum().backward()
    columns = last.grad.abs().sum(0)
    assert columns[7] == 0
    assert columns.count_nonzero() == len(columns) - 1
    hf_model.zero_grad()


@pytest.mark.parametrize(
    ("neurons", "factor", "sentence"),
    [
        ("L2.mlp.hook_post.0", 0.0, "layer 2 .* outside this model, which has 2 layers of 48"),
        ("L0.attn.hook_k.16", 0.0, "Neuron 16 .* 2 layers of 16"),
        ("L0.mlp.hook_post.0", float("nan"), "factor is nan"),
        ("L0.mlp.hook_post.0", 1e39, "factor is 1e[+]39"),
    ],
)
def test_what_cannot_be_scaled_is_refused(
    neurons: str, factor: float, sentence: str, hf_model_of: Any
) -> None:
    hf_model = hf_model_of("llama")
    with pytest.raises(InvalidInputError, match=sentence):
        NeuronSet.of(neurons).to_hooks(hf_model, factor).__enter__()
    assert_no_hooks(hf_model)


def test_a_set_of_a_model_of_another_shape_is_refused(hf_model_of: Any) -> None:
    neurons = NeuronSet.of("L0.mlp.hook_post.0", shapes={"mlp.hook_post": (4, 512)})
    with pytest.raises(InvalidInputError, match=r"4 layers of 512 .* this one has 2 layers of 48"):
        neurons.to_hooks(hf_model_of("llama")).__enter__()


def test_half_types_stay_half(folder_of: Any) -> None:
    hf_model = AutoModelForCausalLM.from_pretrained(folder_of("gpt2"), dtype=torch.bfloat16)
    with NeuronSet.of({site: [(0, 1)] for site in PLAIN_MLP}).to_hooks(hf_model, 0.3):
        assert hf_model(prompt()).logits.dtype == torch.bfloat16
