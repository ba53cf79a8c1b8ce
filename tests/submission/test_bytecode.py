"""What is compiled ahead, by whom it is left out, and that nothing of it can fail an install."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from submission import bytecode

ROOT = Path(bytecode.__file__).parents[1]
FILES = (
    "torch/nn/functional.py",
    "torch/testing/large.py",
    "sympy/core/tests/test_x.py",
    "testing/a.py",
    "anthropic/core.py",
    "vllm/v1/core.py",
    "vllm/model_executor/models/llama.py",
    "transformers/models/llama/modeling.py",
    "transformers/utils/models/a.py",
    "other/anthropic/a.py",
)
LEFT_OUT = {FILES[1], FILES[2], FILES[4], FILES[6], FILES[7]}


def write(site: Path) -> None:
    for name in FILES:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("VALUE = 1\n")


def compiled(site: Path) -> set[str]:
    return {name for name in FILES if Path(importlib.util.cache_from_source(site / name)).exists()}


# The environment's own place does not count: its path may hold such names, and marks of regular expressions.
@pytest.mark.parametrize("place", ["site", "tests/anthropic/a+b(c)/site"])
def test_what_is_seldom_imported_is_left_out(tmp_path: Path, place: str) -> None:
    write(tmp_path / place)
    assert bytecode.compile_ahead(tmp_path / place) >= 0
    assert compiled(tmp_path / place) == set(FILES) - LEFT_OUT


def test_a_file_that_is_no_python_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "aaa.py").write_text("def {{ template }}:\n")
    (tmp_path / "bbb.py").write_bytes(b"\xff\x00")
    bytecode.compile_ahead(tmp_path)
    assert compiled(tmp_path) == set(FILES) - LEFT_OUT


def test_the_bytecode_is_what_python_takes(tmp_path: Path) -> None:
    write(tmp_path)
    bytecode.compile_ahead(tmp_path)
    cached = Path(importlib.util.cache_from_source(tmp_path / "other/anthropic/a.py"))
    # A proof that it is read: the source's size and time are the old ones, its content is another.
    source = tmp_path / "other/anthropic/a.py"
    status = source.stat()
    source.write_text("VALUE = 2\n")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    code = f"import sys; sys.path.insert(0, {str(source.parent)!r}); import a; print(a.VALUE)"
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, cached.exists()) == ("1\n", True)


def test_a_long_path_for_temporary_files_costs_nothing(tmp_path: Path) -> None:
    """Longer than the name of a socket may be."""
    site, temporary = tmp_path / "site", tmp_path / ("t" * 120)
    write(site)
    temporary.mkdir()
    code = "import sys, pathlib; from submission.bytecode import compile_ahead as run"
    subprocess.run(
        [sys.executable, "-B", "-c", f"{code}; run(pathlib.Path(sys.argv[1]))", site],
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert compiled(site) == set(FILES) - LEFT_OUT


def test_a_full_disk_is_said_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: Path) -> float:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bytecode, "compile_ahead", full)
    bytecode.main()
    assert capsys.readouterr().out == "not compiled ahead: OSError: [Errno 28] No space left on device\n"
