"""Benchmarks, each as rows of the schema in ``questions``.

One module per benchmark, which exports a ``Benchmark``; the catalogue finds them by name. The
embedded model's own questions need no file and no network.

| module | what |
|---|---|
| ``definition`` | what a benchmark is, as a value |
| ``catalogue`` | benchmarks by name, and ``load_benchmark`` |
| ``sample`` | rows of some cultures and topics, and draws |
| ``loading`` | tables of a folder or the hub |
| ``records`` | one line of a table, and what is wrong with it |
| ``paper`` | the benchmarks of the paper |
| the others | one benchmark each, or several of a kind |
"""

from culnig_tl.benchmarks.catalogue import (
    benchmark,
    benchmark_names,
    judged_together,
    load_benchmark,
    measure_of,
    register,
)
from culnig_tl.benchmarks.definition import Benchmark, Measure
from culnig_tl.benchmarks.loading import Hub, Loaded, Source
from culnig_tl.benchmarks.paper import PAPER_BENCHMARKS, paper_rows
from culnig_tl.benchmarks.records import half_of_groups
from culnig_tl.benchmarks.sample import drawn

__all__ = [
    "PAPER_BENCHMARKS",
    "Benchmark",
    "Hub",
    "Loaded",
    "Measure",
    "Source",
    "benchmark",
    "benchmark_names",
    "drawn",
    "half_of_groups",
    "judged_together",
    "load_benchmark",
    "measure_of",
    "paper_rows",
    "register",
]
