"""Importing and using the package leaves the process as it was, but for what others do anyway.

Each script runs in a process of its own. ``BASELINE`` is the import of the libraries alone; the
package's own import and use are compared with what that leaves.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import culnig_tl as ct

STATE = """
import gc, locale, logging, os, random, signal, sys, warnings


def state():
    root = logging.getLogger()
    seen = {
        "root logger": [root.level, logging.root.manager.disable, *map(repr, root.handlers)],
        "warnings": [*map(repr, warnings.filters), warnings.showwarning.__qualname__],
        "environment": dict(os.environ),
        "random": hash(random.getstate()),
        "signals": {
            str(number): repr(signal.getsignal(number)) for number in signal.valid_signals()
        },
        "path": sys.path[:],
        "hooks": [sys.excepthook.__name__, sys.displayhook.__name__, sys.unraisablehook.__name__],
        "limits": [sys.getrecursionlimit(), sys.getswitchinterval(), gc.get_threshold()],
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "matplotlib": "matplotlib" in sys.modules,
    }
    if "torch" in sys.modules:
        import numpy, torch

        numbers = numpy.random.get_state()
        seen |= {
            "numpy": [hash(numbers[1].tobytes()), numbers[2], repr(numpy.geterr())],
            "numpy printing": repr(numpy.get_printoptions()),
            "torch numbers": hash(torch.random.get_rng_state().numpy().tobytes()),
            "torch threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
            "torch defaults": [str(torch.get_default_dtype()), str(torch.get_default_device())],
            "torch modes": [
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch.are_deterministic_algorithms_enabled(),
                torch.get_float32_matmul_precision(),
                torch.backends.cudnn.benchmark,
                torch.backends.cuda.matmul.allow_tf32,
            ],
            "torch printing": repr(torch._tensor_str.PRINT_OPTS),
        }
    if "datasets" in sys.modules:
        import datasets, pandas, plotly.io, transformers
        from huggingface_hub.utils import are_progress_bars_disabled

        seen |= {
            "transformers": [
                transformers.logging.get_verbosity(),
                transformers.utils.logging.is_progress_bar_enabled(),
            ],
            "datasets": [datasets.logging.get_verbosity(), datasets.is_progress_bar_enabled()],
            "hub": are_progress_bars_disabled(),
            "pandas": pandas.describe_option(_print_desc=False),
            "plotly": [plotly.io.templates.default, plotly.io.renderers.default],
        }
    return seen
"""

IMPORT_LIBRARIES = """
import accelerate.utils.memory, datasets, numpy, pandas, plotly.graph_objects, plotly.io
import plotly.offline, plotly.subplots, torch, transformers
"""

USE = """
model = ct.load_model(backend=backend)
rows = ct.load_benchmark("atlas", split="test", limit=8)
scores = ct.attribute(model, rows, progress=False)
neurons = ct.culture_general(scores)
ct.evaluate(model, rows, neurons=neurons)
sets = {"original": None, "general": neurons}
table = ct.compare(model, {"a": rows}, sets, progress=False)
ct.inspect_neuron(model, rows, "L0.mlp.hook_post.3").to_html("card.html")
ct.inspect_prompt(model, rows[0])
ct.figures.layer_heatmap(scores)
ct.dose_response(model, {"a": rows}, neurons, progress=False)
parts = {
    part: ct.load_benchmark(name, split="identify", limit=12)
    for part, name in (
        ("cultural", "atlas"), ("control", "atlas-control"), ("recognition", "atlas-countries")
    )
}
run = ct.culnig(
    model, out="run", benchmarks={"a": rows}, n_random=1, n_cards=1, progress=False, **parts
)
run.report()
"""


def printed(tmp_path: Path, script: str) -> Any:
    """What a process of its own prints as its last line."""
    package = str(Path(ct.__file__).parents[1])
    environment = {name: os.environ[name] for name in os.environ if "TORCH" not in name}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": package, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


CHANGES = """

def changes(before, after):
    return {name: [before[name], after[name]] for name in before if before[name] != after[name]}
"""

ALONE = ("root logger", "warnings", "environment", "signals", "path", "hooks", "limits")
"""What does not differ from one process to the next."""


def test_importing_the_package_sets_nothing_that_its_libraries_do_not(tmp_path):
    script = f"""
{STATE}{IMPORT_LIBRARIES}{CHANGES}
state()  # asking plotly for its renderer imports IPython
before = state()
import culnig_tl
import json
print(json.dumps(changes(before, state())))
"""
    assert printed(tmp_path, script) == {}


def test_the_package_imported_first_leaves_what_its_libraries_leave(tmp_path):
    """Without ``transformer_lens``: what its import sets is put back."""
    states = [
        printed(tmp_path, f"{STATE}{first}\nimport json\nprint(json.dumps(state()))")
        for first in (IMPORT_LIBRARIES, "\nimport culnig_tl\n", "\nimport transformer_lens\n")
    ]
    libraries, package, lens = ({name: each[name] for name in ALONE} for each in states)
    assert package == libraries
    assert lens["environment"] != libraries["environment"], "the fence is no longer needed"


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_using_the_package_changes_nothing(tmp_path, backend):
    script = f"""
{STATE}{CHANGES}
import culnig_tl as ct
import json
import plotly.graph_objects
plotly.graph_objects.Figure()  # plotly's first figure has it filter warnings about itself
state()
before, backend = state(), {backend!r}
{USE}
print(json.dumps(changes(before, state())))
"""
    assert printed(tmp_path, script) == {}
    assert (tmp_path / "run" / "report.html").is_file()


def test_transformer_lens_is_imported_behind_the_fence_only():
    package = Path(ct.__file__).parent
    statements = ("\nfrom transformer_lens", "\nimport transformer_lens")
    unfenced = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(each in path.read_text(encoding="utf-8") for each in statements)
    ]
    assert unfenced == []
