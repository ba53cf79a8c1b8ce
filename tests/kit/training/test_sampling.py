"""Completions of the model in training: those of transformers' own generation, on any number of ranks."""

from pathlib import Path
from typing import Any

import pytest

from kit.training.model import load_causal, wrap
from kit.training.ranks import Ranks, join, leave
from kit.training.recipe import ModelSection
from kit.training.sampling import row_of, sample_rows
from submission.engines.base import Sampling
from tests.kit.training.workers import launch
from tests.tiny import make_tiny_checkpoint

END = 258
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [20, 21]]
SEEDS = [11, 12, 13, 14]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"), hidden=32, heads=1, layers=2, seed=3)


def causal(folder: Path, dtype: str = "float64") -> Any:
    section = ModelSection.parse({"path": str(folder), "dtype": dtype}, "the test")
    return load_causal(folder, section).eval()


def alone() -> Ranks:
    import torch

    return Ranks(0, 1, 0, torch.device("cpu"))


def sample(
    model: Any, prompts: list[list[int]], seeds: list[int], vocabulary: int = 259, **sampling: Any
) -> list[list[int]]:
    import torch

    with torch.no_grad():
        return sample_rows(wrap(model), prompts, seeds, Sampling(**sampling), END, vocabulary, alone())


def test_greedy_is_what_transformers_generates(folder: Path) -> None:
    """Left padding and the cache change nothing."""
    import torch

    model = causal(folder)
    found = sample(model, PROMPTS, SEEDS, temperature=0.0, max_tokens=9)
    model.set_attn_implementation("sdpa")
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        whole = model.generate(ids, do_sample=False, max_new_tokens=9, eos_token_id=END, use_cache=True)
        assert completion == whole[0, len(prompt) :].tolist()


def test_the_attention_is_put_back(folder: Path) -> None:
    model = causal(folder)
    sample(model, PROMPTS, SEEDS, max_tokens=2)
    assert model.config._attn_implementation == "segments"


def test_a_row_does_not_depend_on_its_batch(folder: Path) -> None:
    model = causal(folder)
    together = sample(model, PROMPTS, SEEDS, max_tokens=12)
    apart = [sample(model, [p], [s], max_tokens=12)[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert together == apart
    assert together != sample(model, PROMPTS, [seed + 1 for seed in SEEDS], max_tokens=12)


@pytest.mark.slow
def test_the_end_is_the_last_token(folder: Path) -> None:
    """A head that always says the end, after which nothing is sampled."""
    import torch

    model = causal(folder)
    steered = torch.nn.Linear(32, 259, bias=False, dtype=torch.float64)
    with torch.no_grad():
        steered.weight.zero_()
    model.set_output_embeddings(steered)
    uniform = sample(model, [[5]] * 30, list(range(30)), max_tokens=100)
    ended = [ids for ids in uniform if ids[-1] == END]
    # A uniform draw of 259 tokens ends within 100 with probability 0.32: 9.6 of 30, deviation 2.6.
    assert 1 < len(ended) < 22
    assert all(END not in ids[:-1] for ids in uniform)
    assert {len(ids) for ids in uniform if ids[-1] != END} == {100}


def test_rows_that_pad_the_vocabulary_are_never_sampled(folder: Path) -> None:
    import torch

    model = causal(folder)
    wide = torch.nn.Linear(32, 300, bias=False, dtype=torch.float64)
    with torch.no_grad():
        wide.weight.zero_()
    model.set_output_embeddings(wide)
    drawn = {token for ids in sample(model, [[5]] * 8, list(range(8)), 259, max_tokens=60) for token in ids}
    assert max(drawn) < 259


def several(folder: str, temperature: float) -> list[list[int]]:
    import torch

    ranks = join(60.0)
    with torch.no_grad():
        found = sample_rows(
            wrap(causal(Path(folder))),
            PROMPTS[:3],
            SEEDS[:3],
            Sampling(temperature=temperature, max_tokens=12),
            END,
            259,
            ranks,
        )
    leave()
    return found


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_prompts(folder: Path, world_size: int) -> None:
    """With more ranks than prompts, the last one runs along without any."""
    expected = sample(causal(folder), PROMPTS[:3], SEEDS[:3], max_tokens=12)
    ended = launch(several, world_size, str(folder), 1.0)
    assert ended.codes == [0] * world_size, ended.errors
    assert ended.results == [expected] * world_size


def test_row_of_by_hand() -> None:
    row = row_of([1, 2], [3, 4, 5], 7)
    assert (row.ids.tolist(), row.mask.tolist(), row.source) == ([1, 2, 3, 4, 5], [0, 0, 1, 1, 1], 7)
