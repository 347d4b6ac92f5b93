"""Logits are read at one place: as a matrix, in float32, and never when they are no numbers."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError
from culnig_tl.logits import last_logits
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import batches, questions

NEURONS = NeuronSet.of({"mlp.hook_post": [(0, 3), (1, 5)]})


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_the_unembedding_reads_a_contiguous_matrix(loaded, rows, backend, monkeypatch):
    """A view ``[:, -1:]`` of the residual stream would have torch copy W_U once per prompt."""
    model, inputs = loaded(2, backend, "float32"), []
    (batch,) = batches(model, rows)
    linear = F.linear

    def watched(residual, weight, bias=None):
        if weight.shape[0] == model.cfg.d_vocab:
            inputs.append(residual)
        return linear(residual, weight, bias)

    monkeypatch.setattr(F, "linear", watched)
    last_logits(model, batch.tokens, batch.mask)
    assert [tuple(each.shape) for each in inputs] == [(len(rows), 1, model.cfg.d_model)]
    assert inputs[0].is_contiguous()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_half_precision_is_unembedded_in_float32(loaded, rows, backend, dtype, n_hooks):
    model = loaded(2, backend, dtype)
    (batch,) = batches(model, rows)
    residuals = []
    hooks = n_hooks(model)
    with (
        torch.no_grad(),
        model.hooks(
            fwd_hooks=[("unembed.hook_in", lambda residual, hook: residuals.append(residual))]
        ),
    ):
        logits = last_logits(model, batch.tokens, batch.mask)
    weight = model.W_U.detach()
    expected = residuals[0][:, -1].float() @ weight.float()
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert "forward" not in vars(model.unembed)
    assert n_hooks(model) == hooks
    with torch.enable_grad():  # scores keep the model's own type
        assert last_logits(model, batch.tokens, batch.mask).dtype == model.cfg.dtype


def test_an_exception_leaves_the_unembedding_as_it_was(loaded, rows):
    model = loaded(2, "hooked", "bfloat16")
    (batch,) = batches(model, rows)

    def fail(residual, hook):
        raise RuntimeError("in the middle")

    with (
        torch.no_grad(),
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", fail)]),
        pytest.raises(RuntimeError, match="in the middle"),
    ):
        last_logits(model, batch.tokens, batch.mask)
    assert "forward" not in vars(model.unembed)


def many(rows):
    """Prompts that differ in a word or two: their logits lie close together."""
    words = ["tea", "rice", "bread", "soup", "drink", "Which"]
    return questions(
        [
            {**rows[0], "id": f"{a} {b} {c}", "prompt": f"{a} {b} {c} Answer:"}
            for a in words
            for b in words
            for c in words
        ]
    )


def test_ties_of_bfloat16_are_rare_and_count_by_halves(loaded, rows, make_llama, tmp_path):
    """Logits far from zero and close together, as those of large models are: bfloat16 rounds many
    of them to the same number."""
    folder = make_llama(tmp_path / "model", initializer_range=0.2)
    model = ct.load_model(folder, backend="hooked", dtype="bfloat16", device="cpu")
    model.unembed.b_U.data += 32  # pyright: ignore[reportAttributeAccessIssue]
    prepared = ct.prepare(model, many(rows))
    tied_before = 0
    for batch in prepared.batches:
        with torch.no_grad():
            logits = model(batch.tokens, attention_mask=batch.mask.long())[:, -1]
        best = logits.gather(1, prepared.option_tokens[list(batch.rows)]).topk(2).values
        tied_before += int((best[:, 0] == best[:, 1]).sum())
    frame = ct.evaluate(model, prepared, mode="options")
    best = torch.tensor(frame["probabilities"].tolist()).topk(2).values
    tied_now = int((best[:, 0] == best[:, 1]).sum())
    assert tied_before > 0.05 * len(frame)
    assert tied_now < 0.2 * tied_before


@pytest.mark.parametrize(
    ("backend", "dtype"), [("hooked", "float64"), ("hooked", "bfloat16"), ("bridge", "bfloat16")]
)
def test_options_that_tie_share_their_ranks(loaded, rows, backend, dtype):
    """A model whose unembedding is nothing finds every option equally likely."""
    model = loaded(2, backend, dtype)
    with model.hooks(fwd_hooks=[("unembed.hook_in", lambda residual, hook: residual * 0)]):
        frame = ct.evaluate(model, rows)
    assert set(frame["rank"]) == {2.0}  # of three options: one, two and three on average


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_two_options_that_tie_in_bfloat16_are_half_a_rank_apart_from_one(loaded, rows, backend):
    """The right option ties with another one and both lie before the third, or behind it."""
    model, labels = loaded(2, backend, "bfloat16"), [" A", " B", " C"]
    prepared = ct.prepare(model, questions([{**rows[0], "options": labels, "answer": " A"}]))
    first, tied, third = prepared.option_tokens[0].tolist()

    def level(logits, hook, *, at_third):
        changed = logits.clone()
        changed[..., first] = changed[..., tied] = 1.0
        changed[..., third] = at_third
        return changed

    for at_third, rank in ((0.0, 1.5), (2.0, 2.5), (1.0, 2.0)):
        hook = ("unembed.hook_out", partial(level, at_third=at_third))
        with model.hooks(fwd_hooks=[hook]):
            assert ct.evaluate(model, prepared)["rank"].tolist() == [rank]


def written(model, rows):
    asked = [{**row, "answers": ["tea"], "language": "zh"} for row in rows.to_list()]
    return ct.evaluate_open(model, asked, max_new_tokens=2)


CALLS = {
    "evaluate": ct.evaluate,
    "open": written,
    "options": lambda model, rows: ct.evaluate(model, rows, mode="options"),
    "compare": lambda model, rows: ct.compare(
        model, {"a": rows}, {"original": None, "general": NEURONS}, progress=False
    ),
    "effects": lambda model, rows: ct.culture_effects(model, rows, {"A": NEURONS}, progress=False),
    "doses": lambda model, rows: ct.dose_response(model, {"a": rows}, NEURONS, progress=False),
    "ablation": lambda model, rows: ct.ablation_effects(model, rows, NEURONS, progress=False),
    "card": lambda model, rows: ct.inspect_neuron(model, rows, "L0.mlp.hook_post.3"),
    "prompt": lambda model, rows: ct.inspect_prompt(model, rows[3]),
    "attribute": lambda model, rows: ct.attribute(model, rows, progress=False),
}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", CALLS)
def test_logits_that_are_no_numbers_are_refused_with_the_question(model, rows, name, value):
    """Prompt q3 alone, the longest, gets them."""

    def broken(residual, hook):
        longest = residual.shape[1]
        return residual + (value if longest == 10 else 0.0)

    with (
        model.hooks(fwd_hooks=[("blocks.2.hook_resid_post", broken)]),
        pytest.raises(InvalidInputError, match=r"not finite numbers \(question 'q.'"),
    ):
        CALLS[name](model, rows)
