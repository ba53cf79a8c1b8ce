"""The server's command with another worker: `python -m tests.kit.grpo.serve_worker WORKER OPTIONS...`."""

import sys

from kit.grpo import serve
from kit.grpo.samplers import host
from submission.cli import run

if __name__ == "__main__":
    host.WORKER = sys.argv.pop(1) or host.WORKER
    run(serve.app)
