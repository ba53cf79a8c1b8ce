"""Random states: the numbers that follow are the same ones."""

import random
from pathlib import Path

import numpy as np
import pytest

from kit.training.rng import capture, restore

torch = pytest.importorskip("torch")


def draw() -> list[float]:
    """Numbers of every generator and of every kind of draw; two normals, since one is kept for later."""
    numbers = [random.random(), random.gauss(0, 1), random.getrandbits(61)]
    numbers += [np.random.rand(), np.random.randn(), np.random.randint(2**31)]
    numbers += torch.randn(5).tolist() + torch.rand(17).tolist() + torch.randperm(9).tolist()
    if torch.cuda.is_available():
        numbers += [
            torch.rand(1, device=f"cuda:{index}").item() for index in range(torch.cuda.device_count())
        ]
    return numbers


@pytest.mark.parametrize("before", range(4))
def test_the_same_numbers_follow(before: int) -> None:
    random.seed(before)
    np.random.seed(before)
    torch.manual_seed(before)
    for _ in range(before):  # an odd number of normals leaves one waiting inside each generator
        draw()
    states = capture()
    expected = [draw() for _ in range(300)]  # past the 624 words of one round
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    restore(states)
    assert [draw() for _ in range(300)] == expected
    restore(states)
    assert draw() == expected[0], "restoring leaves the saved state as it was"


def test_through_a_safetensors_file(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    load_file = pytest.importorskip("safetensors.torch").load_file
    save_file(capture(), tmp_path / "state.safetensors")
    expected = draw()
    restore(load_file(tmp_path / "state.safetensors"))
    assert draw() == expected


def test_capture_draws_nothing() -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = draw()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    capture()
    assert draw() == expected


@pytest.mark.parametrize("name", ["python.words", "numpy.words", "numpy.gauss", "torch"])
def test_a_missing_state_is_named_and_nothing_is_set(name: str) -> None:
    states = capture()
    del states[name]
    draw()
    before = capture()
    with pytest.raises(ValueError, match=name):
        restore(states)
    assert all(torch.equal(value, before[key]) for key, value in capture().items())


def test_other_devices_are_told(caplog: pytest.LogCaptureFixture) -> None:
    states = capture()
    states |= {f"cuda.{index}": torch.zeros(16, dtype=torch.uint8) for index in range(99)}
    if torch.cuda.is_available():
        pytest.skip("would set a made-up state on real devices")
    restore(states)
    assert "99 CUDA devices were saved, 0 are here" in caplog.text
