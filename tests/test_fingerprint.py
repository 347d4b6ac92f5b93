"""A fingerprint is of every bit of a model, its settings and its tokenizer, and of nothing else."""

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import save_tiny_llama, tiny_tokenizer
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from xxhash import xxh3_128

import culnig_tl as ct
from culnig_tl.models import load_model, model_fingerprint
from culnig_tl.models.fingerprint import _dense_pieces, _read


@pytest.fixture(params=["hooked", "bridge"])
def own(request, folders) -> Any:
    """A model that the test may change."""
    return load_model(folders[2], backend=request.param)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.data for name, weight in model.named_parameters()}


def bits(weight: torch.Tensor) -> torch.Tensor:
    """The same memory as whole numbers."""
    return weight.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()])


def bare(module: Any) -> Any:
    """A module with what every function asks of a model, and nothing else."""
    module.cfg, module.tokenizer, module.hook_dict = SimpleNamespace(gated_mlp=False), None, {}
    return module


# ---------------------------------------------------------------- weights


def test_any_single_bit_of_any_weight_changes_it_and_back(own):
    before = model_fingerprint(own)
    assert len(before) == 16
    seen, n_flips = {before}, 0
    for weight in weights(own).values():
        for place in (0, weight.numel() // 2, weight.numel() - 1):
            index = torch.unravel_index(torch.tensor(place), weight.shape)
            bits(weight)[index] ^= 1
            seen.add(model_fingerprint(own))
            bits(weight)[index] ^= 1
            n_flips += 1
    assert len(seen) == 1 + n_flips
    assert model_fingerprint(own) == before


def test_two_weights_exchanged_and_a_matrix_reversed_change_it(own):
    """What a sum of bits beside a sample of values leaves as it was."""
    weight = next(
        weight
        for name, weight in weights(own).items()
        if name.endswith("W_out") or "down_proj" in name
    )
    seen = {model_fingerprint(own)}
    weight[[3, 4]] = weight[[4, 3]]
    seen.add(model_fingerprint(own))
    weight.copy_(weight.flip(0))
    seen.add(model_fingerprint(own))
    weight.copy_(weight.flip(1))
    seen.add(model_fingerprint(own))
    assert len(seen) == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_a_bit_of_any_type_of_weights_changes_it(folders, dtype):
    model = load_model(folders[2], backend="hooked", dtype=dtype)
    before = model_fingerprint(model)
    weight = model.blocks[2].mlp.W_out.data
    bits(weight)[63, 31] ^= 1
    assert model_fingerprint(model) != before


def test_other_weights_have_another(folders):
    first, again = (load_model(folders[2], backend="hooked") for _ in range(2))
    assert model_fingerprint(first) == model_fingerprint(again)
    assert model_fingerprint(load_model(folders[4], backend="hooked")) != model_fingerprint(first)


def test_the_layout_and_the_name_play_no_part(folders):
    model = load_model(folders[2], backend="hooked")
    before = model_fingerprint(model)
    for weight in model.parameters():
        weight.data = weight.data.contiguous()  # as TransformerLens keeps them
    model.cfg.model_name = "the same, elsewhere"
    assert model_fingerprint(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
def test_pieces_are_the_values_in_order(monkeypatch, axes, dtype):
    monkeypatch.setattr("culnig_tl.models.fingerprint._PIECE", 64)
    values = (1000 * torch.rand(5, 6, 7)).to(dtype)
    views = [values.permute(axes), values.permute(axes)[:, 1:4], values.permute(axes)[2].t()]
    for view in [*views, values[:, 3, 2], values[:0].permute(axes), values[1, 1, 1]]:
        pieces = [piece.flatten() for piece in _dense_pieces(view)]
        assert torch.equal(torch.cat(pieces), view.flatten())
        digests = [xxh3_128() for _ in range(2)]
        _read(digests[0], "w", view)
        _read(digests[1], "w", view.clone(memory_format=torch.contiguous_format))
        assert digests[0].digest() == digests[1].digest()


def test_buffers_count_but_for_those_that_a_pass_computes_anew():
    class Rotary(torch.nn.Module):
        def __init__(self, rope_type: str) -> None:
            super().__init__()
            self.rope_type = rope_type
            self.register_buffer("inv_freq", torch.ones(4), persistent=False)

    def changes(rope_type: str) -> bool:
        model = bare(torch.nn.ModuleList([Rotary(rope_type)]))
        before = model_fingerprint(model)
        model[0].inv_freq[2] = 2.0
        return model_fingerprint(model) != before

    assert [changes(kind) for kind in ("default", "llama3", "dynamic", "longrope")] == [
        True,
        True,
        False,
        False,
    ]


# ---------------------------------------------------------------- settings and tokenizer


SETTINGS = {
    "eps": 1e-5,
    "rotary_base": 5e5,
    "act_fn": "gelu",
    "attn_scores_soft_cap": 50.0,
    "output_logits_soft_cap": 30.0,
    "window_size": 16,
    "attn_scale": 3.0,
    "n_ctx": 32,
    "end_tokens": [2, 7],
    "default_prepend_bos": False,
}


def test_settings_that_results_depend_on_change_it(own):
    seen = {model_fingerprint(own)}
    for setting, value in SETTINGS.items():
        setattr(own.cfg, setting, value)
        seen.add(model_fingerprint(own))
    assert len(seen) == 1 + len(SETTINGS)


def test_settings_that_no_result_depends_on_do_not(own):
    before = model_fingerprint(own)
    for setting in ("device", "n_devices", "seed", "loaded_as", "model_name", "tokenizer_name"):
        setattr(own.cfg, setting, "another")
    assert model_fingerprint(own) == before


def test_what_a_bridge_wraps_counts_too(folders):
    model: Any = load_model(folders[2], backend="bridge")
    seen = {model_fingerprint(model)}
    for change in (
        lambda config: config.update({"rms_norm_eps": 1e-3}),
        lambda config: config.rope_parameters.update(rope_theta=5e5),
        lambda config: config.update({"hidden_act": "gelu"}),
    ):
        change(model.original_model.config)
        seen.add(model_fingerprint(model))
    assert len(seen) == 4
    model.original_model.config._name_or_path = "elsewhere"
    assert model_fingerprint(model) in seen


def test_the_epsilon_that_a_norm_holds_counts(own):
    before = model_fingerprint(own)
    norm, name = next(
        (module, name)
        for module in own.modules()
        for name in ("eps", "variance_epsilon")
        if isinstance(vars(module).get(name), float)
    )
    setattr(norm, name, 1e-3)
    assert model_fingerprint(own) != before


def test_the_tokenizer_and_its_template_count(own):
    tokenizer = own.tokenizer
    own = bare(torch.nn.Linear(2, 2))
    own.tokenizer = tokenizer
    seen = {model_fingerprint(own)}
    for change in (
        lambda: setattr(tokenizer, "chat_template", "{{ messages }}"),
        lambda: setattr(tokenizer, "chat_template", "{{ messages }} "),
        lambda: setattr(tokenizer.backend_tokenizer, "normalizer", normalizers.Lowercase()),
        lambda: tokenizer.add_tokens(["culture"]),
        lambda: tokenizer.add_special_tokens({"sep_token": "<sep>"}),
        lambda: setattr(own, "tokenizer", tiny_tokenizer(writes_bos=False)),
        lambda: setattr(own, "tokenizer", None),
    ):
        change()
        seen.add(model_fingerprint(own))
    assert len(seen) == 8


def test_a_tokenizer_without_a_fast_form_counts_too():
    own = bare(torch.nn.Linear(2, 2))

    def slow(**vocab: int) -> Any:
        return SimpleNamespace(get_vocab=lambda: vocab, special_tokens_map={"eos_token": "a"})

    prints = set()
    for vocab in ({"a": 0, "b": 1}, {"a": 1, "b": 0}, {"b": 1, "a": 0}):
        own.tokenizer = slow(**vocab)
        prints.add(model_fingerprint(own))
    assert len(prints) == 2


def test_calls_leave_it_as_it_is(own, rows):
    before = model_fingerprint(own)
    own.tokenizer(["Which drink?", "tea"], padding=True, truncation=True, max_length=8)
    ct.attribute(own, rows, progress=False)
    ct.evaluate(own, rows, neurons=ct.NeuronSet.of("L0.mlp.hook_post.3"))
    assert model_fingerprint(own) == before


# ---------------------------------------------------------------- elsewhere, and again


def test_it_is_the_same_in_another_process_with_other_threads(own, folders):
    backend = "bridge" if hasattr(own, "original_model") else "hooked"
    code = (
        "import sys, torch; torch.set_num_threads(3)\n"
        "from culnig_tl.models import load_model, model_fingerprint\n"
        "print(model_fingerprint(load_model(sys.argv[1], backend=sys.argv[2])))"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(folders[2]), backend],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == model_fingerprint(own)


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_it_is_the_same_after_saving_and_loading(folders, tmp_path, backend):
    copy = tmp_path / "copy"
    AutoModelForCausalLM.from_pretrained(folders[2]).save_pretrained(copy)
    AutoTokenizer.from_pretrained(folders[2]).save_pretrained(copy)
    models = [load_model(path, backend=backend) for path in (folders[2], copy)]
    assert len({model_fingerprint(model) for model in models}) == 1


def test_a_quick_one_sees_what_torch_counts_and_costs_nothing(folders):
    """Asked at every intervention, it trusts torch's counters; written through .data, it does not
    see, and a thorough one does."""
    model = load_model(folders[2], backend="hooked")
    before = model_fingerprint(model, thorough=False)
    weight = model.blocks[0].mlp.W_out
    with torch.no_grad():
        weight[0, 0] += 0.5
    counted = model_fingerprint(model, thorough=False)
    weight.data[0, 0] -= 0.5
    assert before != counted == model_fingerprint(model, thorough=False)
    assert model_fingerprint(model) == before
    model.blocks[0].mlp.W_out = torch.nn.Parameter(weight + 1.0, requires_grad=False)
    assert model_fingerprint(model, thorough=False) not in (before, counted)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        model_fingerprint(model, thorough=False)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.002  # 0.2 ms on an idle core


def test_weights_made_under_inference_mode_have_one_too():
    with torch.inference_mode():
        model = bare(torch.nn.Linear(2, 2))
    assert model_fingerprint(model, thorough=False) == model_fingerprint(model)


def test_a_saved_folder_with_another_setting_has_another(tmp_path):
    folder = save_tiny_llama(tmp_path / "one")
    before = model_fingerprint(load_model(folder))
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"rope_theta": 10000.0', '"rope_theta": 20000.0'))
    assert model_fingerprint(load_model(folder)) != before
