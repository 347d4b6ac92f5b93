"""Where TransformerLens goes wrong without a word, and what this package does about it.

Each test shows the trap itself first, so that it says when a later version of TransformerLens no
longer has it. The models are random and made here; ../shared/data is not needed.
"""

import subprocess
import sys
from functools import partial

import pytest
import torch
from families import save
from reference import max_error, norm_error
from transformer_lens.model_bridge import TransformerBridge

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.logits import last_logits
from culnig_tl.models import load_model
from culnig_tl.questions import Batch, batches
from culnig_tl.sites import SITES as KNOWN_SITES
from culnig_tl.sites import hook_name, site_shape

SITES = list(KNOWN_SITES)
MLP_SITES = [name for name, site in KNOWN_SITES.items() if site.pool == "mlp"]


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory, make_tokenizer):
    """A folder with a Gemma 3 that also sees, and the model in it."""
    folder = tmp_path_factory.mktemp("multimodal") / "model"
    return folder, save("gemma-3-multimodal", folder, make_tokenizer())


@pytest.fixture
def batch(model, rows):
    """Six prompts of unlike length, padded on the left."""
    return batches(model, rows)[0]


def answers(model, batch: Batch, fwd_hooks) -> torch.Tensor:
    """The probability of each answer, differentiable from the first block on."""
    start = (hook_name("hook_resid_pre", 0), lambda residual, hook: residual.requires_grad_())
    with model.hooks(fwd_hooks=[start, *fwd_hooks]):
        logits = model(batch.tokens, attention_mask=batch.mask.long())[:, -1]
    return logits.softmax(-1).gather(1, batch.answers[:, None])


def test_left_padding_without_a_mask_changes_the_answer(either, batch):
    padded = ~batch.mask.all(1)
    right = last_logits(either, batch.tokens, batch.mask)
    wrong = either(batch.tokens)[:, -1]
    off = (wrong.softmax(-1) - right.softmax(-1)).abs().sum(-1) / 2
    assert off[padded].min() > 0.1
    for line in padded.nonzero().flatten().tolist():
        alone = either(batch.tokens[line][batch.mask[line]][None])[0, -1]
        assert norm_error(right[line], alone) < 1e-5


@pytest.mark.parametrize("no_processing", [True, False])
def test_compatibility_mode_has_no_gradient_and_is_refused(folders, batch, no_processing):
    model = load_model(folders[2], backend="bridge")
    assert isinstance(model, TransformerBridge)
    model.enable_compatibility_mode(no_processing=no_processing)
    gradients = []

    def watch(activation, hook):
        activation.register_hook(gradients.append)

    answers(model, batch, [(hook_name("mlp.hook_post", 1), watch)]).sum().backward()
    assert gradients[0].isnan().any()
    with pytest.raises(InvalidInputError, match=r"compatibility mode.*take the model"):
        ct.attribute(model, [batch], progress=False)


def test_a_hook_of_a_bridge_has_another_name_than_it_was_registered_under(loaded, batch):
    model, names = loaded(2, "bridge", "float32"), {}

    def note(activation, hook, *, site):
        names[site] = hook.name

    hooks = [(hook_name(site, 1), partial(note, site=site)) for site in SITES]
    with model.hooks(fwd_hooks=hooks):
        model(batch.tokens)
    assert set(names) == set(SITES)
    assert all(names[site] != hook_name(site, 1) for site in SITES)
    scores = ct.attribute(model, [batch], sites=SITES, progress=False)
    expected = ct.attribute(loaded(2, "hooked", "float32"), [batch], sites=SITES, progress=False)
    assert all(norm_error(scores.values[s], expected.values[s]) < 1e-5 for s in SITES)


@pytest.mark.parametrize("site", ["attn.hook_q", "attn.hook_k", "attn.hook_v"])
def test_retain_grad_is_inert_on_the_views_that_a_bridge_hooks(loaded, batch, site):
    model, kept = loaded(2, "bridge", "float32"), []

    def keep(activation, hook):
        activation.retain_grad()
        kept.append(activation)

    answers(model, batch, [(hook_name(site, 1), keep)]).sum().backward()
    assert kept[0].grad is None
    scores = ct.attribute(model, [batch], sites=(site,), progress=False)
    assert bool((scores.values[site] != 0).flatten(2).any(2).all())


def test_nothing_is_ever_installed(multimodal, monkeypatch):
    """boot_transformers answers a missing image processor with ``pip install torchvision``."""
    folder, plain = multimodal
    started = []

    def start(command, *args, **options):
        started.append(command)
        raise OSError("this test starts no processes")

    monkeypatch.setitem(sys.modules, "torchvision", None)  # not installed
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(subprocess, "check_call", start)
    TransformerBridge.boot_transformers(str(folder), hf_model=plain, device="cpu")
    assert any("install" in command for command in started), "the trap is gone"
    started.clear()
    for backend in ("hooked", "bridge", "auto"):
        model = load_model(folder, backend=backend)
        assert site_shape(model, "mlp.hook_post") == (2, 48)
    assert started == []


def test_a_mixture_of_experts_names_the_residual_stream_an_mlp(tmp_path, make_tokenizer, batch):
    save("mixtral", tmp_path / "model", make_tokenizer())
    model, widths = load_model(tmp_path / "model", backend="bridge"), []
    with model.hooks(
        fwd_hooks=[(hook_name("mlp.hook_post", 0), lambda a, hook: widths.append(a.shape[-1]))]
    ):
        model(batch.tokens)
    assert widths == [model.cfg.d_model] != [model.cfg.d_mlp]
    with pytest.raises(UnknownNameError, match="mixtures of 4 experts, whose neurons are no site"):
        site_shape(model, "mlp.hook_post")


@pytest.mark.parametrize("name", ["llama-3.1", "gemma-3", "pythia", "phi-4"])
def test_a_float64_model_has_no_island_of_float32(tmp_path, make_tokenizer, batch, name):
    """Every activation is float64, and so is what it holds: it changes below float32's rounding."""
    save(name, tmp_path / "model", make_tokenizer())
    model = load_model(tmp_path / "model", backend="hooked", dtype="float64")
    _, cache = model.run_with_cache(batch.tokens, attention_mask=batch.mask.long())
    assert {value.dtype for value in cache.values()} == {torch.float64}
    computed = [value for place, value in cache.items() if place.startswith("blocks.1.")]
    attention = [block.attn for block in model.blocks if hasattr(block.attn, "rotary_cos")]
    for tensor in (*computed, *(each.rotary_cos for each in attention)):
        finite = tensor[tensor.isfinite()]
        assert max_error(finite.float(), finite) > 1e-10
