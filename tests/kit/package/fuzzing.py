"""Random damage and malice for a small bundle, and a watch over what a reader of it does."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
Files = dict[str, bytes]


@dataclass
class Case:
    """A bundle's content to be: plain files, and what is put there in other ways after they are written."""

    files: Files
    seed: int
    kind: str = ""
    what: str = ""
    after: list[Callable[[Path], None]] = field(default_factory=list)

    def fit(self) -> None:
        """Make the manifest fit the files, and the lock the wheels."""
        lines = []
        for path, content in sorted(self.files.items()):
            if path.startswith("wheels/") and path.endswith(".whl"):
                name, version = path.removeprefix("wheels/").split("-")[:2]
                lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(content).hexdigest()}\n")
        split = json.loads(self.files[MANIFEST]).get("joined", [])
        lines += [f"{part['path'][7:].split('-')[0]}==1.0 --hash=sha256:{part['sha256']}\n" for part in split]
        self.files["requirements.txt"] = "".join(lines).encode()
        manifest = json.loads(self.files[MANIFEST])
        manifest["files"] = [
            {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for path, content in sorted(self.files.items())
            if path != MANIFEST
        ]
        self.files[MANIFEST] = json.dumps(manifest).encode()

    def write(self, root: Path) -> Path:
        """Write the bundle at `root`."""
        for path, content in self.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        for act in self.after:
            act(root)
        return root


class Payload:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, ("was-run",)


CODE = b"open('was-run', 'w').close()\nimport os, socket; os.system('touch was-run')\n"


# --- damage: the manifest stays, and tells -----------------------------------------------------------


def _truncate(case: Case, chance: random.Random, path: str) -> None:
    case.files[path] = case.files[path][: chance.randrange(len(case.files[path]))]


def _extend(case: Case, chance: random.Random, path: str) -> None:
    case.files[path] += chance.randbytes(chance.randint(1, 50))


def _flip(case: Case, chance: random.Random, path: str) -> None:
    content = bytearray(case.files[path])
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    case.files[path] = bytes(content)


def _noise(case: Case, chance: random.Random, path: str) -> None:
    content = bytearray(case.files[path])
    start = chance.randrange(len(content))
    for place in range(start, min(len(content), start + chance.randint(1, 64))):
        content[place] ^= chance.randint(1, 255)
    case.files[path] = bytes(content)


def _remove(case: Case, _: random.Random, path: str) -> None:
    del case.files[path]


def _rename(case: Case, chance: random.Random, path: str) -> None:
    name = "".join(chance.choices("abc._-", k=chance.randint(1, 8))).strip(".") or "x"
    case.files[f"{path}{name}" if chance.random() < 0.5 else f"{name}/{path}"] = case.files.pop(path)


def _add(case: Case, chance: random.Random, path: str) -> None:
    folder = path.rpartition("/")[0]
    name = chance.choice(
        ["sitecustomize.py", "x.pth", "x.pkl", "x", ".hidden", "\udcff", "evil.so", "x" * 200]
    )
    content = pickle.dumps(Payload()) if name == "x.pkl" else CODE
    place = f"{folder}/{name}" if folder else name
    case.after.append(lambda root: _put(root / place, content))


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _swap(case: Case, chance: random.Random, path: str) -> None:
    other = chance.choice([name for name, content in case.files.items() if content != case.files[path]])
    if other == MANIFEST:
        return _flip(case, chance, path)
    case.files[path], case.files[other] = case.files[other], case.files[path]
    return None


def _link(case: Case, chance: random.Random, path: str) -> None:
    target = chance.choice(["../outside", "/etc/hostname", path.rpartition("/")[2], "../same"])

    def act(root: Path) -> None:
        (root.parent / "same").write_bytes((root / path).read_bytes())
        (root / path).unlink()
        (root / path).symlink_to(str(root.parent / "same") if target == "../same" else target)

    case.after.append(act)


def _fifo(case: Case, _: random.Random, path: str) -> None:
    def act(root: Path) -> None:
        (root / path).unlink()
        os.mkfifo(root / path)

    case.after.append(act)


def _linked_folder(case: Case, chance: random.Random, _: str) -> None:
    folder = chance.choice(["model", "wheels", "submission"])

    def act(root: Path) -> None:
        (root / folder).rename(root.parent / "elsewhere")
        (root / folder).symlink_to(root.parent / "elsewhere")

    case.after.append(act)


DAMAGE = [
    _truncate, _extend, _flip, _noise, _remove, _rename, _add, _swap, _link, _fifo, _linked_folder,
]  # fmt: skip


def damaged(files: Files, seed: int) -> Case:
    """One to three random changes; the manifest stays as it was built."""
    chance = random.Random(seed)
    case = Case(dict(files), seed, "damage")
    paths = sorted(path for path in files if path != MANIFEST and files[path])
    for path in chance.sample(paths, chance.choice([1, 1, 1, 2, 3])):
        change = chance.choice(DAMAGE)
        if case.after and change in {_link, _fifo, _linked_folder, _add}:
            change = _flip
        case.what += f"{change.__name__} {path}; "
        if path in case.files:
            change(case, chance, path)
    return case


def misled(files: Files, seed: int) -> Case:
    """A random change of the manifest itself."""
    chance = random.Random(seed)
    case = Case(dict(files), seed, "manifest")
    change = chance.choice([_truncate, _extend, _flip, _noise, _edit, _edit])
    case.what = change.__name__
    change(case, chance, MANIFEST)
    return case


PATHS = [
    "../outside", "/etc/passwd", "a/../../x", "..", "", ".", "a//b", "a\\b", "a\0b", "model", MANIFEST,
    "x" * 3000, "a/" * 50 + "b", None, 7, ["a"], {"a": 1}, "\ud800",
]  # fmt: skip


def _edit(case: Case, chance: random.Random, path: str) -> None:
    content = json.loads(case.files[path])
    entry = chance.choice(content["files"])
    key = chance.choice(["path", "size", "sha256", "joined", "version", "files", "target"])
    odd = chance.choice([*PATHS, -1, 2**70, 1.5, True, "0" * 64, "f" * 63])
    if key in entry:
        entry[key] = odd
    elif key == "joined":
        content["joined"] = chance.choice(
            [odd, [odd], [{"path": odd, "size": odd, "sha256": odd, "parts": odd}]]
        )
    else:
        content[key] = odd
    case.files[path] = json.dumps(content).encode()


# --- malice: the manifest is made to fit -------------------------------------------------------------


def _plant_pickle(case: Case, chance: random.Random) -> None:
    name = chance.choice(
        ["pytorch_model.bin", "x.pt", "x.pkl", "training_args.bin", "vocab.txt", "merges.txt"]
    )
    place = chance.choice(["model/", "licenses/", "", "notebook/"])
    protocol = chance.choice([2, 3, 4, 5])
    case.files[f"{place}{name}"] = pickle.dumps(Payload(), protocol=protocol)


def _plant_code(case: Case, chance: random.Random) -> None:
    name = chance.choice(["sitecustomize.py", "usercustomize.py", "json.py", "x.pth", "x.so", "__init__.py"])
    case.files[chance.choice(["", "model/", "licenses/", "numpy/"]) + name] = CODE


def _plant_wheel(case: Case, chance: random.Random) -> None:
    inner = chance.choice(
        [
            "../" * chance.randint(1, 6) + "outside.py", "/tmp/outside.py", "a/../../outside.py",
            "..\\outside.py", "C:/outside.py", "sitecustomize.py", "hook.pth", "LINK", "BOMB", "TWICE",
            "x-1.0.data/purelib/usercustomize.py", "a/../../../" + "b" * chance.randint(1, 50),
        ]
    )  # fmt: skip
    case.what += inner[:30]
    case.files["wheels/hostile-1.0-py3-none-any.whl"] = hostile_wheel(inner)


def hostile_wheel(inner: str) -> bytes:
    """A wheel named `hostile` with one member that no wheel should have."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hostile.py", CODE)
        archive.writestr("hostile-1.0.dist-info/METADATA", "Name: hostile\nVersion: 1.0\n")
        if inner == "LINK":
            info = zipfile.ZipInfo("link")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc")
        elif inner == "BOMB":
            # The list of members claims it; writing the zeros for each case would be slow.
            info = zipfile.ZipInfo("zeros")
            archive.writestr(info, b"0")
            archive.getinfo("zeros").file_size = 1 << 31
        elif inner == "TWICE":
            with contextlib.suppress(UserWarning):
                archive.filelist.append(archive.getinfo("hostile.py"))
        else:
            archive.writestr(inner, CODE)
    return buffer.getvalue()


def _plant_config(case: Case, chance: random.Random) -> None:
    config = json.loads(case.files["model/config.json"])
    key = chance.choice(["hidden_size", "vocab_size", "architectures", "model_type", "auto_map"])
    odd = {
        "hidden_size": config["hidden_size"] * chance.randint(2, 9),
        "vocab_size": config["vocab_size"] + chance.randint(1, 999),
        "architectures": chance.choice([[], ["EvilForCausalLM"], "x", None, [1]]),
        "model_type": chance.choice(["", None, "evil", 3]),
        "auto_map": {"AutoModel": "modeling_evil.Evil"},
    }
    config[key] = odd[key]
    case.files["model/config.json"] = json.dumps(config).encode()


def _plant_weights(case: Case, chance: random.Random) -> None:
    """A header that lies: cut, too long, or of another size."""
    content = case.files["model/model.safetensors"]
    length = int.from_bytes(content[:8], "little")
    way = chance.choice(["short", "huge", "negative", "cut"])
    changed = {
        "short": (length - chance.randint(1, length)).to_bytes(8, "little") + content[8:],
        "huge": chance.randint(2**40, 2**63).to_bytes(8, "little") + content[8:],
        "negative": b"\xff" * 8 + content[8:],
        "cut": content[: chance.randrange(len(content))],
    }
    case.files["model/model.safetensors"] = changed[way]


def _lose(case: Case, chance: random.Random) -> None:
    wanted = ["model/tokenizer.json", "model/model.safetensors", "model/config.json", "contest.toml"]
    wheel = next(path for path in case.files if path.startswith("wheels/small"))
    del case.files[chance.choice([*wanted, wheel])]


def _plant_settings(case: Case, chance: random.Random) -> None:
    case.files["contest.toml"] = chance.choice(
        [
            b"\xff\xfe",
            b"[rules",
            b"[rules]\nevil = 1\n",
            b"rules = 3\n",
            b"[solver]\nnum_agents = 'x'\n",
            b"\0",
        ]
    )


MALICE = [_plant_pickle, _plant_code, _plant_wheel, _plant_config, _plant_weights, _lose, _plant_settings]


def malicious(files: Files, seed: int) -> Case:
    """One plant, and a manifest and lock that fit it."""
    chance = random.Random(seed)
    case = Case(dict(files), seed, "malice")
    plant = chance.choice(MALICE)
    case.what = f"{plant.__name__} "
    plant(case, chance)
    case.fit()
    return case


def noisy(files: Files, seed: int) -> Case:
    """Noise in what is parsed (wheels, weights, JSON, TOML) behind a manifest that fits."""
    chance = random.Random(seed)
    case = Case(dict(files), seed, "noise")
    kinds = (".whl", ".part-000", ".safetensors", ".json", ".toml")
    paths = sorted(path for path in files if path.endswith(kinds) and path != MANIFEST)
    path = chance.choice(paths)
    change = chance.choice([_truncate, _extend, _flip, _noise, _noise])
    case.what = f"{change.__name__} {path}"
    change(case, chance, path)
    case.fit()
    return case


# --- the watch ---------------------------------------------------------------------------------------

_RUNS = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class"}
)
_REACHES = frozenset({"socket.connect", "socket.getaddrinfo", "socket.sendto"})
_CHANGES = frozenset(
    {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate",
     "shutil.rmtree", "shutil.move", "os.chown", "os.utime"}
)  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """Notes what this process runs, loads, writes and connects to while it is on.

    Python keeps an audit hook for ever, so there is one watch, which is off between cases.
    """

    def __init__(self) -> None:
        self.on = False
        self.root = self.target = ""
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def over(self, root: Path, target: Path) -> Iterator[list[str]]:
        """Watch a reader of the bundle at `root` that may write below `target` alone."""
        self.root, self.target, self.seen = str(root), str(target), []
        self.on = True
        try:
            yield self.seen
        finally:
            self.on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on:
            # What it does itself is not looked at.
            self.on = False
            try:
                self._look(event, arguments)
            finally:
                self.on = True

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _RUNS or event in _REACHES:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and not self._allowed(path):
                self.seen.append(f"open for writing {path!r}")
        elif event in _CHANGES:
            if not all(self._allowed(path) for path in arguments if isinstance(path, str | bytes | Path)):
                self.seen.append(f"{event} {arguments!r:.200}")
        elif event in {"exec", "import"}:
            source = getattr(arguments[0], "co_filename", None) if event == "exec" else arguments[1]
            if source and str(source).startswith(self.root):
                self.seen.append(f"{event} {source}")

    def _allowed(self, path: Any) -> bool:
        return isinstance(path, int) or os.fsdecode(path).startswith(self.target)
