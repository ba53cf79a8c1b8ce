"""A bundle whose contest needs no engine: its code reads the csv and writes what its one wheel knows."""

from pathlib import Path

import polars
import pytest

from kit.package import contents
from tests.kit.package.made import make_bundle, make_checkpoint, make_wheel, make_wheelhouse

# Reads the csv, writes the parquet that the wheel below knows how to make, as the real command line does.
CONTEST = """
import csv, json, os, sys, smallthing
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
rows = list(csv.DictReader(open(options["--problems"], newline="")))
print("solving", rows[0]["problem"], "in", options["--time-limit"], "at", options["--bundle"], flush=True)
if rows[0]["problem"] == "crash":
    sys.exit("no answer")
if rows[0]["problem"] == "scribble":
    open(os.path.join(options["--bundle"], "left-behind"), "w").close()
if rows[0]["problem"] == "where":
    sys.exit("LIES AT " + options["--bundle"] + " AND " + str(os.listdir(os.environ["BUILT"])))
if rows[0]["problem"] == "fetch":
    import socket
    try:
        socket.create_connection(("models.example", 443), timeout=5)
    except OSError as error:
        print("no fetch:", error)
tokens = 0 if rows[0]["problem"] == "silence" else 7
sample = {"type": "sample", "at": 1.0, "elapsed": 1.0, "id": "rehearsal-1", "attempt": 0, "tokens": tokens}
with open("submission.journal.jsonl", "w") as journal:
    journal.write(json.dumps(sample) + "\\n")
print("served after 0.5 s, model ready after 1.5 s")
smallthing.write(options["--out"])
"""
SHIPPED = frozenset({"__init__.py", "bundle.py", "bytecode.py", "joining.py", "warming.py"})
"""The files of the real package that install and notebook need."""


def act(monkeypatch: pytest.MonkeyPatch, main: Path) -> None:
    """Have bundles built with `main` as the shipped command line."""
    real = [item for item in contents._source_files() if item[0] in SHIPPED]
    monkeypatch.setattr(contents, "_source_files", lambda: [*real, ("__main__.py", main)])


def make_acting_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch, *, count: int = 3) -> Path:
    """The bundle `folder/b`, which answers 42 to `count` problems."""
    (folder / "main.py").write_text(CONTEST)
    act(monkeypatch, folder / "main.py")
    table = folder / "answer.parquet"
    names = [f"rehearsal-{number + 1}" for number in range(count)]
    polars.DataFrame({"id": names, "answer": [42] * count}).write_parquet(table)
    source = f"def write(path):\n    open(path, 'wb').write({table.read_bytes()!r})\n"
    house = make_wheelhouse(folder / "wheels", make_wheel(folder / "wheels", source=source))
    return make_bundle(folder / "b", make_checkpoint(folder / "model"), house)
