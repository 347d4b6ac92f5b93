"""A newcomer, scripted: clone, README, first command, first result; commands, seconds and words.

    python tests/benchmarks/newcomer.py [--out tests/benchmarks/RESULTS.md]

Reads README as far as its first block of shell commands, does in a fresh clone what stands there
(with an empty cache, so that the real model is converted too), and opens the report that the last
lines name in a browser without a network. Words are those of the text that is seen: of README up to
the end of that block, of what the command prints, and of the report's first lines, which answer
what was found. The first of the commands is the one that is run; `make test` is CI's.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import attribution
import results

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from browser import keep_screenshot, opened  # noqa: E402  (a module of the tests)

FIRST_SHELL_BLOCK = re.compile(r"^(.*?)^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def what_readme_says(text: str) -> tuple[int, str]:
    """Words up to the end of the first block of commands, and the first of them."""
    found = FIRST_SHELL_BLOCK.match(text)
    if found is None:
        raise SystemExit("README.md has no block of shell commands.")
    before, block = found.groups()
    command, _, comment = block.splitlines()[0].partition("#")
    seen = re.sub(r"!\[[^]]*\]\([^)]*\)|\]\([^)]*\)|^[|: -]+$", " ", before, flags=re.MULTILINE)
    return n_words(f"{seen} {command} {comment}"), command.strip()


def n_words(text: str) -> int:
    return len(re.findall(r"[^\W_]+(?:['.,-][^\W_]+)*", text))


def run(command: str, folder: Path, cache: Path) -> tuple[float, str]:
    """Seconds of a command as a newcomer gives it, and what it prints on a terminal."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "COLUMNS": "80"}
    start = time.perf_counter()
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{command} fails:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - start, done.stdout


def first_answers(report: Path) -> str:
    """What the report says before anything is scrolled, read in a browser without a network."""
    with opened(report, width=1400) as page:
        keep_screenshot(page, "newcomer-report")
        return page.locator("header").inner_text()


def section() -> str:
    with TemporaryDirectory() as kept:
        cache, clone = Path(kept) / "cache", Path(kept) / "clone"
        cloning, _ = run(f"git clone -q {ROOT} {clone}", Path(kept), cache)
        n_read, command = what_readme_says((clone / "README.md").read_text(encoding="utf-8"))
        taken, output = run(command, clone, cache)
        reports = [clone / path for path in re.findall(r"^Report: (\S+)$", output, re.MULTILINE)]
        if not reports:
            raise SystemExit(f"{command} names no report.")
        answers = first_answers(reports[0])
    lines = [
        f"| 1 | `git clone` | {cloning:.0f} | |",
        f"| | README, to the end of its first commands | | {n_read} |",
        f"| 2 | `{command}` | {taken:.0f} | {n_words(output)} |",
        f"| | the report's first lines | | {n_words(answers)} |",
    ]
    quoted = "\n".join(f"> {line}" for line in answers.splitlines() if line)
    return "\n".join(
        [
            "# A newcomer's first result",
            "",
            f"`python tests/benchmarks/newcomer.py`, {attribution.machine()}, with installation.",
            "",
            "| commands | step | seconds | words |",
            "|---:|---|---:|---:|",
            *lines,
            "",
            "The report then says:",
            "",
            quoted,
        ]
    )


def main() -> None:
    arguments = results.parser(__doc__).parse_args()
    results.show(section(), arguments.out)


if __name__ == "__main__":
    main()
