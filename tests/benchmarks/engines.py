"""A run on two processes against one: seconds, and whether the tables are the same to the byte.

    python tests/benchmarks/engines.py [--out tests/benchmarks/RESULTS.md]

The embedded model's run through the command line, from start to report, one thread a process:
alone, in two processes of one launch (``--processes 2``), and on two workers of a Ray cluster that
starts with the run. The three take turns; a ratio is that of two neighbours. With ``--bound``, what
two processes that share nothing reach on this machine: two such runs at once, against one.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import attribution
import results
import torch

import culnig_tl as ct
from culnig_tl.questions import Split

ENGINES = {
    "one process": (),
    "--processes 2": ("--processes", "2"),
    "--engine ray": ("--engine", "ray", "--processes", "2"),
}
GOAL = 1.8


def rows_in(folder: Path, limit: int | None) -> tuple[dict[str, str], dict[str, str]]:
    """Rows to find and to test with, as options: whole benchmarks, or files of a few rows."""

    def source(name: str, split: Split) -> str:
        if limit is None:
            return f"{name}:{split}"
        path = folder / f"{name}-{split}.json"
        ct.load_benchmark(name, split=split, limit=limit).to_json(path, lines=False)
        return str(path)

    options = ("--cultural", "--control", "--recognition")
    found_on = ("atlas", "atlas-control", "atlas-countries")
    tests = {"culture": "atlas", "general": "atlas-commonsense", "ordering": "atlas-ordering"}
    return (
        {option: source(name, "identify") for option, name in zip(options, found_on, strict=True)},
        {name: source(of, "test") for name, of in tests.items()},
    )


def command(n_random: int, out: Path, rows: dict[str, str], tests: dict[str, str]) -> list[str]:
    """The whole run of the embedded model."""
    return [
        *(sys.executable, "-m", "culnig_tl", "run", "atlas", "--quiet", "--cards", "4"),
        *(word for option in rows.items() for word in option),
        *(word for name, of in tests.items() for word in ("--benchmark", f"{name}={of}")),
        *("--n-random", str(n_random), "--out", str(out)),
    ]


def seconds(*commands: list[str]) -> float:
    """Wall-clock time of a command, or of several started at once."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with TemporaryFile("w+") as said:
        started = [
            subprocess.Popen(each, env=environment, stdout=subprocess.DEVNULL, stderr=said)
            for each in commands
        ]
        codes = [process.wait() for process in started]
        if any(codes):
            said.seek(0)
            raise SystemExit(said.read())
    return time.perf_counter() - start


def measured(
    repeats: int, n_random: int, limit: int | None
) -> tuple[dict[str, list[float]], set[str]]:
    """Seconds of each engine, and the engines whose tables are those of one process."""
    taken: dict[str, list[float]] = {name: [] for name in ENGINES}
    same = set(ENGINES)
    for _ in range(repeats):
        with TemporaryDirectory() as folder:
            rows = rows_in(Path(folder), limit)
            for name, options in ENGINES.items():
                out = Path(folder) / file_of(name)
                taken[name].append(seconds([*command(n_random, out, *rows), *options]))
                print(f"{name}: {taken[name][-1]:.1f} s", file=sys.stderr, flush=True)
                tables = [
                    (Path(folder) / file_of(each) / "table.csv").read_bytes()
                    for each in (name, "one process")
                ]
                if tables[0] != tables[1]:
                    same.discard(name)
    return taken, same


def bound(n_random: int, limit: int | None) -> str:
    """A line of the table: two runs at once, and how many times faster two runs are done so."""
    with TemporaryDirectory() as folder:
        rows = rows_in(Path(folder), limit)
        alone, *both = (command(n_random, Path(folder) / name, *rows) for name in "abc")
        one, two = seconds(alone), seconds(*both)
    return f"| two runs at once, sharing nothing | {two:.1f} | {2 * one / two:.2f} | | | |"


def file_of(name: str) -> str:
    """A folder's name."""
    return name.replace(" ", "-").strip("-")


def main() -> None:
    """Print the table, and write it where asked."""
    parser = results.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--n-random", type=int, default=300)
    parser.add_argument("--tiny", action="store_true", help="a run that shows only that it works")
    parser.add_argument("--bound", action="store_true", help="add two runs at once")
    arguments = parser.parse_args()
    n_random = 2 if arguments.tiny else arguments.n_random
    limit = 24 if arguments.tiny else None
    taken, same = measured(arguments.repeats, n_random, limit)
    lines = []
    for name, times in taken.items():
        ratios = [one / each for one, each in zip(taken["one process"], times, strict=True)]
        middle = sorted(ratios)[len(ratios) // 2]
        cells = [
            name,
            attribution.spread(times, 1),
            attribution.spread(ratios, 2),
            "" if name == "one process" else f"{GOAL:g}",
            "" if name == "one process" else "yes" if middle >= GOAL else "**no**",
            "yes" if name in same else "**no**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if arguments.bound:
        lines.append(bound(n_random, limit))
    section = [
        "# One run on several processes",
        "",
        f"`python {shlex.join(['tests/benchmarks/engines.py', *sys.argv[1:]])}`, "
        f"{attribution.processor('cpu')}, torch {torch.__version__}.",
        f"Seconds from start to report, one thread a process, {n_random} random sets.",
        "",
        "| engine | seconds | times faster | goal | met | table.csv the same |",
        "|---|---|---|---|---|---|",
        *lines,
    ]
    results.show("\n".join(section), arguments.out)


if __name__ == "__main__":
    main()
