"""The estimate as a whole: memory under each engine by hand, work, refusals with ways out that work."""

import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from kit.distill.recipe import DistillRecipe
from kit.training.estimate.memory import BUCKET, Cluster, Memory, TeacherUse, memory
from kit.training.estimate.plan import RESERVE, Estimate, estimate, limit_of, require_fit
from kit.training.estimate.render import render
from kit.training.estimate.shape import Shape, shape_of
from kit.training.estimate.work import Rows, forward_flops, work
from kit.training.recipe import Dtype

LARGE = shape_of("Qwen/Qwen2.5-32B")
SMALL = shape_of("Qwen/Qwen2.5-1.5B")
ROWS = Rows.assume(16_710, 5_500)


def recipe(*overrides: str) -> DistillRecipe:
    return DistillRecipe.load(None, overrides)


def made(*overrides: str, shape: Shape = LARGE, rows: Rows = ROWS) -> Estimate:
    return estimate(recipe(*overrides), shape, shape, rows)


def states(held: Memory) -> dict[str, int]:
    return {item.name: item.bytes for item in held.gpu if item.when in ("always", "step")}


# --- memory ------------------------------------------------------------------------------------------


def test_zero_divides_what_it_says() -> None:
    # Rajbhandari et al. 2020, figure 1: 2 + 2 + 12 bytes a parameter over 4 ranks.
    count, four = SMALL.parameters, Cluster(4)
    copy, moments = 4 * count, 8 * count
    parts = {1: (1, 1, 4), 2: (1, 4, 4), 3: (4, 4, 4)}
    for stage, (weights, gradients, optimizer) in parts.items():
        held = states(memory(recipe(f"parallel.zero_stage={stage}"), SMALL, four))
        assert held["parameters"] == 2 * count // weights
        assert held["gradients"] == 2 * count // gradients
        assert held["optimizer's copy of the weights"] == copy // optimizer
        assert held["Adam's moments"] == moments // optimizer
        assert held["gradients for the optimizer"] == copy // optimizer
        assert held["reduce bucket"] == 2 * BUCKET
    # The plain engine keeps float32 gradients: 2 + 4 + 4 + 8.
    plain = states(memory(recipe("parallel.engine=torch"), SMALL, four))
    assert sum(plain.values()) == 18 * count
    assert plain == states(memory(recipe("parallel.zero_stage=0"), SMALL, four))


def test_offloading_moves_states_to_the_cpu() -> None:
    base = ("parallel.offload_optimizer=true",)
    held = memory(recipe(*base), SMALL, Cluster(16, 8))
    assert set(states(held)) == {"parameters", "reduce bucket"}
    # Half of the 16 ranks are on a node: 12 bytes of optimizer, 4 + 2 of gradients, 12 of a checkpoint.
    assert held.cpu_total == pytest.approx(30 * SMALL.parameters / 2, rel=1e-6)
    both = memory(recipe(*base, "parallel.offload_parameters=true"), SMALL, Cluster(16, 8))
    assert "parameters" not in states(both)
    assert both.cpu_total == pytest.approx(32 * SMALL.parameters / 2, rel=1e-6)


def test_checkpoint_copy_is_the_nodes_part() -> None:
    # Weights and two moments in float32, each kept by one of the ranks, whatever the engine.
    for engine in ("torch", "deepspeed"):
        held = memory(recipe(f"parallel.engine={engine}"), SMALL, Cluster(16, 8))
        assert held.cpu_total == pytest.approx(12 * SMALL.parameters / 2, rel=1e-6), engine


def test_lora_trains_little_and_keeps_the_base() -> None:
    held = states(memory(recipe("model.lora.rank=16", "parallel.engine=torch"), SMALL, Cluster(1)))
    widths = [(1536, 1536), (1536, 256), (1536, 256), (1536, 1536), (1536, 8960), (1536, 8960), (8960, 1536)]
    adapters = 28 * 16 * sum(a + b for a, b in widths)
    assert held["parameters"] == 2 * SMALL.parameters + 4 * adapters
    assert held["Adam's moments"] == 8 * adapters
    assert held["gradients"] == 4 * adapters
    assert "optimizer's copy of the weights" not in held
    zero = states(memory(recipe("model.lora.rank=16"), SMALL, Cluster(2)))
    assert zero["parameters"] == SMALL.parameters + adapters
    assert zero["optimizer's copy of the weights"] == 4 * adapters / 2
    four_bits = recipe("model.lora.rank=16", "model.lora.quantize_base=nf4", "parallel.engine=torch")
    quantized = states(memory(four_bits, SMALL, Cluster(1)))["parameters"]
    rest = SMALL.parameters - SMALL.layers * SMALL.block_weights
    expected = 0.516 * SMALL.layers * SMALL.block_weights + 2 * rest + 4 * adapters
    assert quantized == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match=r"model\.lora\.targets has lm_head; the estimate knows q_proj"):
        memory(recipe('model.lora.targets=["lm_head"]'), SMALL, Cluster(1))


def test_teacher_is_partitioned_under_deepspeed_only() -> None:
    for overrides, split in (((), 16), (("teacher.partitioned=false",), 1), (("parallel.engine=torch",), 1)):
        items = {item.name: item.bytes for item in made(*overrides).memory.gpu}
        assert items["teacher"] == 2 * LARGE.parameters // split
    for overrides in (("loss.alpha=0",), ("teacher.source=cached",)):
        result = made(*overrides)
        assert result.teacher is None
        assert result.work.teacher == 0
        assert not [item for item in result.memory.gpu if "teacher" in item.name]


@settings(max_examples=40, deadline=None)
@given(
    gpus=st.sampled_from([1, 2, 8, 64]),
    stage=st.integers(0, 3),
    length=st.integers(1024, 32768),
    dtype=st.sampled_from(["bfloat16", "float32", "float64"]),
    checkpointing=st.booleans(),
    chunk=st.integers(128, 4096),
)
def test_more_of_anything_needs_no_less(
    gpus: int, stage: int, length: int, dtype: Dtype, checkpointing: bool, chunk: int
) -> None:
    def held(gpus: int, stage: int, length: int, checkpointing: bool) -> Memory:
        settings = recipe(
            f"parallel.zero_stage={stage}",
            f"batch.max_length={length}",
            f"model.dtype={dtype}",
            f"model.gradient_checkpointing={str(checkpointing).lower()}",
            f"model.head_chunk={chunk}",
        )
        teacher = TeacherUse(SMALL, "bfloat16", partitioned=True)
        return memory(settings, SMALL, Cluster(gpus), teacher)

    base = held(gpus, stage, length, checkpointing)
    longer = held(gpus, stage, 2 * length, checkpointing)
    assert longer.gpu_peak >= base.gpu_peak
    for phase in ("teacher", "loss", "backward"):
        assert sum(item.bytes for item in longer.during(phase)) > sum(
            item.bytes for item in base.during(phase)
        )
    assert held(gpus, stage, length, True).gpu_peak <= held(gpus, stage, length, False).gpu_peak
    if gpus > 1:
        assert held(2 * gpus, stage, length, checkpointing).gpu_peak <= base.gpu_peak


# --- work --------------------------------------------------------------------------------------------


def test_work_by_hand() -> None:
    tiny = Shape("llama", 10, 4, 6, 2, 2, 1, 2, tied=True)
    weights = 2 * (4 * 4 + 4 * 2 * 2 + 4 * 4 + 3 * 4 * 6) + 10 * 4
    rows = Rows.from_lengths([3, 5])
    assert (rows.rows, rows.tokens, rows.squares) == (2, 8, 34)
    forward = 2 * weights * 8 + 2 * 2 * 4 * 34
    assert forward_flops(tiny, 8, 34) == forward
    settings = recipe("batch.epochs=3", "batch.batch_size=4", "model.gradient_checkpointing=true")
    done = work(settings, tiny, tiny, rows, gpus=8, tflops=1e-6, mfu=0.5)
    assert done.steps == 2  # 6 rows, 4 a step
    assert done.tokens == 24
    assert done.training == 9 * forward
    assert done.recomputation == 3 * (forward - 2 * 40 * 8)
    assert done.teacher == 3 * forward
    # 4 sequences keep 4 of 8 GPUs busy, at 10^6 FLOP/s and half of it.
    assert done.hours == pytest.approx((15 * forward - 3 * 640) / (4 * 1e6 * 0.5) / 3600)


def test_max_steps_cuts_the_run() -> None:
    rows = Rows.assume(100, 10)
    for steps, tokens in ((5, 5 * 4 * 10), (75, 3000), (1000, 3000), (0, 3000)):
        done = work(recipe(f"batch.max_steps={steps}"), SMALL, None, rows, gpus=1, tflops=1, mfu=1)
        assert done.tokens == tokens
        assert done.steps == (steps if 0 < steps < 75 else 75)


def test_no_rows() -> None:
    with pytest.raises(ValueError, match=r"0 rows .* assume\.rows"):
        made(rows=Rows.assume(0, 0))


def test_equal_rows_have_the_least_attention() -> None:
    lengths = [10, 500, 2000, 90]
    read = Rows.from_lengths(lengths)
    even = Rows.assume(4, sum(lengths) / 4)
    assert read.tokens == even.tokens
    assert even.squares < read.squares
    assert (read.assumed, even.assumed) == (False, True)


# --- fit ---------------------------------------------------------------------------------------------


def test_the_default_recipe_fits_and_says_what_it_assumes() -> None:
    result = made()
    require_fit(result.memory, result.gpu_bytes, result.ways_out)
    assert result.fits
    assert result.ways_out == ()
    assert result.memory.gpu_peak < limit_of(result.gpu_bytes) == int(80e9 * (1 - RESERVE))
    assert any("16 GPUs of 80 GB" in sentence for sentence in result.assumed)
    assert any("not read from data" in sentence for sentence in result.assumed)
    assert not any("not read" in sentence for sentence in made(rows=Rows(10, 100, 1000)).assumed)


def test_refusal_names_excess_culprits_and_ways_out_that_work() -> None:
    result = made("assume.gpus=8", "batch.max_length=32768")
    with pytest.raises(ValueError) as caught:
        require_fit(result.memory, result.gpu_bytes, result.ways_out)
    text = str(caught.value)
    excess = (result.memory.gpu_peak - limit_of(result.gpu_bytes)) / 1e9
    assert f"{excess:,.1f} GB more than the 73.6 GB of 80.0 GB" in text
    assert "Adam's moments 32.8 GB" in text
    ways = {
        "ZeRO 3 with offload_optimizer (": ("parallel.offload_optimizer=true",),
        "LoRA": ("model.lora.rank=16",),
        "32 GPUs": ("assume.gpus=32",),
    }
    for words, overrides in ways.items():
        assert words in text
        better = made("assume.gpus=8", "batch.max_length=32768", *overrides)
        assert better.fits, words
        stated = re.search(re.escape(words) + r".*?([\d.]+) GB\)", text)
        assert stated
        assert float(stated[1]) == pytest.approx(better.memory.gpu_peak / 1e9, abs=0.06)
    assert "16 GPUs" not in text
    assert not made("assume.gpus=16", "batch.max_length=32768").fits


def test_shorter_micro_batches_are_named_once_at_the_longest_that_fits() -> None:
    overrides = ("batch.max_length=131072", "loss.alpha=0")
    result = made(*overrides)
    (way,) = [words for words in result.ways_out if "micro-batches" in words]
    length = int(re.findall(r"of ([\d,]+) tokens", way)[0].replace(",", ""))
    assert made(*overrides, f"batch.max_length={length}").fits
    assert not made(*overrides, f"batch.max_length={2 * length}").fits


def test_a_replicated_large_model_is_sent_to_zero() -> None:
    result = made("parallel.engine=torch", "assume.gpus=64")
    assert any(way.startswith("ZeRO 3 (parallel.engine") for way in result.ways_out)
    assert not any(way.endswith("GPUs") for way in result.ways_out)  # more replicas save nothing


def test_nothing_that_helps_is_said_so() -> None:
    result = made("assume.gpu_memory_gb=1", "assume.gpus=1")
    assert result.ways_out == ()
    with pytest.raises(ValueError, match="no single change would do"):
        require_fit(result.memory, result.gpu_bytes, result.ways_out)


def test_idle_gpus_are_warned_of() -> None:
    assert any("12 of them get no sequence" in sentence for sentence in made("batch.batch_size=4").warnings)
    assert made("batch.batch_size=16").warnings == ()
    assert any("sampling" in line for line in made("batch.batch_size=16", "loss.on_policy=0.5").warnings)


def test_an_online_teacher_needs_its_shape() -> None:
    with pytest.raises(ValueError, match="needs the shape of the online teacher"):
        estimate(recipe(), LARGE, None, ROWS)
    assert estimate(recipe("loss.alpha=0"), LARGE, None, ROWS).teacher is None


# --- tables ------------------------------------------------------------------------------------------


def shown(result: Estimate, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(result))
    return console.export_text()


def test_tables_hold_every_item_and_call_themselves_estimates() -> None:
    result = made()
    text = shown(result)
    for item in (*result.memory.gpu, *result.memory.cpu):
        assert item.name in text
    assert text.count("Estimated") == 3
    assert "Assumed, not measured:" in text
    assert "32,763,876,352 parameters" in text
    assert f"{result.work.steps:,}" in text
    assert "fits: 73.6 GB of 80.0 GB after 8% reserve" in text
    assert "does not fit" in shown(made("assume.gpus=2"))


def test_names_from_a_recipe_are_not_markup() -> None:
    settings = recipe("model.path=[red]x[/nothing]", "loss.alpha=0")
    assert "[red]x[/nothing]" in shown(estimate(settings, SMALL, None, ROWS))


def test_numbers_stay_finite_for_a_tiny_run() -> None:
    tiny = Shape("llama", 64, 32, 64, 1, 2, 2, 16, tied=True)
    result = made(
        "batch.max_length=16", "assume.gpus=1", "model.dtype=float32", shape=tiny, rows=Rows(1, 8, 64)
    )
    assert result.fits
    assert math.isfinite(result.work.hours)
    assert result.work.hours > 0
