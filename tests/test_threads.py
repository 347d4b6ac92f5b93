"""Threads that use one model at once get what they would get one after the other, to the bit."""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch

import culnig_tl as ct
from culnig_tl import hooked_model
from culnig_tl.errors import InvalidInputError
from culnig_tl.sites import SITES

N_ROUNDS = 5
NEURONS = [
    ct.NeuronSet.of({"mlp.hook_post": [(layer, neuron) for neuron in range(0, 64, step)]})
    for layer, step in ((0, 1), (1, 2), (2, 3))
]


@pytest.fixture(autouse=True)
def switches_often() -> Iterator[None]:
    """Threads take turns a hundred times more often than usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 100)
    yield
    sys.setswitchinterval(interval)


def at_once(*calls: Callable) -> list:
    """What each call returns, all of them begun at the same moment in threads of their own."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def assert_same(one, other) -> None:
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    elif isinstance(one, ct.NeuronScores):
        assert all(torch.equal(one.values[site], other.values[site]) for site in one.sites)
    else:
        assert one == other


def test_each_thread_gets_the_answers_of_its_own_neurons(either, rows, n_hooks):
    calls = [lambda part=part: ct.evaluate(either, rows, neurons=part) for part in NEURONS]
    alone = [call() for call in calls]
    assert len({tuple(frame["probability"]) for frame in alone}) == len(NEURONS)
    before = n_hooks(either)
    for _ in range(N_ROUNDS):
        for one, other in zip(at_once(*calls), alone, strict=True):
            assert_same(one, other)
    assert n_hooks(either) == before


@pytest.mark.filterwarnings("ignore:Integrated gradients do not add up")  # of two steps
@pytest.mark.parametrize(
    ("backend", "dtype"), [("hooked", "bfloat16"), ("bridge", "float32")], ids=["hooked", "bridge"]
)
def test_scores_answers_and_cards_at_once_are_those_of_one_after_the_other(
    loaded, rows, backend, dtype
):
    """In half precision the unembedding is replaced, by layer the blocks below are; weights that
    ask for a gradient are frozen for each pass."""
    model = loaded(2, backend, dtype)
    options = {"method": "integrated_gradients", "steps": 2, "path": "layer", "progress": False}
    calls = [
        lambda: ct.attribute(model, rows, progress=False),
        lambda: ct.attribute(model, rows, sites=["attn.hook_v"], **options),
        lambda: ct.evaluate(model, rows, neurons=NEURONS[0]),
        lambda: ct.inspect_neuron(model, rows, "L0.mlp.hook_post.3").questions,
        lambda: ct.inspect_prompt(model, rows[3]).neurons,
    ]
    model.requires_grad_(True)
    alone = [call() for call in calls]
    for _ in range(2):
        for one, other in zip(at_once(*calls), alone, strict=True):
            assert_same(one, other)
    assert all(weight.requires_grad for _, weight in model.named_parameters())
    assert "forward" not in vars(model.unembed)
    assert not any("forward" in vars(block) for block in model.blocks)
    model.requires_grad_(False)


@pytest.mark.filterwarnings("ignore:Integrated gradients do not add up")  # of two steps
def test_a_model_is_measured_right_when_threads_meet_it_at_once(folders, rows):
    options = {"method": "integrated_gradients", "steps": 2, "progress": False}
    models = [ct.load_model(folders[2], backend="hooked") for _ in range(2)]
    scores = [ct.attribute(models[0], rows, sites=[site], **options) for site in SITES]
    calls = [
        lambda site=site: ct.attribute(models[1], rows, sites=[site], **options) for site in SITES
    ]
    for one, other in zip(at_once(*calls), scores, strict=True):
        assert_same(one, other)


def test_a_thread_waits_for_a_block_that_is_open_in_another(model, rows, monkeypatch):
    alone, waits, words = ct.evaluate(model, rows), threading.Event(), []
    monkeypatch.setattr(hooked_model, "_SECONDS_UNTIL_A_WARNING", 0)
    monkeypatch.setattr(
        hooked_model._LOG, "warning", lambda text, *names: (words.append(text % names), waits.set())
    )
    with ThreadPoolExecutor(1, thread_name_prefix="second") as pool:
        with ct.scaled_neurons(model, NEURONS[0]):
            answers = pool.submit(ct.evaluate, model, rows)
            scaled = ct.evaluate(model, rows)
            assert waits.wait(60)
            assert not answers.done()
        assert_same(answers.result(), alone)
    assert words[0].startswith("thread 'second_0' waits for thread 'MainThread', which has set")
    assert not scaled["probability"].equals(alone["probability"])


def test_a_block_may_be_left_in_another_thread(model, rows, n_hooks):
    alone, before = ct.evaluate(model, rows), n_hooks(model)
    block = ct.scaled_neurons(model, NEURONS[0])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(block.__enter__).result()
        assert n_hooks(model) > before
        block.__exit__(None, None, None)
        assert n_hooks(model) == before
        assert_same(pool.submit(ct.evaluate, model, rows).result(), alone)
    assert_same(ct.evaluate(model, rows), alone)


def test_a_generator_that_is_dropped_in_another_thread_gives_the_model_back(model, rows):
    alone = ct.evaluate(model, rows)

    def frames():
        with ct.scaled_neurons(model, NEURONS[0]):
            yield ct.evaluate(model, rows)

    generator = frames()
    thread = threading.Thread(target=next, args=(generator,))
    thread.start()
    thread.join()
    generator.close()
    assert_same(ct.evaluate(model, rows), alone)


def test_a_thread_that_ends_inside_of_a_block_is_named(model, rows):
    block = ct.scaled_neurons(model, NEURONS[0])
    thread = threading.Thread(target=block.__enter__, name="lost")
    thread.start()
    thread.join()
    with pytest.raises(InvalidInputError, match=r"Thread 'lost' has ended inside of a block.*kv2"):
        ct.evaluate(model, rows)
    block.__exit__(None, None, None)
    assert len(ct.evaluate(model, rows)) == len(rows)


def test_an_error_in_one_thread_does_not_hold_the_others_up(model, rows):
    def fail():
        with ct.scaled_neurons(model, NEURONS[0]):
            raise RuntimeError("inside")

    def failing():
        with pytest.raises(RuntimeError, match="inside"):
            fail()

    alone = ct.evaluate(model, rows)
    for _ in range(N_ROUNDS):
        *_, frame = at_once(failing, failing, lambda: ct.evaluate(model, rows))
        assert_same(frame, alone)


def test_two_models_do_not_wait_for_each_other(loaded, rows):
    one, other = loaded(2), loaded(4)
    with ThreadPoolExecutor(1) as pool, ct.scaled_neurons(one, NEURONS[0]):
        frame = pool.submit(ct.evaluate, other, rows).result(timeout=300)
    assert_same(frame, ct.evaluate(other, rows))
