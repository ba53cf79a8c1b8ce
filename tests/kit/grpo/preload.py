"""What the forkserver loads beside training's own: seconds that every launch of these tests would spend."""

import kit.grpo.phase
import kit.grpo.samplers.local
from submission.architectures import generating_architectures

generating_architectures()  # lists names in a process of its own, and remembers them
LOADED = (kit.grpo.phase, kit.grpo.samplers.local)
