"""Whether engines hold the trainer's weights: what was sent, and what came of it.

What is compared is exact for one worker. With tensor parallelism a worker holds slices that its loader alone
understands: then every worker's checksums of what it received are compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kit.grpo.checksum import Checksum, checksum, combined, unordered
from kit.grpo.rollout import SyncError

if TYPE_CHECKING:
    import torch


class Sent:
    """The weights of a sync, noted as they pass.

    Args:
        dtype: the engines' type, into which they are cast.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self.parts: dict[str, Checksum] = {}
        self.shapes: dict[str, list[int]] = {}

    def cast(self, weights: "Iterator[tuple[str, torch.Tensor]]") -> "Iterator[tuple[str, torch.Tensor]]":
        """The weights in the engines' type. One pass over each for its checksum."""
        import torch

        dtype = getattr(torch, self._dtype)
        for name, tensor in weights:
            assert name not in self.parts, f"{name} came twice"
            cast = tensor.detach().to(dtype)
            self.parts[name], self.shapes[name] = checksum(cast), list(cast.shape)
            yield name, cast

    def compare(self, host: str, answers: Sequence[Mapping[str, Any]]) -> str:
        """The common checksum of the trainer and every worker of an engine (`SyncedWorker.grpo_finish`).

        Raises:
            SyncError: a worker's differs.
        """
        sent = self.parts
        ours = combined(sent)
        for worker, answer in enumerate(answers):
            where = f"{host}: worker {worker} of the engine"
            if "sum" in answer:
                mine, theirs, wrong = unordered(sent), answer["sum"], ["(compared as a whole)"]
            else:
                parts = {name: Checksum.parse(part) for name, part in answer["parts"].items()}
                mine, theirs = ours, combined(parts)
                wrong = [name for name in sent if parts.get(name) != sent[name]]
                # More than was sent would be our own mistake.
                wrong = wrong or sorted(parts.keys() - sent.keys())
            if mine != theirs:
                raise SyncError(
                    f"{where} does not hold the trainer's weights: checksum {theirs} there, {mine} here, "
                    f"{len(wrong)} of {len(sent)} tensors differ, {wrong[0]} first"
                )
            if lost := answer.get("lost"):
                raise SyncError(
                    f"{where} has weights that the trainer does not send: {', '.join(lost)} (the {len(sent)} "
                    f"tensors that it sends agree, checksum {mine})"
                )
        return ours


def pass_by(weights: "Iterator[tuple[str, torch.Tensor]]") -> None:
    """Every rank takes part in the gathers, whatever became of the weights so far."""
    for _ in weights:
        pass
