"""Speed, worked out by hand."""

import pytest

from kit.training.speed import SpeedMeter, peak_flops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GB200", None),
        ("Tesla T4", None),
        ("cpu", None),
        ("", None),
    ],
)
def test_peaks(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_tokens_over_seconds_of_the_window() -> None:
    meter = SpeedMeter(10, devices=2, flops_per_token=6e9, peak=1e12, window=2)
    first = meter.update(1, tokens=100, seconds=2.0)
    assert first.tokens_per_second == 50
    assert first.seconds_left == 9 * 2.0
    assert first.mfu == pytest.approx(50 * 6e9 / 2e12)
    # A long step with many tokens weighs by its time: (100 + 500) / (2 + 4), not (50 + 125) / 2.
    assert meter.update(2, 500, 4.0).tokens_per_second == 100
    third = meter.update(3, 100, 1.0)  # the first step has left the window
    assert third.tokens_per_second == 120
    assert third.seconds_left == 7 * 2.5
    assert meter.update(12, 1, 1.0).seconds_left == 0


@pytest.mark.parametrize("more", [{}, {"peak": 1e12}, {"flops_per_token": 1.0}])
def test_no_utilization_without_a_known_peak(more: dict[str, float]) -> None:
    assert SpeedMeter(10, **more).update(1, 10, 1.0).mfu is None  # type: ignore[arg-type]


def test_a_step_without_time_is_no_error() -> None:
    assert SpeedMeter(10).update(1, 0, 0.0).tokens_per_second == 0


def test_no_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="devices=0"):
        SpeedMeter(1, devices=0)
