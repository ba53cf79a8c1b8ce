"""How fast training goes, how long it has to go, and how much of the peak it uses. No clock here."""

import re
from collections import deque
from dataclasses import dataclass

# Dense bfloat16 FLOP/s, without sparsity, from NVIDIA's data sheets, by `torch.cuda.get_device_name`.
_PEAKS = {
    r"H100 (SXM\d*|\d+GB HBM\d\w*)": 989e12,
    r"H100 PCIe": 756e12,
    r"H200": 989e12,
    r"A100(-SXM\d*|-PCIE|-PG\d+|-X)?([- ]\d+GB)?( PCIe)?": 312e12,
    r"L40S": 362e12,
    r"L4": 121e12,
    r"B200": 2250e12,
    r"GeForce RTX 4090|RTX 4090": 165e12,
}


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s that a device can reach; None for a CPU and for devices not in the table."""
    name = re.sub(r"^NVIDIA ", "", device_name.strip(), flags=re.IGNORECASE)
    for pattern, peak in _PEAKS.items():
        if re.fullmatch(pattern, name, flags=re.IGNORECASE):
            return peak
    return None


@dataclass(frozen=True)
class Speed:
    """As of one step."""

    tokens_per_second: float
    """Over all devices together."""
    seconds_left: float
    mfu: float | None
    """Model FLOPs utilization (Chowdhery et al. 2022): the model's FLOP/s over the devices' peak."""


class SpeedMeter:
    """Averages over the last `window` steps: all their tokens over all their seconds.

    Args:
        total_steps: of the whole run.
        devices: that the tokens are spread over.
        flops_per_token: of forward and backward pass, about 6 times the parameters; 0 if not known.
        peak: FLOP/s of one device, or None: then there is no `mfu`.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        devices: int = 1,
        flops_per_token: float = 0.0,
        peak: float | None = None,
        window: int = 20,
    ) -> None:
        if devices < 1 or window < 1:
            raise ValueError(f"speed: devices={devices} and window={window} must be 1 or more")
        self._total = total_steps
        self._flops = flops_per_token / devices / peak if peak and flops_per_token else None
        self._steps: deque[tuple[int, float]] = deque(maxlen=window)

    def update(self, step: int, tokens: int, seconds: float) -> Speed:
        """Note that `step` (the first is 1) took `seconds` for `tokens`, and return the averages."""
        self._steps.append((tokens, max(seconds, 1e-9)))
        elapsed = sum(seconds for _, seconds in self._steps)
        rate = sum(tokens for tokens, _ in self._steps) / elapsed
        return Speed(
            tokens_per_second=rate,
            seconds_left=max(0, self._total - step) * elapsed / len(self._steps),
            mfu=None if self._flops is None else rate * self._flops,
        )
