"""Small things that the packager's tests are made of: checkpoints with random weights, wheels, bundles."""

import base64
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from kit.package.build import build
from kit.package.contents import plan
from kit.package.targets import Target
from kit.package.wheels import Wheelhouse, describe
from submission.checkpoint import inspect
from submission.settings import ContestSettings

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "vocab_size": 16,
}
TENSORS = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight")


def make_checkpoint(
    folder: Path, *, shards: int = 1, rows: int = 16, config: dict[str, Any] | None = None
) -> Path:
    """A checkpoint that passes every check: three random tensors of `rows` rows in one or more shards."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal((rows, 8), dtype=np.float32) for name in TENSORS}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        names = {
            name: f"model-{index % shards + 1:05}-of-{shards:05}.safetensors"
            for index, name in enumerate(TENSORS)
        }
        for shard in set(names.values()):
            save_file({name: tensors[name] for name in TENSORS if names[name] == shard}, folder / shard)
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})
    write_json(folder / "config.json", {**CONFIG, "vocab_size": rows, **(config or {})})
    write_json(folder / "generation_config.json", {"eos_token_id": 2})
    write_json(
        folder / "tokenizer.json", {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}
    )
    write_json(folder / "tokenizer_config.json", {"chat_template": "{{ messages[0].content }}"})
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# A model\n")
    (folder / "LICENSE").write_text("A licence.\n")
    return folder


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def make_wheel(
    folder: Path,
    name: str = "smallthing",
    version: str = "1.0",
    tag: str = "py3-none-any",
    source: str = "VALUE = 42\n",
    *,
    requires: Sequence[str] = (),
    extra: Mapping[str | zipfile.ZipInfo, bytes] | None = None,
) -> Path:
    """A real wheel with one module that pip installs; `extra` are members that its RECORD does not know."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n"
    metadata += "".join(f"Requires-Dist: {text}\n" for text in requires)
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
        for member, content in (extra or {}).items():
            archive.writestr(member, content, compress_type=zipfile.ZIP_DEFLATED)
    return wheel


def make_wheelhouse(folder: Path, *wheels: Path) -> Wheelhouse:
    return Wheelhouse(folder, tuple(describe(path, Target.local()) for path in wheels))


def make_bundle(out: Path, model: Path, house: Wheelhouse | None = None, **options: Any) -> Path:
    """Build a bundle of `model` at `out` for this machine."""
    return build(plan(inspect(model), ContestSettings(), Target.local(), house, **options), out).folder


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below a folder with its mode, and its content if it is a file."""
    return {
        path.relative_to(folder).as_posix(): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }
