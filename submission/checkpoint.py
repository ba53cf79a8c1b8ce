"""Looks at a checkpoint before any work is done on it: is it whole, safe, and of a kind the engines load?

Only files of known names are ever taken into a bundle; Python code never is. Weights are safetensors, whose
headers say how long each file must be, so a file that was cut short is found without reading the weights.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submission.architectures import generating_architectures

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("tekken.json",), ("vocab.json", "merges.txt"))
TEMPLATES = ("chat_template.jinja", "chat_template.json")
TAKEN = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tekken.json",
        "vocab.json",
        "merges.txt",
        "preprocessor_config.json",
        "processor_config.json",
        "hf_quant_config.json",
        "quantize_config.json",
        *TEMPLATES,
    }
)
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
LICENSE_NAMES = re.compile(r"(LICEN[SC]E|NOTICE|USE_POLICY)([._-].*)?", re.IGNORECASE)
MAX_JSON_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or wheel that was not taken into the bundle, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that passed every check. File names are relative to `folder`."""

    folder: Path
    name: str
    architecture: str
    model_type: str
    license: str | None
    """As the model card names it (`apache-2.0`), or None where there is no card."""
    files: tuple[str, ...]
    license_files: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def size(self) -> int:
        """Bytes of all files that a bundle takes."""
        return sum((self.folder / name).stat().st_size for name in self.files)


def inspect(folder: Path, *, prm: bool = False) -> Checkpoint:
    """Check a checkpoint's folder and say what of it goes into a bundle.

    Args:
        prm: it is a process reward model, which need not generate and may have a `prm.json`; whether it
            can score is for `submission.prm.heads.check_prm` to say.

    Raises:
        ValueError: something is missing, cut short, of an unknown architecture, or would run code; the
            message names the file and the fix.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"model {folder} is not a folder; give the folder that holds config.json and *.safetensors "
            "(a GGUF or other single file has to be converted with transformers' save_pretrained first)"
        )
    config = _read_config(folder)
    weights = check_weights(folder)
    _check_tokenizer(folder)
    # Last: it asks transformers, which takes seconds.
    architecture, model_type = _check_architecture(folder, config, generating=not prm)
    present = sorted(item.name for item in folder.iterdir())
    wanted = {*TAKEN, "prm.json"} if prm else TAKEN
    taken = [name for name in present if name in wanted and _is_file(folder / name)] + list(weights)
    licenses = [name for name in present if LICENSE_NAMES.fullmatch(name) and _is_file(folder / name)]
    rest = [name for name in present if name not in {*taken, *licenses}]
    return Checkpoint(
        folder=folder,
        name=_model_name(folder, config),
        architecture=architecture,
        model_type=model_type,
        license=_card_license(folder / "README.md"),
        files=tuple(sorted(taken)),
        license_files=tuple(licenses),
        left_out=tuple(LeftOut(f"{'prm' if prm else 'model'}/{name}", _why_left_out(name)) for name in rest),
    )


def _is_file(path: Path) -> bool:
    """Whether a regular file lies there, itself or by a link that stays with the checkpoint.

    Raises:
        ValueError: a link that leads nowhere or elsewhere, or a fifo, socket or device (reading could hang).
    """
    if path.is_symlink():
        _check_link(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(
            f"{path} is a fifo, socket or device, not a regular file; obtain the checkpoint again"
        )
    return path.is_file()


def _check_link(path: Path) -> None:
    """Contents are what is copied, so a link out of the checkpoint could carry any file into a bundle.

    A hub's cache keeps a checkpoint as links: `models--X/snapshots/REVISION/FILE -> ../../blobs/HASH`.
    """
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # Python 3.11 and 3.12 report a ring of links as RuntimeError
        raise ValueError(
            f"{path} is a link to a file that does not exist ({path.readlink()}); obtain the checkpoint again"
        ) from None
    folder = path.parent.resolve()
    allowed = [folder]
    if folder.parent.name == "snapshots":
        allowed.append(folder.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise ValueError(
            f"{path} is a link to {target}, outside the checkpoint's folder; if that file belongs to the "
            "checkpoint, put a copy of it in the link's place (cp --remove-destination), else remove the link"
        )


def read_json(path: Path) -> Any:
    """Parse a checkpoint's JSON file; ValueError naming it when it is no regular file, huge or malformed."""
    try:
        if not _is_file(path):
            raise ValueError(f"{path} is missing or not a regular file; the checkpoint needs it")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(
                f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB: not a checkpoint's JSON file"
            )
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; the checkpoint needs it") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); obtain the checkpoint again") from None


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    if not _is_file(path) and (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} is an adapter, not a model; merge it into its base model first "
            "(peft: merge_and_unload, then save_pretrained)"
        )
    if not _is_file(path):
        raise ValueError(f"model {folder} has no config.json; give the folder that save_pretrained wrote")
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a JSON object; obtain the checkpoint again")
    for name in ("config.json", "tokenizer_config.json"):
        content = read_json(folder / name) if _is_file(folder / name) else {}
        if isinstance(content, dict) and content.get("auto_map"):
            raise ValueError(
                f"{folder / name} asks for custom code (auto_map), which a bundle never runs; use a model "
                "that transformers and vllm know, or remove auto_map from a copy where they know it anyway"
            )
    return config


def _check_architecture(folder: Path, config: Mapping[str, Any], *, generating: bool) -> tuple[str, str]:
    path = folder / "config.json"
    model_type, architectures = config.get("model_type"), config.get("architectures")
    if not isinstance(model_type, str) or not model_type:
        raise ValueError(f"{path} names no model_type; obtain the checkpoint again")
    if (
        not isinstance(architectures, list)
        or len(architectures) != 1
        or not isinstance(architectures[0], str)
    ):
        raise ValueError(
            f'{path}: "architectures" must be a list of one name, got {str(architectures)[:100]!r}'
        )
    names = generating_architectures()
    if model_type not in names:
        raise ValueError(f"{path}: transformers knows no model_type {model_type!r}; use a model that it has")
    known = names[model_type]
    if generating and architectures[0] not in known:
        offer = f"; of {model_type!r} it has {', '.join(sorted(set(known)))}" if known else ""
        raise ValueError(
            f"{path}: architecture {architectures[0]!r} with model_type {model_type!r} is not a generating "
            f"model that transformers knows{offer}"
        )
    return architectures[0], model_type


def check_weights(folder: Path) -> tuple[str, ...]:
    """Check a checkpoint's safetensors files and return the names of those that a bundle takes.

    Raises:
        ValueError: there are none, one is cut short, or index and files disagree.
    """
    index = folder / INDEX
    if not _is_file(index):
        if _is_file(folder / SINGLE):
            tensor_names(folder / SINGLE)
            return (SINGLE,)
        raise _no_weights(folder)
    if _is_file(folder / SINGLE):
        raise ValueError(f"{folder} has both {SINGLE} and {INDEX}, so its weights are ambiguous; remove one")
    weight_map = _weight_map(index)
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        shards.setdefault(shard, set()).add(tensor)
    for shard in sorted(shards):
        if not _is_file(folder / shard):
            raise ValueError(f"{index} names {shard}, which is missing from {folder}; obtain it again")
        _check_shard(index, folder / shard, shards[shard])
    return (INDEX, *sorted(shards))


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map; obtain the checkpoint again")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard, re.ASCII):
            raise ValueError(
                f"{index}: tensor {tensor[:100]!r} lies in {str(shard)[:100]!r}, which is no plain name of a "
                ".safetensors file in the same folder"
            )
    return weight_map


def _check_shard(index: Path, shard: Path, expected: set[str]) -> None:
    held = tensor_names(shard)
    for names, fault in ((expected - held, "lacks"), (held - expected, "holds, unknown to the index,")):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise ValueError(
                f"{shard} {fault} {len(names)} tensors ({some}); it is not the shard of {index.name}"
            )


def tensor_names(path: Path) -> set[str]:
    """Names of the tensors in a safetensors file, once its header fits its size exactly (else ValueError)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file: {error}; it was "
            "cut short or damaged: copy it again"
        ) from None
    if not names:
        raise ValueError(f"{path} holds no tensors; obtain the checkpoint again")
    return names


def _no_weights(folder: Path) -> ValueError:
    names = [item.name for item in folder.iterdir()]
    pickles = sorted(name for name in names if Path(name).suffix in PICKLES)
    others = sorted(name for name in names if name.endswith(".safetensors"))
    if pickles:
        return ValueError(
            f"{folder} holds its weights as {pickles[0]}, a pickle, which can run code when it is loaded; "
            "convert it where you trust it: model.save_pretrained(folder, safe_serialization=True)"
        )
    if others:
        return ValueError(
            f"{folder} has {', '.join(others[:3])} but neither {SINGLE} nor {INDEX}; rename a single file to "
            f"{SINGLE}, or obtain the index of the shards"
        )
    return ValueError(f"model {folder} has no weights: {SINGLE} or {INDEX} with its shards is missing")


def _check_tokenizer(folder: Path) -> None:
    if not any(all(_is_file(folder / name) for name in names) for names in TOKENIZERS):
        offers = " or ".join(" with ".join(names) for names in TOKENIZERS)
        raise ValueError(f"model {folder} has no tokenizer: {offers} is missing (tokenizer.save_pretrained)")
    for name in sorted(TAKEN):
        if name.endswith(".json") and _is_file(folder / name):
            read_json(folder / name)
    if any(_is_file(folder / name) for name in TEMPLATES):
        return
    config = (
        read_json(folder / "tokenizer_config.json") if _is_file(folder / "tokenizer_config.json") else None
    )
    if not isinstance(config, dict) or not config.get("chat_template"):
        raise ValueError(
            f"model {folder} has no chat template; save one as chat_template.jinja (a model without one was "
            "not made to answer questions)"
        )


def _why_left_out(name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix in {".py", ".pyc", ".so"}:
        return "code is never taken from a checkpoint"
    if suffix in PICKLES:
        return "a pickle can run code when it is loaded"
    if suffix == ".safetensors":
        return "weights that the checkpoint's index does not name"
    return "not a file that the engines read"


def _model_name(folder: Path, config: Mapping[str, Any]) -> str:
    given = config.get("_name_or_path")
    # A path of the machine where the checkpoint was saved says nothing and would differ between builds.
    if isinstance(given, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", given, re.ASCII):
        return given
    return folder.resolve().name


def _card_license(card: Path) -> str | None:
    """The `license:` line of a model card's front matter."""
    if not _is_file(card):
        return None
    with card.open("rb") as file:
        lines = file.read(64 << 10).decode("utf-8", "replace").splitlines()
    return _license_in(lines[1:]) if lines and lines[0].strip() == "---" else None


def _license_in(lines: Iterable[str]) -> str | None:
    for line in lines:
        if line.strip() == "---":
            break
        found = re.fullmatch(r"license:\s*[\"']?([\w.+ -]{1,100}?)[\"']?\s*", line)
        if found:
            return found.group(1)
    return None
