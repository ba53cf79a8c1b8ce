"""The real rerun: our server in one process, the organiser's gateway in another, over its own ports.

`AIMO_KAGGLE_EVALUATION` names a folder with the real `kaggle_evaluation`, and `AIMO_KAGGLE_PYTHON`, where it
is set, the Python of the gateway: on the contest machine that has the image's packages, the server ours.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from submission.engines.replay import write_recording
from submission.problems import MAX_PROBLEM_CHARS
from tests.submission.virtual import boxed

PACKAGE = os.environ.get("AIMO_KAGGLE_EVALUATION", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PACKAGE, reason="AIMO_KAGGLE_EVALUATION does not name the organiser's package"),
]
ROOT = Path(__file__).parents[3]
GATEWAY = Path(__file__).with_name("organisers_gateway.py")
PORT = 50_051
"""The first that the server takes; 0.3 knows no other."""
ECHO = """
import sys, time, zlib
from submission.gateway.organiser import find_organiser, serve
from submission.gateway.predict import make_predict

waits = [float(word) for word in sys.argv[1:]]

def answer(identifier, text):
    print("asked", identifier, flush=True)
    time.sleep(waits.pop(0) if waits else 0)
    return zlib.crc32(text.encode()) % 100_000

serve(find_organiser(), make_predict(answer, 0, 99_999, 0))
"""
Start = Callable[..., "subprocess.Popen[bytes]"]


def checksum(text: str) -> int:
    return zlib.crc32(text[:MAX_PROBLEM_CHARS].encode()) % 100_000


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process in a folder of its own; all end with the test."""
    started: list[subprocess.Popen[bytes]] = []
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KAGGLE")}
    environment = {**kept, "AIMO_INPUT": PACKAGE, "KAGGLE_IS_COMPETITION_RERUN": "1"}

    def begin(name: str, *command: object, path: str = path) -> subprocess.Popen[bytes]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env={**environment, "PYTHONPATH": path},
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def serve(start: Start, tmp_path: Path) -> Callable[[], "subprocess.Popen[bytes]"]:
    """Starts the submission's own server over recorded samples of x1 and x2."""
    recorded = tmp_path / "r.jsonl"
    write_recording(recorded, {f"x{n}": [boxed(2 * n, 0.2)] for n in (1, 2)})
    setting = ["--set", "engine.kind=replay", "--set", f"engine.recording={recorded}"]
    return lambda: start("server", sys.executable, "-m", "submission", "--serve", *setting)


@pytest.fixture
def gateway(start: Start, tmp_path: Path) -> Start:
    """Starts the organiser's gateway over rows of id and problem."""

    def begin(
        rows: dict[Any, str], *, call: float = 60, startup: float = 60, pause: float = 0
    ) -> subprocess.Popen[bytes]:
        (tmp_path / "data").mkdir()
        csv = tmp_path / "data" / "test.csv"
        pl.DataFrame({"id": list(rows), "problem": list(rows.values())}).write_csv(csv)
        python = os.environ.get("AIMO_KAGGLE_PYTHON")
        command = (python or sys.executable, GATEWAY, PACKAGE, csv, call, startup, pause)
        return start("gateway", *command, path="" if python else os.environ.get("PYTHONPATH", ""))

    return begin


TWO = {"x1": "What is 1+1?", "x2": "What is 2+2?"}


def outcome(process: "subprocess.Popen[bytes]", tmp_path: Path) -> tuple[str, dict[Any, Any]]:
    """The organiser's name for what failed ("" if nothing), and the submission it wrote."""
    process.wait(timeout=90)
    folder = tmp_path / "gateway"
    assert (folder / "result.json").exists(), (folder / "log.txt").read_text()
    failed = json.loads((folder / "result.json").read_text()).get("ErrorName", "")
    path = folder / "submission.parquet"
    return failed, dict(pl.read_parquet(path).select("id", "answer").iter_rows()) if path.exists() else {}


def listening(process: "subprocess.Popen[bytes]", port: int = PORT) -> None:
    """Wait until the server does."""
    for _ in range(300):
        assert process.poll() is None
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not listen")


@pytest.mark.parametrize("first", ["server", "gateway"])
def test_all_answers_are_right_whoever_starts_first(
    serve: Callable[[], "subprocess.Popen[bytes]"], gateway: Start, tmp_path: Path, first: str
) -> None:
    if first == "server":
        listening(serve())
    playing = gateway(TWO)
    if first == "gateway":
        time.sleep(2)
        serve()
    assert outcome(playing, tmp_path) == ("", {"x1": 2, "x2": 4})
    assert pl.read_parquet_schema(tmp_path / "gateway" / "submission.parquet")["answer"] == pl.Int64


@pytest.mark.parametrize(
    "ids",
    [
        ["0a1b", "é ☃", "with,comma"],
        ["1e5", "x", 'quo"te'],
        [17, 2**62, -3],
        [0.5, 2.0, 1e300],
        [True, False],
        [" padded ", "tab\t", "two\nlines"],
    ],
)
def test_ids_and_problems_of_any_form_come_and_go_unchanged(
    start: Start, gateway: Start, tmp_path: Path, ids: list[Any]
) -> None:
    texts = ["∀n∈ω: 'x' ≥ \"0\"\r\n\n, \t $\\frac12$ 🙂", "long " * 20_000, "7"]
    server = start("server", sys.executable, "-c", ECHO)
    listening(server)
    failed, answers = outcome(gateway(dict(zip(ids, texts, strict=False))), tmp_path)
    assert not failed
    assert answers == {key: checksum(text) for key, text in zip(ids, texts, strict=False)}


def test_only_the_first_call_may_exceed_the_deadline(start: Start, gateway: Start, tmp_path: Path) -> None:
    listening(start("server", sys.executable, "-c", ECHO, 3))
    failed, answers = outcome(gateway(TWO, call=1), tmp_path)
    assert not failed and len(answers) == 2


def test_a_later_call_over_the_deadline_costs_the_run(start: Start, gateway: Start, tmp_path: Path) -> None:
    listening(start("server", sys.executable, "-c", ECHO, 0, 5))
    # 0.3 has no name of its own for it.
    assert outcome(gateway(TWO, call=1), tmp_path) in [
        ("GRPC_DEADLINE_EXCEEDED", {}),
        ("SERVER_CONNECTION_FAILED", {}),
    ]


def test_a_server_that_never_listens(gateway: Start, tmp_path: Path) -> None:
    assert outcome(gateway(TWO, startup=2), tmp_path) == ("SERVER_NEVER_STARTED", {})


@pytest.mark.parametrize("again", [False, True])
def test_a_server_killed_between_two_problems(
    serve: Callable[[], "subprocess.Popen[bytes]"], gateway: Start, tmp_path: Path, again: bool
) -> None:
    server = serve()
    listening(server)
    playing = gateway(TWO, pause=8 if again else 1)
    asked = tmp_path / "gateway" / "asked.txt"
    while not asked.exists():
        assert playing.poll() is None
        time.sleep(0.1)
    server.kill()
    server.wait()
    if again:
        listening(serve())
    expected = ("", {"x1": 2, "x2": 4}) if again else ("SERVER_CONNECTION_FAILED", {})
    assert outcome(playing, tmp_path) == expected


class Line:
    """A connection to another port that can be cut."""

    def __init__(self, port: int, to: int) -> None:
        self._listener = socket.create_server(("localhost", port))
        self._to = to
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("localhost", self._to))
            except OSError:
                return
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65_536):
                other.sendall(data)
        except OSError:
            return

    def cut(self) -> None:
        for end in self._open:
            end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def close(self) -> None:
        self.cut()
        self._listener.close()


def test_a_connection_lost_within_a_call_asks_that_problem_again(
    start: Start, gateway: Start, tmp_path: Path
) -> None:
    if "GRPC_PORTS" not in (Path(PACKAGE) / "kaggle_evaluation/core/relay.py").read_text():
        pytest.skip("this version knows one port only")
    # It takes the server's first port, so that the server takes its second.
    line = Line(PORT, 60_053)
    listening(start("server", sys.executable, "-c", ECHO, 0, 4), 60_053)
    log = tmp_path / "server" / "log.txt"
    playing = gateway(TWO)
    while log.read_text().count("asked") < 2:
        assert playing.poll() is None
        time.sleep(0.1)
    line.cut()
    try:
        failed, answers = outcome(playing, tmp_path)
    finally:
        line.close()
    assert not failed and answers == {key: checksum(text) for key, text in TWO.items()}
    assert log.read_text().count("asked") == 3
