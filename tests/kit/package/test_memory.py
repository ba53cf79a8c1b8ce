"""Building, splitting, verifying and reading ahead take little memory, whatever the bundle's size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.package.made import make_checkpoint

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
GIGABYTES = 0.9
LIMIT_MIB = 500
STEPS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from kit.package.build import build
from kit.package.contents import plan
from kit.package.splitting import split
from kit.package.targets import Target
from submission.bundle import verify
from submission.checkpoint import inspect
from submission.settings import ContestSettings
from submission.warming import warm

model, out = map(Path, sys.argv[1:3])
planned = plan(inspect(model), ContestSettings(), Target.local(), None)
built = build(split(planned, 350_000_000), out)
assert verify(out) == []
assert warm(out) > 8e8
assert len(list((out / "model").glob("*.safetensors"))) == 3
# Not getrusage: its maximum begins with that of the process that started this one.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


def test_memory_is_bounded(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model")
    # Holes on the disk: read and copied they are as large as any other bytes.
    size = int(GIGABYTES * 1e9) // 3 // 4 * 4
    header = {
        name: {"dtype": "F32", "shape": [size // 4], "data_offsets": [place * size, (place + 1) * size]}
        for place, name in enumerate(("a", "b", "c"))
    }
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with (model / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + 3 * size)
    command = [sys.executable, "-c", STEPS, str(model), str(tmp_path / "b"), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < LIMIT_MIB
