"""The whole way with the real quantizer, in its own environment, and the real engine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kit.package.making import Request
from kit.package.making import make as package
from kit.package.quantize.environment import ROOT, quantize_environment
from kit.package.quantize.layers import file_digests, read_tensors
from kit.package.quantize.load import why_not_vllm
from kit.package.quantize.prepare import Wish
from kit.package.quantize.run import MAX_LOSS, Quantized, quantize
from kit.package.quantize.schemes import SCHEMES
from kit.package.quantize.traces import Wanted
from kit.small import make_small_model
from submission.bundle import verify
from submission.checkpoint import inspect
from tests.kit.package.quantize.made import traces
from tests.kit.package.quantize.test_adapter import make_adapter
from tests.submission.prm import checkpoints
from tests.submission.prm.checkpoints import classifier

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]


@pytest.fixture(scope="module")
def python() -> Path:
    """The environment that the packager uses itself: made here, if it is not there yet."""
    return quantize_environment(lambda _: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantize")


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    return make_small_model(place / "base", hidden=64, layers=2, heads=2, intermediate=128, seed=0)


@pytest.fixture(scope="module")
def wanted(place: Path) -> Wanted:
    return Wanted((traces(place / "traces.jsonl", 160),), calibration=64, held_out=32)


def make(
    model: Path,
    scheme: str,
    wanted: Wanted,
    place: Path,
    python: Path,
    max_loss: float = MAX_LOSS,
    **more: Any,
) -> Quantized:
    return quantize(
        model,
        SCHEMES[scheme],
        wanted,
        say=lambda _: None,
        max_loss=max_loss,
        cache=place / "cache",
        environment=python,
        **more,
    )


def process_reward(folder: Path) -> Path:
    """As Qwen2.5-Math-PRM is published, but for the code that a bundle never runs."""
    path = checkpoints.process_reward(folder) / "config.json"
    config = json.loads(path.read_text())
    del config["auto_map"]
    path.write_text(json.dumps(config))
    return folder


def test_int8_is_calibrated_judged_and_served(base: Path, wanted: Wanted, place: Path, python: Path) -> None:
    names = tuple(path.name for path in base.iterdir())
    before = file_digests(base, names)
    made = make(base, "int8", wanted, place, python)
    assert file_digests(base, names) == before
    report, tensors = made.report, read_tensors(made.folder)
    assert tensors["model.layers.1.mlp.down_proj.weight"].dtype == "I8"
    assert report["layers"] == {"quantized": 14, "left_out": ["model.embed_tokens"], "tied": True}
    assert report["calibration"]["traces"] == 64
    assert abs(report["figures"]["loss"]) < 0.01
    assert report["figures"]["agreement"] > 0.9
    assert report["size"]["ratio"] < 0.5  # of float32
    assert report["load_check"]["engine"].startswith("vllm")
    assert report["load_check"]["difference"] < 0.01
    assert report["tools"]["llmcompressor"]
    # Tokenizer and template are the base's own; the configuration gains the quantization and nothing else.
    config = json.loads((made.folder / "config.json").read_text())
    assert config.pop("quantization_config")["quant_method"] == "compressed-tensors"
    assert config == json.loads((base / "config.json").read_text())
    for name in set(names) - {"config.json", "model.safetensors"}:
        assert (made.folder / name).read_bytes() == (base / name).read_bytes()
    # Once more: nothing is made again.
    changed = (made.folder / "model.safetensors").stat().st_mtime_ns
    assert make(base, "int8", wanted, place, python).report == report
    assert (made.folder / "model.safetensors").stat().st_mtime_ns == changed


def test_four_bits_are_checked_by_what_can_load_them_here(
    base: Path, wanted: Wanted, place: Path, python: Path
) -> None:
    made = make(base, "w4a16-rtn", wanted, place, python)
    assert made.report["group_size"] == 64
    why = why_not_vllm(SCHEMES["w4a16-rtn"], gpu=False)
    checked = made.report["load_check"]
    assert checked["why"] == why
    assert checked["engine"].startswith("transformers" if why else "vllm")
    assert checked["dtype"] == ("auto" if why else "bfloat16")


def test_too_great_a_loss_stops_and_leaves_nothing(
    base: Path, wanted: Wanted, place: Path, python: Path
) -> None:
    cache = place / "lossy"
    with pytest.raises(
        ValueError, match=r"loses too much .*perplexity .*--max-loss allows -1.*fp8"
    ) as caught:
        quantize(
            base,
            SCHEMES["int8-rtn"],
            wanted,
            say=lambda _: None,
            max_loss=-1,
            cache=cache,
            environment=python,
        )
    assert "KL" in str(caught.value)
    assert [path for path in cache.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(("kind", "scheme"), [(classifier, "int8"), (process_reward, "fp8")])
def test_a_prm_keeps_its_head_and_its_scores(kind: Any, scheme: str, place: Path, python: Path) -> None:
    folder = kind(place / kind.__name__)
    known = "First, 1 + 1 = 2.\n\nThen 2 + 2 = 4."
    wanted = Wanted((traces(place / f"{kind.__name__}.jsonl", 110, completion=known, correct=False),), 64, 32)
    # A head of random weights is moved more easily than a trained one.
    made = make(folder, scheme, wanted, place, python, max_loss=0.02, prm=True)
    report = made.report
    assert report["figures"]["steps"] == 64
    assert report["figures"]["mean_difference"] < 0.02
    assert report["load_check"]["engine"].startswith("vllm")
    heads = [name for name in read_tensors(made.folder) if name.startswith("score")]
    assert heads
    assert not any(name.endswith("_scale") for name in heads)
    assert inspect(made.folder, prm=True).architecture == inspect(folder, prm=True).architecture


def test_a_process_reward_head_is_not_calibrated(place: Path, wanted: Wanted, python: Path) -> None:
    folder = process_reward(place / "uncalibrated")
    with pytest.raises(ValueError, match=r"to calibrate; choose fp8"):
        make(folder, "int8", wanted, place, python, prm=True)


def test_the_quantizers_own_failure_is_told(base: Path, wanted: Wanted, place: Path) -> None:
    # An environment without the quantizer.
    with pytest.raises(ValueError, match=r"(?s)the quantizer failed .*No module named .llmcompressor"):
        make(base, "int8-rtn", wanted, place, Path(sys.executable))
    assert not [path for path in (place / "cache").glob("*int8-rtn*") if path.is_dir()]


@pytest.mark.usefixtures("python")
def test_a_bundle_of_a_merged_and_quantized_model(
    base: Path, wanted: Wanted, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter(place / "adapter", rows=128, width=64, target_modules=["layers.0.mlp.up_proj"])
    draft = make_small_model(place / "draft", hidden=32, layers=1, heads=1, intermediate=32, seed=0)
    out = place / "bundle"
    wish = Wish(
        quantize="fp8",
        traces=wanted.files,
        adapter=adapter,
        cache=place / "cache",
        merged=place / "merged",
    )
    request = Request(
        model=base,
        out=out,
        with_wheels=False,
        allow_dirty=True,
        profile="demo",
        contest="none",
        wish=wish,
        draft=draft,
    )
    assert package(request) is not None
    assert "FP8_DYNAMIC" in capsys.readouterr().out
    assert verify(out) == []
    manifest = json.loads((out / "manifest.json").read_text())
    record = manifest["quantization"]
    assert record == json.loads((out / "quantization.json").read_text())
    assert record["adapter"]["adapter"]["name"] == "adapter"
    assert record["solver"]["scheme"] == "fp8"
    assert record["solver"]["max_loss"] == MAX_LOSS
    assert manifest["draft"]["architecture"] == "Qwen2ForCausalLM"
    assert (out / "draft" / "model.safetensors").is_file()
    assert read_tensors(out / "model")["model.layers.0.mlp.up_proj.weight"].dtype == "F8_E4M3"
    assert str(place) not in (out / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quantize", "gguf"], "served by vLLM"),
        (["--quantize", "int8"], "--calibration-traces is missing"),
    ],
)
def test_a_wish_that_cannot_be_is_one_line_and_exit_code_2(
    base: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    command = [sys.executable, "-m", "kit.package", "--model", str(base), "--out", str(tmp_path / "b")]
    command += ["--no-wheels", "--allow-dirty", "--profile", "demo", "--contest", "none", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b").exists()
