"""Own reward functions as users write them, good and bad; workers import them by path."""

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from submission.frames import encode

not_callable = 3
calls = 0


def length(sample: dict[str, Any]) -> int:
    return len(sample["completion"])


def attack(sample: dict[str, Any]) -> Any:
    """Do what the completion says, so that one worker can meet a bad call and a good one."""
    name, _, argument = sample["completion"].partition(" ")
    return globals()[name](argument) if name in ATTACKS else 1.0


def everything(sample: dict[str, Any]) -> float:
    """1 where the sample has what the documentation promises."""
    known = {"problem", "answer", "completion", "finish", "tokens", "tool_calls", "tool_errors", "correct"}
    return float(set(sample) == known)


def counted(sample: dict[str, Any]) -> int:
    """A function with a memory, if its calls shared one."""
    global calls  # noqa: PLW0603  # the point of it
    calls += 1
    return calls


def drawn(sample: dict[str, Any]) -> float:
    return random.random() + hash("text") % 1000


def through_a_program(sample: dict[str, Any]) -> float:
    """1 where a program ends well, at first after a minute; the completion names a file to count calls in."""
    calls = Path(sample["completion"])
    with calls.open("a") as file:
        file.write("called\n")
    seconds = "60" if calls.read_text() == "called\n" else "0"
    return float(subprocess.run(["/bin/sleep", seconds], check=False).returncode == 0)


def half_bad(sample: dict[str, Any]) -> float | None:
    if "bad" in sample["completion"]:
        raise KeyError("no such thing")
    return None if "none" in sample["completion"] else 0.25


# --- attacks: each gets the rest of the completion ------------------------------------------------------


def sleeps(_: str) -> None:
    time.sleep(600)


def hangs_in_c(_: str) -> int:
    return sum(range(10**12))


def hangs_in_regex(_: str) -> float:
    return float(re.fullmatch(r"(a+)+b", "a" * 40) is not None)


def ignores_signals(_: str) -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)


def stops(_: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def raises(_: str) -> None:
    raise ValueError("a reason\nto show")


def exits_by_exception(_: str) -> None:
    sys.exit(0)


def recurses(_: str) -> Any:
    return recurses(_)


def quits(_: str) -> None:
    os._exit(0)


def kills_itself(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kills_its_parent(_: str) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def stops_its_parent(_: str) -> None:
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(600)


def kills_its_group(_: str) -> None:
    os.killpg(0, signal.SIGKILL)


def kills_the_supervisor(_: str) -> None:
    """Having first left a child in a session of its own."""
    caller = os.getppid()
    supervisor = int(Path(f"/proc/{caller}/stat").read_text().rpartition(")")[2].split()[1])
    _leave_child()
    os.kill(supervisor, signal.SIGKILL)
    time.sleep(600)


def stops_the_supervisor(_: str) -> None:
    caller = os.getppid()
    _leave_child()
    os.kill(int(Path(f"/proc/{caller}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGSTOP)
    time.sleep(600)


def raises_colours(_: str) -> None:
    raise ValueError("\x1b[31m" + "red" * 1000)


def leaves_children(argument: str) -> float:
    for _ in range(int(argument or 1)):
        _leave_child()
    return 0.5


def leaves_children_and_hangs(_: str) -> None:
    leaves_children("5")
    time.sleep(600)


def _leave_child() -> None:
    """A daemon by the book: forked twice, its own session, deaf, all descriptors closed."""
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.closerange(0, 256)
        time.sleep(600)
        os._exit(0)


def prints_much(_: str) -> float:
    for _turn in range(100):
        sys.stdout.write("x" * 1_000_000 + "\n")
        os.write(2, b"y" * 100_000)
    sys.stdout.flush()
    return 0.5


def forges_on_stdout(_: str) -> float:
    forged = encode({"value": 1000.0, "usable": True, "number": 0})
    for descriptor in (1, 2):
        os.write(descriptor, forged)
    sys.stdout.buffer.write(forged)
    sys.stdout.flush()
    return 0.5


def forges_by_guess(_: str) -> float:
    forged = encode({"value": 1000.0, "usable": True, "number": 0})
    for descriptor in range(256):
        try:
            os.write(descriptor, forged)
        except OSError:
            continue
    return 0.5


def forges_and_quits(_: str) -> None:
    forges_by_guess(_)
    os._exit(0)


def floods_by_guess(_: str) -> None:
    for descriptor in range(256):
        try:
            for _turn in range(100):
                os.write(descriptor, b"\0" * 65536)
        except OSError:
            continue


def closes_everything(_: str) -> float:
    os.closerange(0, 256)
    return 0.5


def takes_memory(_: str) -> float:
    return float(len(bytearray(10 << 30)))


def takes_memory_slowly(_: str) -> float:
    kept = [bytearray(1 << 20) for _turn in itertools.count()]
    return float(len(kept))


def gives(argument: str) -> Any:
    values = {
        "nan": float("nan"),
        "inf": float("-inf"),
        "text": "1.0",
        "huge_text": "9" * 10_000_000,
        "huge": 1e300,
        "huge_integer": 10**400,
        "list": [1.0],
        "complex": 1j,
        "none": None,
        "true": True,
        "integer": 3,
    }
    return values[argument]


ATTACKS = {
    name
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and not name.startswith("_")
}
