"""Train the embedded model with three seeds, and its natural twin; compare; ship seed 0.

    python -m culnig_tl.atlas.training.seeds --out build/atlas    # train, verify, print the table

With ``--install`` seed 0 and the twin are shipped.

Two trainings run at a time, each a single-threaded process. Which seed ships was fixed before any
was trained: seed 0. A folder that is complete is not trained again.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from culnig_tl.atlas import ASSETS, NATURAL
from culnig_tl.atlas.training import card
from culnig_tl.atlas.training.artifacts import SEEDS_FILE, replacing_folder
from culnig_tl.atlas.training.verify import write_card
from culnig_tl.files import read_json, write_json

SEEDS = (0, 1, 2)
TWIN = "natural"
AT_A_TIME = 2
_COMPARED = ("command", "minutes", "cpu_minutes", "verification")


def train_all(out: Path, seeds: Sequence[int] = SEEDS) -> None:
    """Train and verify every seed and the twin, each in a folder of `out`."""
    jobs = {f"seed-{seed}": ["--seed", str(seed)] for seed in seeds}
    jobs[TWIN] = ["--seed", str(seeds[0]), "--no-interventions"]
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda name: _train(out / name, jobs[name]), jobs))


def _train(folder: Path, arguments: Sequence[str]) -> None:
    """One training in a process of its own, with its output in a file beside the folder."""
    if (folder / "training.json").exists():
        return
    command = [
        sys.executable,
        "-m",
        "culnig_tl.atlas.training.train",
        *arguments,
        "--out",
        str(folder),
    ]
    with folder.with_suffix(".log").open("w") as log:
        subprocess.run(
            command,
            check=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def compared(out: Path, seeds: Sequence[int] = SEEDS) -> dict:
    """The records of all seeds: how each was trained, and what it shows."""
    records = {str(seed): read_json(out / f"seed-{seed}" / "training.json") for seed in seeds}
    return {
        "command": "python -m culnig_tl.atlas.training.seeds --out DIR",
        "shipped": str(seeds[0]),
        "seeds": {
            seed: {name: record[name] for name in _COMPARED} for seed, record in records.items()
        },
    }


def install(out: Path, seeds: Sequence[int] = SEEDS) -> None:
    """Put the first seed and the twin in their places, with the table of all seeds in the card."""
    for source, target in ((f"seed-{seeds[0]}", ASSETS), (TWIN, NATURAL)):
        with replacing_folder(target) as part:
            shutil.copytree(out / source, part, dirs_exist_ok=True)
    write_json(ASSETS / SEEDS_FILE, compared(out, seeds))
    write_card(ASSETS)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the embedded model with three seeds.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--install", action="store_true", help="ship seed 0 and the twin")
    arguments = parser.parse_args()
    train_all(arguments.out)
    if arguments.install:
        install(arguments.out)
    Console().print(card.seed_table(compared(arguments.out)), soft_wrap=True)


if __name__ == "__main__":
    main()
