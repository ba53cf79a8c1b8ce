"""The quantizer's environment is made once, and one that is half made never counts."""

import fcntl
import sys
import threading
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kit.package.quantize import environment
from kit.package.quantize.environment import PINS, READY, quantize_environment, requirements


def test_the_requirements_are_the_projects_extra_and_torch() -> None:
    wanted = requirements()
    assert wanted[-1] == "torch"
    assert any(text.startswith("llmcompressor==") for text in wanted)


def test_pins_hold_what_is_asked_for_and_admit_a_cpu_build() -> None:
    lines = [line for line in PINS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    by_name = {pin.name: pin for pin in pins}
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    assert by_name["torch"].specifier.contains("2.13.0+cpu")
    (asked,) = [Requirement(text) for text in requirements() if text.startswith("llmcompressor")]
    assert str(asked.specifier) == str(by_name["llmcompressor"].specifier)


def stand_in(folder: Path, wanted: list[str]) -> Path:
    """A finished environment as far as anyone looks."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / READY).write_text(environment._stamp(wanted))
    return folder


def test_a_finished_one_is_used_without_a_word(tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "env", ["x"])
    said: list[str] = []
    assert quantize_environment(said.append, folder, wanted=["x"]) == folder / "bin" / "python"
    assert said == []


def test_who_comes_second_waits_for_the_first(tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "env", ["x"])
    said: list[str] = []
    with (tmp_path / ".env.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(
            target=quantize_environment, args=(said.append, folder), kwargs={"wanted": ["x"]}
        )
        second.start()
        second.join(0.3)
        assert second.is_alive()
        assert said == ["waiting for another process that makes the quantizer's environment"]
    second.join(10)
    assert not second.is_alive()


@pytest.mark.slow
def test_a_failed_install_says_why_and_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    folder = stand_in(tmp_path / "env", ["older versions"])
    (folder / "left").write_text("of another time")
    said: list[str] = []
    with pytest.raises(ValueError, match=r"pip could not install .*no-such-package-here.*run again"):
        quantize_environment(said.append, folder, wanted=["no-such-package-here"])
    assert said[0].startswith("making the quantizer's environment")
    assert not (folder / READY).exists()
    assert not (folder / "left").exists()
