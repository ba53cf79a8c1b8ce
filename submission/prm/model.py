"""A checkpoint's weights as two parts: the network up to its last hidden states, and the head on top.

Nothing of the checkpoint's own code runs: the head of Qwen2.5-Math-PRM, which its authors ship as Python, is
built here and its weights are read by name.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from submission.checkpoint import INDEX, SINGLE, read_json
from submission.prm.heads import PrmConfig

if TYPE_CHECKING:
    import torch

_SCORE_LAYERS = ("score.0", "score.2")
_SAME_AT_ANY_LENGTH = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings of a token that do not depend on how many tokens follow it."""


class PrmModel(NamedTuple):
    """A loaded checkpoint."""

    base: Any
    """The network without head: `base(input_ids=...)` has `last_hidden_state`, [batch, tokens, hidden]."""
    head: Any
    """Hidden states [n, hidden] to logits: [n, labels], or [n, vocabulary]."""
    device: "torch.device"


def load_model(folder: Path, form: PrmConfig) -> PrmModel:
    """Weights on the first GPU, in their own type, or on the CPU in float32.

    Raises:
        ValueError: weights are missing (they would be random), or the head is of an unknown form.
        OSError: files are missing or cannot be read.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForTokenClassification

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classes = {
        "token_classification": AutoModelForTokenClassification,
        "process_reward": AutoModel,
        "logprob": AutoModelForCausalLM,
    }
    model, info = classes[form.head].from_pretrained(
        str(folder),
        dtype="auto" if device.type == "cuda" else torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(f"PRM {folder} has no weights for {', '.join(missing[:4])}: obtain it again")
    model.eval().to(device)
    if form.head == "process_reward":
        return PrmModel(model, _two_layers(folder, model), device)
    head = model.get_output_embeddings() if form.head == "logprob" else getattr(model, "score", None)
    if head is None:
        raise ValueError(
            f"PRM {folder}: {type(model).__name__} has no layer `score` on a decoder; only decoders' "
            "token classification is served"
        )
    _check_head(folder, model, head)
    return PrmModel(model.base_model, head, device)


def _two_layers(folder: Path, base: Any) -> Any:
    """Linear, ReLU, Linear(2), as Qwen2.5-Math-PRM's own code has it."""
    import torch
    from safetensors import safe_open

    wanted = [f"{layer}.{kind}" for layer in _SCORE_LAYERS for kind in ("weight", "bias")]
    files = {SINGLE}
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map", {})
        files = {str(weight_map[name]) for name in wanted if name in weight_map}
    found: dict[str, torch.Tensor] = {}
    for name in sorted(files):
        with safe_open(str(folder / Path(name).name), framework="pt") as tensors:
            found |= {key: tensors.get_tensor(key) for key in wanted if key in tensors.keys()}  # noqa: SIM118 - no mapping
    hidden = base.config.hidden_size
    shapes = dict(zip(wanted, [(hidden, hidden), (hidden,), (2, hidden), (2,)], strict=True))
    wrong = [key for key in wanted if key not in found or tuple(found[key].shape) != shapes[key]]
    if wrong:
        raise ValueError(
            f"PRM {folder}: {wrong[0]} should be {list(shapes[wrong[0]])}, and is "
            f"{list(found[wrong[0]].shape) if wrong[0] in found else 'missing'}"
        )
    weight = next(base.parameters())
    layers = torch.nn.Sequential(torch.nn.Linear(hidden, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 2))
    layers.load_state_dict({key.removeprefix("score."): value for key, value in found.items()})
    return layers.eval().to(device=weight.device, dtype=weight.dtype)


def _check_head(folder: Path, model: Any, head: Any) -> None:
    """Some architectures do more between the last hidden states and the logits: scaling, capping."""
    import torch

    ids = torch.tensor([[0, 1, 2, 3]], device=model.device)
    with torch.inference_mode():
        whole = model(input_ids=ids).logits[0].float()
        parts = head(model.base_model(input_ids=ids).last_hidden_state[0]).float()
    if not torch.allclose(whole, parts, rtol=1e-2, atol=1e-2, equal_nan=True):
        raise ValueError(
            f"PRM {folder}: {type(model).__name__} changes its logits after the head, which is not served"
        )


def may_share(model: PrmModel, run_shared: Callable[[list[list[int]]], list["torch.Tensor"]]) -> bool:
    """Whether a token's hidden state depends on the tokens before it alone, in any company.

    Not so under sliding windows, whose mask is not the tree's, or rotary embeddings that stretch with the
    sequence. The rest is tried: two short sequences together and each by itself.

    Args:
        model: as loaded.
        run_shared: hidden states [tokens, hidden] of sequences that are put through the model together.
    """
    import torch

    config = model.base.config
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if (
        config._attn_implementation != "sdpa"
        or kinds != {"full_attention"}
        or windowed
        or rope.get("rope_type", "default") not in _SAME_AT_ANY_LENGTH
    ):
        return False
    sequences = [[0, 1, 2, 3, 4], [0, 1, 2, 5, 6, 7]]
    try:
        together = run_shared(sequences)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # a cache or mask of another form
        return False
    with torch.inference_mode():
        for ids, got in zip(sequences, together, strict=True):
            inputs = torch.tensor([ids], device=model.device)
            alone = model.base(input_ids=inputs).last_hidden_state[0]
            gap = (alone.float() - got.float()).norm() / alone.float().norm()
            if not gap < (1e-4 if alone.dtype == torch.float32 else 5e-2):
                return False
    return True
