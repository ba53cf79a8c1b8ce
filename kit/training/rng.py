"""The state of every random generator that training may use, as tensors: exact, and without pickle."""

import logging
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_CUDA = "cuda."


def seed(number: int) -> None:
    """Start Python's, NumPy's and torch's global generators, CUDA's included, from a number."""
    import numpy as np
    import torch

    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def capture() -> "dict[str, torch.Tensor]":
    """State of Python's, NumPy's and torch's global generators, and of every visible CUDA device's.

    Raises:
        ValueError: NumPy's global generator is not its own MT19937.
    """
    import numpy as np
    import torch

    version, words, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)
    assert isinstance(legacy, dict)
    if legacy["bit_generator"] != "MT19937":
        raise ValueError(f"NumPy's global generator is {legacy['bit_generator']}; only MT19937 can be saved")
    states = {
        "python.words": torch.tensor([version, *words], dtype=torch.int64),
        "python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy.words": torch.tensor(
            [*legacy["state"]["key"].tolist(), legacy["state"]["pos"], legacy["has_gauss"]], dtype=torch.int64
        ),
        "numpy.gauss": torch.tensor([legacy["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states |= {f"{_CUDA}{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore(states: "dict[str, torch.Tensor]") -> None:
    """Set what `capture` returned. A different number of CUDA devices is told and cannot be exact.

    Raises:
        ValueError: an entry is missing or has another size.
    """
    import numpy as np
    import torch

    sizes = {"python.words": {626}, "python.gauss": {0, 1}, "numpy.words": {626}, "numpy.gauss": {1}}
    for name, allowed in sizes.items():
        if name not in states or states[name].numel() not in allowed:
            raise ValueError(f"saved random state {name!r} is missing or has another size")
    if "torch" not in states:
        raise ValueError("saved random state 'torch' is missing")
    version, *words = states["python.words"].tolist()
    random.setstate((version, tuple(words), *(states["python.gauss"].tolist() or [None])))
    *key, position, has_gauss = states["numpy.words"].tolist()
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": np.array(key, dtype=np.uint32), "pos": position},
            "has_gauss": has_gauss,
            "gauss": states["numpy.gauss"].item(),
        }
    )
    # Copies: a state read from a checkpoint may be a view of its file.
    torch.set_rng_state(states["torch"].clone())
    saved = sum(name.startswith(_CUDA) for name in states)
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if saved != present:
        log.warning("random states of %d CUDA devices were saved, %d are here: not exact", saved, present)
    for index in range(min(saved, present)):
        torch.cuda.set_rng_state(states[f"{_CUDA}{index}"].clone(), index)
