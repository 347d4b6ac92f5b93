"""Tables of questions as files, for tests."""

import json

import pandas as pd


def written(folder, kind, records):
    """A file of ``kind`` with these rows, as a user would write it."""
    path = folder / f"rows.{kind}"
    frame = pd.DataFrame(records)
    if kind == "csv":
        frame.assign(options=[json.dumps(row["options"]) for row in records]).to_csv(
            path, index=False
        )
    elif kind == "json":
        path.write_text(json.dumps(records), encoding="utf-8")
    elif kind == "jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in records]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        frame.to_parquet(path)
    return path
