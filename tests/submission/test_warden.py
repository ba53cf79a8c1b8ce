"""Parts of the warden that need no warden; as a whole it is tested with the engine's process."""

import os
import subprocess
import sys
import time

from submission.warden import _children, held_bytes

HOLD = "import sys; x = bytearray(b'x') * (64 << 20); print('holds', flush=True); sys.stdin.read()"
FAMILY = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"


def test_memory_of_a_tree_is_counted_to_its_leaves() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        assert process.stdout.readline() == "holds\n"
        (leaf,) = _children(process.pid)
        assert 64 << 20 < held_bytes(leaf) < held_bytes(process.pid) < 128 << 20
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
    assert held_bytes(process.pid) == 0


def test_a_look_at_the_memory_is_quick() -> None:
    begun = time.process_time()
    for _ in range(10):
        held_bytes(os.getpid())
    # Twice a second it would take two hundredths of a core.
    assert (time.process_time() - begun) / 10 < 0.04
