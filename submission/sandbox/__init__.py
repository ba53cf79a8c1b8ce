"""Runs model-written Python: confined, ended on time, with a notebook's memory.

    with Sandbox() as sandbox, sandbox.session() as session:
        result = await session.run("x = 6\nx * 7", timeout=10)  # Result(value="42")

A client (`client`) in the contest's process talks over private pipes, in JSON, to one server (`server`) that
has imported sympy and numpy. The server forks a worker a session (`worker`) and is its clock: at the end of
a call's time, whatever it hangs in, the worker is killed and a fresh one forked. Nothing that a worker sends
is more than text for its own agent.

What holds a worker is a stack of layers (`layers`); none needs root. Each is tried once at the start;
`Sandbox.layers` says what is missing and why, and the log says it once. What each is for, and what gets out
where it is missing:

- process group, rlimits: always. Memory (address space a process), size of a file, open files, processor
  time. Alone they hold accidents, not intent: the rest of this list is then open, and the folder's quota
  holds for the worker's own folder only.
- no capabilities, no new privileges: root in a worker is a user like any other, for good. Without: as
  root, a worker could do what root can.
- own user (root only, and where others may read the installation): each worker is a user that owns nothing;
  signals and /proc of others are out of reach, and the number of its processes is limited. Without: as
  root, the kernel limits no number of processes, so only seccomp stops a fork bomb.
- seccomp: no processes or programs at all (threads only), no sockets, no signals to others, no tracing, no
  uncounted memory, no change of modes. Without: what a call leaves running is found by its descent and
  killed, wherever it hides, but signals to processes of the same user get through (the server's death is
  noticed and a new one started; the contest's own process could be killed), and the limit on memory is each
  process's, not for all.
- landlock: reads the Python installation and system libraries, writes its own folder; not /proc, not the
  bundle, not the answers. Without: reads whatever its user may, this process's environment included, and
  writes wherever its user may. Never covered: whether a file exists, its size and date.
- network namespace: an empty network. Without (and without seccomp): sockets to localhost and outside.
- pid namespace: what is inside sees no process outside, and ends with the worker. Without: see seccomp.

Not contained anywhere: a bug of the kernel; load (a worker may keep a core busy for its call's time) and the
memory that all workers may take together (workers x memory_mb); a file open but removed does not count as
disk space until its worker ends (64 files of disk_mb at most). If contest and server are both killed by
force, folders stay behind in the temporary directory, without a process.
"""

from submission.sandbox.client import Sandbox, Session
from submission.sandbox.result import Result

__all__ = ["Result", "Sandbox", "Session"]
