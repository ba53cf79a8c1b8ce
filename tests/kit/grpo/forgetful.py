"""A worker whose loading says that it worked and does nothing: the silent fault that checksums must find."""

from typing import Any

from kit.grpo.samplers.vllm_worker import SyncedWorker, worker_class


class Forgetful(SyncedWorker):
    """Everything but the loading is real."""

    def _take(self, weights: Any) -> None:
        """Nothing."""


def __getattr__(name: str) -> Any:
    if name == "Worker":
        return worker_class(Forgetful)
    raise AttributeError(name)
