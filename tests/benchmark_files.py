"""Small benchmark files with the columns of the real ones; every sentence is written here.

Where ../shared/data lies beside the repository, the tests read the real files too.
"""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared" / "data"
PLACES = ["fixtures", "shared"] if SHARED.is_dir() else ["fixtures-because-shared-data-is-absent"]


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


# --- BLEnD ----------------------------------------------------------------------------------------

BLEND_TOPICS = {"Al-en-01": "Food", "Al-en-02": "Sport", "Al-en-03": "Family"}
BLEND_ROWS = {("US", "Al-en-01"): 7, ("Northern_Nigeria", "Al-en-01"): 2, ("US", "Al-en-03"): 1}


def blend_rows() -> list[dict[str, str]]:
    """Seven rows of one country and question, of which five count, and three others."""
    rows = []
    for (country, question), n in BLEND_ROWS.items():
        for number in range(n):
            answer = "ABCD"[number % 4]
            choices = {letter: f"dish {number} {letter}" for letter in "ABCD"}
            listed = "\n".join(f"{letter}. {text}" for letter, text in choices.items())
            rows.append(
                {
                    "MCQID": f"{question}_{country}_{number}",
                    "ID": question,
                    "country": country,
                    "prompt": f"What do people in {country} cook on a rainy day? Without any "
                    f'explanation, give one letter. {{"answer_choice":""}}\n\n{listed}\n\nAnswer:',
                    "choices": json.dumps(choices, indent=4),
                    "choice_countries": json.dumps({answer: country}),
                    "answer_idx": answer,
                }
            )
    return rows


def write_blend(folder: Path) -> Path:
    rows = blend_rows()
    write_csv(folder / "derived" / "blend.csv.gz", [{**row, "origin": "here"} for row in rows])
    write_csv(folder / "mcq" / "train.csv", rows[:4])  # again, as in ../shared/data
    write_csv(
        folder / "questions" / "US_questions.csv",
        [
            {"": n, "ID": key, "Topic": topic, "Source": "-", "Question": "-", "Translation": "-"}
            for n, (key, topic) in enumerate(BLEND_TOPICS.items())
        ],
    )
    (folder / "annotations").mkdir()
    (folder / "annotations" / "US_data.json").write_text('{"Al-en-01": {\n"question": "?"}}')
    return folder
