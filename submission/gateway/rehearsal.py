"""A gateway of our own with the organiser's rules, in two processes, over gRPC.

`serve` is the contest's side; `Gateway` plays the organiser: one problem a call, one call at a time, the
first call exempt from the deadline, and replies judged as the real one judges them (see `judge`). It
listens on a Unix socket, so that rehearsals need no free port and no loopback network.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submission.gateway.wire import pack, unpack

if TYPE_CHECKING:
    from submission.problems import Problem
    from submission.settings import ContestRules

SERVICE = "aimo.Rehearsal"
# As the organiser's: the server must answer connections within 15 minutes of the gateway's start.
STARTUP_SECONDS = 900.0
# As the organiser's on either side: a connection on which a ping finds no answer is given up, and a call
# whose connection is lost is sent again, so that one problem may be asked twice.
_RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": _RETRY}]})),
)


class GatewayError(RuntimeError):
    """The run failed as a whole: the real gateway would have written no file. `kind` is its name for it."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclass(frozen=True)
class Row:
    """One row of the submission; `lost` tells why the answer cannot count, "" if it can."""

    id: str
    answer: Any
    lost: str
    seconds: float


def start_server(predict: Callable[..., Any], socket: Path) -> Any:
    """Serve `predict` on a Unix socket; returns the running gRPC server."""
    import grpc

    def handle(request: bytes, _context: Any) -> bytes:
        frame = unpack(request)
        # Like the organiser's relay: a frame's columns become the arguments.
        return pack(predict(*frame.get_columns()))

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), options=OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(handle)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"predict": handler}),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server


class Gateway:
    """The organiser's side.

    Args:
        socket: where the server listens.
        rules: the contest's; its range tells which answers are lost.
        call_seconds: deadline of every call but the first.
        alive: tells whether the server's process still runs, with its exit code if not.
        startup_seconds: how long the server may take until it answers at all.
    """

    def __init__(
        self,
        socket: Path,
        rules: "ContestRules",
        *,
        call_seconds: float,
        alive: Callable[[], str],
        startup_seconds: float = STARTUP_SECONDS,
    ) -> None:
        import grpc

        self._channel = grpc.insecure_channel(f"unix:{socket}", options=OPTIONS)
        self._call = self._channel.unary_unary(f"/{SERVICE}/predict")
        self._rules = rules
        self._call_seconds = call_seconds
        self._alive = alive
        self._startup_seconds = startup_seconds

    def run(
        self, problems: Sequence["Problem"], on_row: Callable[[Row], None] = lambda _: None
    ) -> Iterator[Row]:
        """Send every problem in turn; yields its row.

        Raises:
            GatewayError: what would have cost the whole run.
        """
        self.connect()
        for number, problem in enumerate(problems):
            begun = time.monotonic()
            reply = self._send(problem, None if number == 0 else self._call_seconds)
            answer, lost = judge(reply, problem.id, self._rules.answer_min, self._rules.answer_max)
            row = Row(problem.id, answer, lost, time.monotonic() - begun)
            on_row(row)
            yield row

    def connect(self) -> None:
        """Wait until the server listens; GatewayError if it dies or takes too long. Idempotent."""
        import grpc

        ready = threading.Event()

        def watch(state: Any) -> None:
            if state is grpc.ChannelConnectivity.READY:
                ready.set()

        self._channel.subscribe(watch, try_to_connect=True)
        deadline = time.monotonic() + self._startup_seconds
        try:
            while not ready.wait(timeout=0.2):
                died = self._alive()
                if died:
                    raise GatewayError("SERVER_NEVER_STARTED", died)
                if time.monotonic() > deadline:
                    raise GatewayError(
                        "SERVER_NEVER_STARTED", f"no connection in {self._startup_seconds:.0f} s"
                    )
        finally:
            self._channel.unsubscribe(watch)

    def _send(self, problem: "Problem", timeout: float | None) -> Any:
        import grpc
        import polars as pl

        request = pack(pl.DataFrame({"id": [problem.id], "problem": [problem.text]}))
        try:
            return unpack(self._call(request, timeout=timeout))
        except grpc.RpcError as error:
            code = error.code()
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise GatewayError(
                    "GRPC_DEADLINE_EXCEEDED", f"problem {problem.id} took over {timeout:.0f} s"
                ) from None
            if code is grpc.StatusCode.UNAVAILABLE:
                raise GatewayError(
                    "SERVER_CONNECTION_FAILED", self._alive() or f"connection lost at {problem.id}"
                ) from None
            raise GatewayError(
                "SERVER_RAISED_EXCEPTION", f"problem {problem.id}: {error.details()}"
            ) from None

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def judge(reply: Any, identifier: str, low: int, high: int) -> tuple[Any, str]:
    """What the real gateway does with a reply; `low`..`high` is the answers' range.

    Versions differ (0.3 of AIMO 2, 0.9 of AIMO 3 and 1.7 were run): what ends the run in one of them ends it
    here. Only 0.3 asks for the problem's id, and only 1.7 refuses a null.

    Returns:
        The answer as it would be written, and why it cannot score ("" if it can): the real gateway takes
        out-of-range, negative, fractional, textual and missing answers without a word.

    Raises:
        GatewayError: replies that end the run: anything but a frame of exactly one row with the problem's
            `identifier` and without nulls.
    """
    import polars as pl

    if not isinstance(reply, pl.DataFrame):
        raise GatewayError("INVALID_SUBMISSION", f"predict returned {type(reply).__name__}, not a frame")
    if reply.height != 1:
        raise GatewayError("INVALID_SUBMISSION", f"predict returned {reply.height} rows, not one")
    if "id" not in reply.columns or reply["id"][0] != identifier:
        returned = repr(reply["id"][0]) if "id" in reply.columns else "no id"
        raise GatewayError("INVALID_SUBMISSION", f"predict returned {returned} for problem {identifier}")
    if any(column.null_count() for column in reply.get_columns()):
        raise GatewayError("INVALID_SUBMISSION", f"predict returned a null for problem {identifier}")
    if "answer" not in reply.columns:
        return None, "the reply has no column `answer`"
    answer = reply["answer"][0]
    if reply["answer"].dtype == pl.Int128:
        raise GatewayError("INVALID_SUBMISSION", f"answer {answer} does not fit 64 bits")
    if isinstance(answer, bool) or not isinstance(answer, int):
        return answer, f"{answer!r} is not an integer"
    if not low <= answer <= high:
        return answer, f"{answer} is not within {low}..{high}"
    return answer, ""
