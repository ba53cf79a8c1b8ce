"""Hostile cells, each with what its result says where every layer is present, and where only rlimits are."""

from typing import NamedTuple


class Attack(NamedTuple):
    """Code; a part of the result's text with all layers; the same with none; None: not tried there."""

    code: str
    held: str
    bare: str | None


OVER = "took over"
REFUSED = "PermissionError"
LEFT = "were still running"
SAID = "before"
HANGS = (OVER, SAID)
"""What the results of cells say that have to be ended."""
ATTACKS = {
    "fork_bomb": Attack("import os\nwhile True:\n    os.fork()", REFUSED, None),
    "daemons": Attack(
        "import os, time\n"
        "for _ in range(24):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork():\n"
        "            os._exit(0)\n"
        "        time.sleep(600)\n",
        REFUSED,
        LEFT,
    ),
    "program": Attack(
        "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)", REFUSED, LEFT
    ),
    "daemon_and_hang": Attack(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\nwhile True: pass",
        REFUSED,
        OVER,
    ),
    "ten_gigabytes": Attack("x = bytearray(10 << 30)", "MemoryError", "MemoryError"),
    "ten_gigabytes_slowly": Attack(
        "x = []\nwhile True: x.append(bytearray(64 << 20))", "MemoryError", "MemoryError"
    ),
    "uncounted_memory": Attack("import os\nos.memfd_create('x')", REFUSED, None),
    "exit": Attack("import os\nos._exit(7)", "exit code 7", "exit code 7"),
    "exit_politely": Attack("import sys\nsys.exit(7)", "SystemExit: 7", "SystemExit: 7"),
    "kill_parent": Attack("import os\nos.kill(os.getppid(), 9)", REFUSED, "starts anew"),
    "kill_all": Attack("import os\nos.kill(-1, 9)", REFUSED, None),
    "kill_group": Attack("import os\nos.killpg(0, 9)", REFUSED, "SIGKILL"),
    "stop_parent": Attack("import os\nos.kill(os.getppid(), 19)", REFUSED, None),
    "signal_by_owner": Attack(
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())", REFUSED, None
    ),
    "raise_limits": Attack(
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
        "ValueError: not allowed to raise",
        None,
    ),
    "localhost": Attack("import socket\nsocket.create_connection(('127.0.0.1', 22), 1)", REFUSED, None),
    "outside": Attack("import socket\nsocket.create_connection(('192.0.2.1', 80), 1)", REFUSED, None),
    "unix_socket": Attack("import socket\nsocket.socket(socket.AF_UNIX)", REFUSED, None),
    "environment_of_parent": Attack("print(open('/proc/1/environ').read())", REFUSED, None),
    "own_proc": Attack("print(open('/proc/self/environ').read())", REFUSED, None),
    "write_outside": Attack("open('/tmp/aimo-sandbox-escaped', 'w')", REFUSED, None),
    "write_shared_memory": Attack("open('/dev/shm/aimo-sandbox-escaped', 'w')", REFUSED, None),
    "write_beside": Attack("open('../escaped', 'w')", REFUSED, None),
    "modes": Attack("import os\nos.chmod(os.__file__, 0o644)", REFUSED, None),
    "one_large_file": Attack(
        "f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20)), f.flush()",
        "File too large",
        "File too large",
    ),
    "many_files": Attack(
        "n = 0\nwhile True:\n    open(str(n), 'wb').write(bytes(4 << 20))\n    n += 1",
        "wrote more than 16 MB",
        "wrote more than 16 MB",
    ),
    "endless_names": Attack(
        "n = 0\nwhile True:\n    open(str(n), 'wb').close()\n    n += 1", "too many files", "too many files"
    ),
    "nested_folders": Attack(
        "import os\nwhile True:\n    os.mkdir('d', 0o700)\n    os.chdir('d')",
        "too many files",
        "too many files",
    ),
    "forged_frame_on_stdout": Attack(
        'import os, struct\nb = b\'{"number": 1, "value": "forged"}\'\n'
        "_ = os.write(1, struct.pack('>I', len(b)) + b)",
        '"value": "forged"',
        '"value": "forged"',
    ),
    "forged_frame_in_the_pipe": Attack(
        'import os, struct\nb = b\'{"number": 1, "value": "forged"}\'\n'
        "_ = os.write(4, struct.pack('>I', len(b)) + b)",
        "wrote into the sandbox's pipe",
        "wrote into the sandbox's pipe",
    ),
    "huge_frame_in_the_pipe": Attack(
        "import os\nos.write(4, b'\\xff' * 8)",
        "wrote into the sandbox's pipe",
        "wrote into the sandbox's pipe",
    ),
    "half_a_frame": Attack(
        "import os\n_ = os.write(4, b'\\0\\0')",
        "wrote into the sandbox's pipe",
        "wrote into the sandbox's pipe",
    ),
    "closes_everything": Attack(
        "import os\nos.closerange(0, 1000)", "the Python process", "the Python process"
    ),
    "segfault": Attack("import ctypes\nctypes.string_at(0)", "SIGSEGV", "SIGSEGV"),
    "abort": Attack("import os\nos.abort()", "was ended by SIG", "was ended by SIG"),
    "thread": Attack(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        LEFT,
        LEFT,
    ),
    "printing_thread": Attack(
        "import threading\ndef f():\n    while True: print('x')\nthreading.Thread(target=f).start()",
        LEFT,
        LEFT,
    ),
    "loop": Attack("while True: pass", OVER, OVER),
    "loop_in_c": Attack("9 ** 9 ** 9", OVER, OVER),
    "sleep": Attack("import time\nprint('before')\ntime.sleep(600)", SAID, SAID),
    "ignored_signals": Attack(
        "import signal\nfor n in set(signal.Signals) - {9, 19}:\n    signal.signal(n, signal.SIG_IGN)\n"
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        OVER,
        OVER,
    ),
    "outlives_the_server": Attack(
        "import ctypes\nif ctypes.CDLL(None).prctl(1, 0): raise PermissionError", REFUSED, None
    ),
    "breaks_its_python": Attack(
        "import builtins, json, os, sys\nbuiltins.len = json.dumps = os.write = sys.stdout = None",
        "the Python process",
        None,
    ),
    "recursion": Attack("def f(): f()\nf()", "RecursionError", "RecursionError"),
    "nesting": Attack("(" * 5000 + ")" * 5000, "Error", "Error"),
    "hostile_error": Attack(
        "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E",
        "cannot be shown",
        "cannot be",
    ),
    "hostile_value": Attack(
        "class V:\n    def __repr__(self): raise KeyboardInterrupt\nV()", "KeyboardInterrupt", "Keyboard"
    ),
}
SLOW_ATTACKS = {
    "gigabyte_of_output": Attack(
        "import sys\nfor _ in range(1024): _ = sys.stdout.write('x' * (1 << 20))",
        "bytes left out",
        "bytes left out",
    ),
    "gigabyte_into_the_descriptor": Attack(
        "import os\nfor _ in range(16384): _ = os.write(1, b'x' * 65536)", "bytes left out", "bytes left out"
    ),
}
