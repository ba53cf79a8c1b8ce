"""The house's rules, checked: who may import whom, what stays light, what never appears in the source."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("submission", "kit", "benchmarks")
FORBIDDEN = {"submission": {"kit", "benchmarks", "tests"}, "kit": {"benchmarks", "tests"}}
HEAVY = ("torch", "vllm", "transformers", "sympy")


# --- who imports whom --------------------------------------------------------------------------------


def source_files(root: Path, package: str) -> dict[str, Path]:
    """Module name to file, for every module of a package."""
    modules = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports_of(nodes: Iterable[ast.AST], module: str, *, is_package: bool) -> Iterator[str]:
    """Absolute names that the code imports: `a.b` for `import a.b`, `a.b.c` for `from a.b import c`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".") if is_package else module.split(".")[:-1]
            above = base[: len(base) - node.level + 1] if node.level else []
            prefix = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def run_by_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes of the code that runs on import: no functions, nothing under `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting += node.orelse
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def wrong_imports(root: Path) -> list[str]:
    """`module imports name` for every import that goes against the direction, at any depth of the code."""
    found = []
    for package, forbidden in FORBIDDEN.items():
        for module, path in source_files(root, package).items():
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = imports_of(ast.walk(tree), module, is_package=path.stem == "__init__")
            found += [f"{module} imports {name}" for name in names if name.partition(".")[0] in forbidden]
    return found


def import_cycle(root: Path, package: str) -> list[str]:
    """Modules of one cycle among the imports that run when a package's modules load; empty if none."""
    files = source_files(root, package)
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        nodes = run_by_import(ast.parse(path.read_text(encoding="utf-8")))
        graph[module] = set()
        for name in imports_of(nodes, module, is_package=path.stem == "__init__"):
            target = name if name in files else name.rpartition(".")[0]
            if target in files and target != module:
                graph[module].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(module) for module in error.args[1]]
    return []


def test_imports_go_one_way() -> None:
    assert wrong_imports(ROOT) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_cycles(package: str) -> None:
    assert len(source_files(ROOT, package)) > 1
    assert import_cycle(ROOT, package) == []


def write_modules(root: Path, modules: dict[str, str]) -> None:
    for name, code in modules.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)


def test_wrong_imports_are_seen_wherever_they_hide(tmp_path: Path) -> None:
    code = {
        "submission/a.py": "def f():\n    import kit.models\n",
        "submission/b.py": "import typing\nif typing.TYPE_CHECKING:\n    from tests import tiny\n",
        "submission/c.py": "from submission.kit import x\nimport kitchen\n",
        "kit/d.py": "import submission\nfrom benchmarks.shared import shared_file\n",
    }
    write_modules(tmp_path, code)
    assert wrong_imports(tmp_path) == [
        "submission.a imports kit.models",
        "submission.b imports tests.tiny",
        "kit.d imports benchmarks.shared.shared_file",
    ]


def test_cycles_are_seen_and_deferred_imports_are_not_one(tmp_path: Path) -> None:
    code = {
        "kit/__init__.py": "",
        "kit/a.py": "from kit import b\n",
        "kit/b.py": "from . import deep\n",
        "kit/deep/__init__.py": "from .c import x\n",
        "kit/deep/c.py": "class C:\n    from kit.a import x\n",
    }
    write_modules(tmp_path, code)
    assert set(import_cycle(tmp_path, "kit")) == {"kit.a", "kit.b", "kit.deep", "kit.deep.c"}
    write_modules(tmp_path, {"kit/deep/c.py": "def x():\n    import kit.a\n"})
    assert import_cycle(tmp_path, "kit") == []
    later = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kit.a import y\nx = 1\n"
    write_modules(tmp_path, {"kit/deep/c.py": later})
    assert import_cycle(tmp_path, "kit") == []


# --- what stays light --------------------------------------------------------------------------------


def loaded_by(modules: list[str]) -> dict[str, list[str]]:
    """Import the modules one after another in a fresh process: which heavy ones each brought in first."""
    code = (
        "import importlib, json, sys\n"
        "seen, brought = set(), {}\n"
        "for name in sys.argv[2:]:\n"
        "    importlib.import_module(name)\n"
        "    new = (set(json.loads(sys.argv[1])) & set(sys.modules)) - seen\n"
        "    seen |= new\n"
        "    brought[name] = sorted(new)\n"
        "print(json.dumps(brought))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(HEAVY), *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("package", ["submission", "kit"])
def test_importing_loads_nothing_heavy(package: str) -> None:
    modules = list(source_files(ROOT, package))
    assert package in modules
    assert {name: heavy for name, heavy in loaded_by(modules).items() if heavy} == {}


@pytest.mark.parametrize("name", ["", ".answers", ".ledger", ".settings", ".bundle", ".__main__"])
def test_light_modules_are_light_alone(name: str) -> None:
    module = f"submission{name}"
    assert loaded_by([module]) == {module: []}


def test_heavy_imports_would_be_seen() -> None:
    assert "sympy" in loaded_by(["submission", "sympy"])["sympy"]


# --- what never appears in the source ----------------------------------------------------------------


def project_files() -> list[Path]:
    """What git tracks or would track; without git, everything outside build outputs."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        names = [ROOT / name for name in listed.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        outputs = {"build", "runs", "bundles", "dist"}
        names = [
            path
            for path in ROOT.rglob("*")
            if not any(part in outputs or part.startswith(".") for part in path.relative_to(ROOT).parts)
            and not {"__pycache__"} & set(path.parts)
        ]
    return [path for path in names if path.is_file()]


# Each name is put together from pieces, so that this file does not hold what it looks for.
LOCAL_PATH = r"(?<![\w.~})\]-])/(?:" + "wo" + "rk|ro" + "ot|tmp/en" + r"v\d)\b"
HOSTS = [
    ("py" + "pi", "org"),
    ("python" + "hosted", "org"),
    ("download.py" + "torch", "org"),
    ("conda.ana" + "conda", "org"),
]
NEVER = re.compile("|".join([LOCAL_PATH, *(r"\b" + re.escape(".".join(host)) + r"\b" for host in HOSTS)]))


def mentions(text: str) -> list[str]:
    """Places of this text that name a local machine's folder or a package registry."""
    return [found.group() for found in NEVER.finditer(text)]


def test_no_file_names_a_local_path_or_a_registry() -> None:
    files = project_files()
    assert len(files) > 20
    found = {
        str(path.relative_to(ROOT)): places
        for path in files
        if (places := mentions(path.read_bytes().decode("utf-8", errors="replace")))
    }
    assert found == {}


def test_mentions_are_told_from_lookalikes() -> None:
    for pieces in (
        ("/wo", "rk/main"),
        ("'/ro", "ot'"),
        ("=/tmp/en", "v1/bin"),
        ("https://py", "pi.org/simple"),
    ):
        assert mentions("".join(pieces)), pieces
    for text in (
        "/kaggle/working/x",
        "frame/wo" + "rk/x",
        "~/root",
        "/roots",
        "pypi" + ".organ",
        "/tmp/envelope",
        "{base}/work",
    ):
        assert not mentions(text), text


DANGEROUS_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def dangers(tree: ast.AST) -> Iterator[str]:
    """Code that would run what a model, a bundle or a checkpoint says: by kind and line."""
    for name in imports_of(ast.walk(tree), "module", is_package=False):
        if name.partition(".")[0] in DANGEROUS_MODULES:
            yield f"import of {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            keywords = {word.arg: word.value for word in node.keywords}
            if called in ("eval", "exec", "builtins.eval", "builtins.exec", "os.system", "os.popen"):
                yield f"{called}() in line {node.lineno}"
            if called == "torch.load" and not is_true(keywords.get("weights_only")):
                yield f"torch.load() without weights_only in line {node.lineno}"
            for word in ("trust_remote_code", "allow_pickle", "shell"):
                if word in keywords and not is_false(keywords[word]):
                    yield f"{word} in line {node.lineno}"
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code" and not is_false(value):
                    yield f"trust_remote_code in line {node.lineno}"


def dotted(node: ast.expr) -> str:
    """`a.b` of such a name, and of any other expression's attributes what follows it."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return ".".join([node.id, *names] if isinstance(node, ast.Name) else ["", *names])


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


RUNS_CODE = "submission.sandbox.cell"
"""Where model-written code is run: inside a worker of the sandbox, and nowhere else."""


@pytest.mark.parametrize("package", ["submission", "kit"])
def test_source_runs_nothing_that_it_is_given(package: str) -> None:
    found = {
        module: places
        for module, path in source_files(ROOT, package).items()
        if module != RUNS_CODE and (places := list(dangers(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "eval('1')",
        "exec(text, {})",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "load(path, trust_remote_code=True)",
        "load(path, trust_remote_code=flag)",
        "load(path, **{'trust_remote_code': True})",
        "numpy.load(path, allow_pickle=True)",
        "subprocess.run('ls', shell=True)",
    ],
)
def test_dangerous_code_is_seen(code: str) -> None:
    assert list(dangers(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "error = 'a pickle file is refused, and so is eval(x)'",
        "torch.load(path, weights_only=True)",
        "load(path, trust_remote_code=False)",
        "executor.exec_module(spec)",
    ],
)
def test_harmless_code_is_not_blamed(code: str) -> None:
    assert not list(dangers(ast.parse(code)))
