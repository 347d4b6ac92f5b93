"""The questions of the paper (arXiv 2510.08284), for ``culnig`` and ``culnig-tl paper``.

Neurons are found on the identification half of BLEnD, its control and the country-name control.
They are tested on the other half of BLEnD and of the country names, on every row of CulturalBench,
NormAd and WorldValuesBench, and on CommonsenseQA, QNLI and MRPC.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset

from culnig_tl.benchmarks import blend
from culnig_tl.benchmarks.catalogue import benchmark, load_benchmark
from culnig_tl.benchmarks.commonsenseqa import COMMONSENSEQA
from culnig_tl.benchmarks.countryrc import COUNTRYRC
from culnig_tl.benchmarks.culturalbench import CULTURALBENCH
from culnig_tl.benchmarks.definition import Benchmark
from culnig_tl.benchmarks.glue import MRPC, QNLI
from culnig_tl.benchmarks.normad import NORMAD
from culnig_tl.benchmarks.worldvaluesbench import WORLDVALUESBENCH
from culnig_tl.errors import CulnigError, InvalidInputError, UnknownNameError
from culnig_tl.questions import Split

_TESTS: tuple[tuple[Benchmark, Split], ...] = (
    (blend.BLEND, "test"),
    (CULTURALBENCH, "all"),
    (NORMAD, "all"),
    (WORLDVALUESBENCH, "all"),
    (COUNTRYRC, "test"),
    (COMMONSENSEQA, "test"),
    (QNLI, "test"),
    (MRPC, "test"),
)
PAPER_BENCHMARKS: Mapping[str, Split] = {test.name: split for test, split in _TESTS}
"""The benchmarks that the paper tests on, and which of their rows."""

_IDENTIFICATION = {"cultural": blend.BLEND, "control": blend.CONTROL, "recognition": COUNTRYRC}


def paper_rows(
    benchmarks: Sequence[str] = tuple(PAPER_BENCHMARKS),
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
    """Questions to find neurons with, and questions to test them on.

    Args:
        benchmarks: names out of ``PAPER_BENCHMARKS``, the first also for the culture x culture
            effects.
        data_dir: a folder with a subfolder for each benchmark (``blend``, ``glue/QNLI``, ...); None
            fetches them from the hub. Without a subfolder ``countryrc`` the items of this package
            are taken.
        limit: at most so many prompts of each set, a small sample.

    Returns:
        Rows by name: cultural, control and recognition; and one entry per benchmark.

    Raises:
        UnknownNameError: a benchmark that is none of the paper's.
        InvalidInputError: a benchmark that cannot be read; it is named, with what to do.

    Example:
        >>> paper_rows(["squad"])
        Traceback (most recent call last):
        ...
        culnig_tl.errors.UnknownNameError: ...
    """
    if unknown := [name for name in benchmarks if name not in PAPER_BENCHMARKS]:
        raise UnknownNameError(
            f"The paper has no benchmark {', '.join(unknown)}; it has "
            f"{', '.join(PAPER_BENCHMARKS)}."
        )
    root = None if data_dir is None else Path(data_dir).expanduser()
    data = {
        role: _rows(value.name, "identify", root, limit) for role, value in _IDENTIFICATION.items()
    }
    return data, {name: _rows(name, PAPER_BENCHMARKS[name], root, limit) for name in benchmarks}


def _rows(name: str, split: Split, root: Path | None, limit: int | None) -> Dataset:
    value = benchmark(name)
    folder = None if root is None else root / (value.folder or name)
    if value.packaged and folder is not None and not folder.exists():
        folder = None
    try:
        return load_benchmark(name, split=split, data_dir=folder, limit=limit)
    except CulnigError as error:
        raise InvalidInputError(
            f"{name} cannot be read: {str(error).rstrip('.')}. Without it the run needs "
            "--benchmarks with the names of the others (BLEnD and the country names stay needed)."
        ) from error
