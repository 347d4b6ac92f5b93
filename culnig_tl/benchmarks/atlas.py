"""The embedded model's own benchmarks: rows about cultures, and tasks without culture.

Their questions were written for this project; they need no file and no network.
"""

from culnig_tl.atlas import TASK_ROWS
from culnig_tl.benchmarks.definition import Benchmark, Use
from culnig_tl.benchmarks.loading import Loaded


def _benchmark(name: str, use: Use) -> Benchmark:
    return Benchmark(
        name,
        lambda split, source, templates: Loaded(TASK_ROWS[name](split)),
        licence="MIT",
        uses=(use,),
        packaged=True,
    )


CULTURAL = _benchmark("atlas", "cultural")
CONTROL = _benchmark("atlas-control", "control")
COUNTRIES = _benchmark("atlas-countries", "recognition")
COMMONSENSE = _benchmark("atlas-commonsense", "general")
ORDERING = _benchmark("atlas-ordering", "general")
ENTAILMENT = _benchmark("atlas-entailment", "general")
SUMS = _benchmark("atlas-sums", "general")
"""The model was not trained on it: its half ``"identify"`` is there to fine-tune on."""
