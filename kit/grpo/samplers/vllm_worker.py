"""vLLM's worker inside its engine process: takes over weights, and says what it holds.

vLLM is told this module's `Worker` by name, and finds it here in its own process: a subclass of the
platform's worker. What travels to it are method names, paths and shapes; weights come in safetensors files
(`grpo_load`) or by broadcast from the trainer (`grpo_join`, `grpo_receive`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from kit.grpo.checksum import Checksum, checksum, unordered
from kit.grpo.samplers.broadcast import unpacked
from kit.grpo.samplers.group import Group

if TYPE_CHECKING:
    import torch


class SyncedWorker:
    """What is added to the platform's worker; methods are called on every worker, by name."""

    model_runner: Any
    vllm_config: Any
    device: Any
    rank: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._received: dict[str, Checksum] = {}
        self._group: Group | None = None
        self._arrives_on: Any = "cpu"
        super().__init__(*args, **kwargs)

    def load_model(self, **kwargs: Any) -> None:
        """Load the checkpoint; on a CPU in a form whose weights can be replaced."""
        _keep_weights_on_cpu()
        super().load_model(**kwargs)  # type: ignore[misc]  # of the platform's worker

    def grpo_describe(self) -> dict[str, Any]:
        """What the trainer must know: the weights' type, and whether they can be replaced at all."""
        config = self.vllm_config.model_config
        return {
            "dtype": str(config.dtype).removeprefix("torch."),
            "quantization": config.quantization or "",
            "mla": bool(config.use_mla),
            "device": "cpu" if _on_cpu() else "cuda",
        }

    def grpo_load(self, path: str) -> None:
        """Copy one file's weights (transformers' names, whole) into the model."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            self._take((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 - not a mapping

    def grpo_join(
        self, host: str, port: int, first: int, size: int, own: str, backend: str, seconds: float
    ) -> None:
        """Enter the group that the trainer gives weights to, this engine's workers from rank `first` on."""
        self._group = None
        self._group = Group((host, port), first + self.rank, size, own, backend=backend, seconds=seconds)
        self._arrives_on = self.device if backend == "nccl" else "cpu"

    def grpo_receive(self, names: list[str], shapes: list[list[int]]) -> None:
        """Copy what the trainer broadcasts now (transformers' names, whole) into the model."""
        import torch

        assert self._group is not None, "grpo_join first"
        count = sum(math.prod(shape) for shape in shapes)
        flat = torch.empty(count, dtype=self.vllm_config.model_config.dtype, device=self._arrives_on)
        self._group.receive(flat)
        self._take(unpacked(names, shapes, flat))

    def grpo_leave(self) -> None:
        """Leave the group; idempotent."""
        self._group = None

    def _take(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> None:
        whole = self.vllm_config.parallel_config.world_size == 1

        def noted() -> "Iterator[tuple[str, torch.Tensor]]":
            for name, tensor in weights:
                if not whole:
                    self._received[name] = checksum(tensor)
                yield name, tensor

        self.model_runner.get_model().load_weights(noted())

    def grpo_finish(self, shapes: dict[str, list[int]]) -> dict[str, Any]:
        """Put what was loaded to use. Returns checksums of the live parameters, not of what was received.

        On a CPU the model computes with packed copies, which are made here from those very parameters.

        Args:
            shapes: of all weights that were sent, by transformers' names.

        Returns:
            `parts`: checksum by transformers' name. `lost`: live parameters that no sent weight fills. Where
            a weight cannot be found among them (a model that vLLM builds differently), `sum` alone:
            `unordered` of all live ones. With several workers a live parameter is a slice, and `parts` are
            those of the weights that this worker received.
        """
        model = self.model_runner.get_model()
        _pack_again(model)
        received, self._received = self._received, {}
        if self.vllm_config.parallel_config.world_size > 1:
            return {"parts": {name: str(part) for name, part in received.items()}, "lost": []}
        try:
            parts = live_parts(model, shapes)
        except KeyError:
            return {"sum": unordered({name: checksum(value) for name, value in model.named_parameters()})}
        filled = {name: str(checksum(tensor)) for name, tensor in parts.items()}
        return {"parts": filled, "lost": unfilled(model, parts)}


def live_parts(model: Any, shapes: Mapping[str, Sequence[int]]) -> "dict[str, torch.Tensor]":
    """Views of a vLLM model's parameters under transformers' names: fused rows are cut, padding is left off.

    Raises:
        KeyError: a weight has no counterpart.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    fused = {
        part: (whole, parts[: parts.index(part)])
        for whole, parts in getattr(model, "packed_modules_mapping", {}).items()
        for part in parts
    }
    found = {}
    for name, shape in shapes.items():
        source, first = name, 0
        if name not in parameters:
            module, _, kind = name.rpartition(".")
            parent, _, part = module.rpartition(".")
            whole, before = fused[part]
            source = f"{parent}.{whole}.{kind}"
            first = sum(shapes[f"{parent}.{other}.{kind}"][0] for other in before)
        found[name] = parameters[source][first : first + shape[0]] if shape else parameters[source]
    return found


def unfilled(model: Any, parts: "Mapping[str, torch.Tensor]") -> list[str]:
    """Names of parameters that `parts` cover in part or not at all; padding of the vocabulary aside."""
    # Tied weights are one parameter, and a view shares its storage.
    covered: dict[int, dict[int, int]] = {}
    for tensor in parts.values():
        covered.setdefault(tensor.untyped_storage().data_ptr(), {})[tensor.data_ptr()] = tensor.numel()
    lost = []
    for name, value in model.named_parameters():
        rows = getattr(model.get_submodule(name.rpartition(".")[0]), "org_vocab_size", None)
        needed = value.numel() if rows is None else rows * value[0].numel()
        if sum(covered.get(value.untyped_storage().data_ptr(), {}).values()) < needed:
            lost.append(name)
    return lost


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _keep_weights_on_cpu() -> None:
    """Have vLLM keep the parameters that it packs.

    On a CPU it copies every matrix into a kernel's own form and drops the parameter, so that there is nothing
    to load into later; where it keeps it (an output matrix tied to the embedding), what is loaded later is
    never computed with.
    """
    from vllm.model_executor.layers import utils

    if not _on_cpu():
        return
    import torch

    assert hasattr(utils, "dispatch_cpu_unquantized_gemm"), "vllm packs its weights elsewhere now"
    pack = utils.dispatch_cpu_unquantized_gemm

    def keeping(layer: Any, remove_weight: bool) -> None:  # noqa: ARG001 - vLLM's signature
        if layer.weight.dtype == torch.float32:
            pack(layer, remove_weight=False)
        else:  # some of its kernels change the bias, too
            layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = keeping


def _pack_again(model: Any) -> None:
    """On a CPU, replace the packed copies by those of the parameters as they are now."""
    from vllm.model_executor.layers import utils

    packed = [module for module in model.modules() if hasattr(module, "cpu_linear")]
    # A parameter that is loaded, compared, and not computed with: what no checksum finds.
    assert packed or not _on_cpu(), "vllm keeps its packed weights elsewhere now"
    for module in packed:
        utils.dispatch_cpu_unquantized_gemm(module, remove_weight=False)


@cache
def worker_class(extra: type) -> type:
    """The platform's worker with `extra` before it; the same class each time."""
    from vllm.utils.import_utils import resolve_obj_by_qualname

    name = "vllm.v1.worker.cpu_worker.CPUWorker" if _on_cpu() else "vllm.v1.worker.gpu_worker.Worker"
    return type("Worker", (extra, resolve_obj_by_qualname(name)), {})


def __getattr__(name: str) -> Any:
    # vLLM's classes may not be imported before somebody asks for a worker.
    if name == "Worker":
        return worker_class(SyncedWorker)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
