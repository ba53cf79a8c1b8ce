"""What stays from step to step under ZeRO, against real DeepSpeed on two ranks."""

import pytest

from kit.training.estimate.memory import Cluster, memory
from kit.training.estimate.shape import shape_from_config
from kit.training.recipe import TrainRecipe
from tests.kit.training.test_estimate_real import MODELS
from tests.kit.training.workers import launch
from tests.kit.training.zero_states import held_under_zero


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "stage"), [("bfloat16", 1), ("bfloat16", 2), ("bfloat16", 3), ("float32", 3)]
)
def test_states_under_zero_are_those_that_deepspeed_holds(dtype: str, stage: int) -> None:
    found = launch(held_under_zero, 2, dtype, stage).result
    given = {"model": {"dtype": dtype}, "parallel": {"zero_stage": stage}}
    shape = shape_from_config({"model_type": "qwen2", **MODELS["qwen2"]}, "test")
    held = memory(TrainRecipe.parse(given, "test"), shape, Cluster(2))
    estimated = sum(item.bytes for item in held.gpu if item.when == "always" and "bucket" not in item.name)
    # Stages 1 and 2 hold one tensor more that waits in the bucket: here the embedding's gradient.
    assert found == pytest.approx(estimated, rel=0.01 if stage == 3 else 0.04)
