"""Completions of the model in training: those of transformers' own generation, on any number of ranks."""

import math
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from kit.training.model import load_causal, wrap
from kit.training.ranks import Ranks, join, leave
from kit.training.recipe import ModelSection
from kit.training.sampling import draw, row_of, sample_rows
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
    drawn = sample_rows(wrap(model), prompts, seeds, Sampling(**sampling), END, vocabulary, alone())
    return [row.ids for row in drawn]


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
    ranks = join(60.0)
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
    return [row.ids for row in found]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_prompts(folder: Path, world_size: int) -> None:
    """With more ranks than prompts, the last one runs along without any."""
    expected = sample(causal(folder), PROMPTS[:3], SEEDS[:3], max_tokens=12)
    ended = launch(several, world_size, str(folder), 1.0)
    assert ended.codes == [0] * world_size, ended.errors
    assert ended.results == [expected] * world_size


def test_a_group_shares_its_prompt(folder: Path) -> None:
    """Read once, copied: what each draws is what it draws alone."""
    model = causal(folder)
    prompts = [PROMPTS[0]] * 3 + [PROMPTS[1]] * 2
    together = sample(model, prompts, [5, 6, 7, 8, 9], max_tokens=10)
    apart = [sample(model, [p], [s], max_tokens=10)[0] for p, s in zip(prompts, range(5, 10), strict=True)]
    assert together == apart


def test_small_batches_give_the_same(folder: Path) -> None:
    model = causal(folder)
    given = (wrap(model), PROMPTS, SEEDS, Sampling(max_tokens=8), END, 259, alone())
    for whole, cut in zip(sample_rows(*given), sample_rows(*given, max_rows=2), strict=True):
        assert whole.ids == cut.ids
        assert whole.logprobs == pytest.approx(cut.logprobs, abs=1e-12)  # a batch's size may change rounding


@pytest.mark.parametrize(("top_p", "min_p"), [(1.0, 0.0), (0.8, 0.0), (1.0, 0.3)])
def test_log_probabilities_are_those_of_what_was_drawn_from(folder: Path, top_p: float, min_p: float) -> None:
    """Worked out again from whole forward passes without a cache."""
    import torch

    model = causal(folder)
    sampling = Sampling(temperature=0.7, top_p=top_p, min_p=min_p, max_tokens=8)
    rows = sample_rows(wrap(model), PROMPTS, SEEDS, sampling, END, 259, alone())
    for prompt, row in zip(PROMPTS, rows, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *row.ids]]), use_cache=False).logits[0, :, :259]
        for place, (token, logprob) in enumerate(zip(row.ids, row.logprobs, strict=True)):
            p = torch.softmax(logits[len(prompt) + place - 1] / 0.7, -1)
            p = torch.where(p < min_p * p.max(), 0.0, p)
            values = sorted(p.tolist(), reverse=True)
            # Added one by one on both sides: since Python 3.12 `sum` rounds in another way.
            masses = list(accumulate(values))
            kept = 1 + next(place for place, mass in enumerate(masses) if mass >= top_p * masses[-1])
            mass = masses[kept - 1]
            assert logprob == pytest.approx(math.log(p[token] / mass), abs=1e-9)
            assert p[token] >= values[kept - 1] > 0


def test_draws_follow_the_distribution() -> None:
    """Chi-squared of 20,000 draws from four tokens, one impossible; 0.999 quantile at 2 degrees: 13.8."""
    import torch

    logits = torch.tensor([[0.0, float("-inf"), 1.0, 2.0]], dtype=torch.float64).expand(20_000, 4)
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = draw(logits, uniform, Sampling())
    expected = 20_000 * torch.softmax(logits[0], -1)
    counts = torch.bincount(tokens, minlength=4)
    assert counts[1] == 0
    seen = expected > 0
    assert float(((counts - expected)[seen] ** 2 / expected[seen]).sum()) < 13.8
    assert torch.allclose(logprobs, torch.log_softmax(logits, -1).gather(1, tokens[:, None])[:, 0])


def test_the_edges_of_a_draw() -> None:
    """0 and the number below 1 give the first and the last token that is possible."""
    import torch

    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]], dtype=torch.float64).expand(2, 4)
    uniform = torch.tensor([0.0, math.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert draw(logits, uniform, Sampling())[0].tolist() == [1, 2]


def test_row_of_by_hand() -> None:
    row = row_of([1, 2], [3, 4, 5], 7)
    assert (row.ids.tolist(), row.mask.tolist(), row.source) == ([1, 2, 3, 4, 5], [0, 0, 1, 1, 1], 7)
