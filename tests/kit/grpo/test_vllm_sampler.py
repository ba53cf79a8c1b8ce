"""The vLLM sampler against transformers, on random tiny checkpoints and the real engine."""

import copy
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.grpo.checksum import checksum, combined
from kit.grpo.rollout import Completion, Failure, Request, SyncError
from kit.grpo.samplers.carrying import FileCarrier
from kit.grpo.samplers.vllm import VllmSampler
from kit.training.export import _merged
from kit.training.ranks import join, leave
from submission.engines.base import Sampling
from tests.kit.grpo.pairing import FREE, PROMPTS, Pair
from tests.kit.grpo.processes import engine_of, gone
from tests.kit.grpo.serving import SETTINGS
from tests.kit.training.workers import launch
from tests.tiny import make_tiny_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("tiny")
    llama = make_tiny_checkpoint(base / "llama", max_positions=1024)
    qwen2 = make_tiny_checkpoint(base / "qwen2", architecture="qwen2", max_positions=1024)
    return {"llama": llama, "qwen2": qwen2}


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def running(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Iterator[Pair]:
    before = engine_of(os.getpid())
    pair = Pair(checkpoints[request.param])
    engine = engine_of(os.getpid()) - before
    made = pair.sampler._carrier
    assert isinstance(made, FileCarrier)
    assert engine
    yield pair
    pair.sampler.close()
    pair.sampler.close()
    assert gone(engine, 5), "an engine process is left"
    assert not made.path.exists()


@pytest.fixture
def pair(running: Pair) -> Pair:
    """The running one, with the checkpoint's own weights on both sides."""
    running.reset()
    return running


# --- weights -----------------------------------------------------------------------------------------


def test_after_each_sync_both_sides_agree(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several files: 20 kB hold less than a layer.
    monkeypatch.setattr("kit.grpo.samplers.carrying.SHARD_BYTES", 20_000)
    seen = [pair.greedy()]
    assert seen[0] == pair.expected()
    sums = set()
    for step in range(4):
        pair.change(step)
        synced = pair.sampler.sync(pair.weights())
        named = dict(pair.model.named_parameters())
        assert synced.checksum == combined({name: checksum(value) for name, value in named.items()})
        assert synced.tensors == len(named)
        # The same prompts as before, whose keys and values are in the prefix cache.
        found = pair.greedy()
        assert found == pair.expected()
        assert pair.surprise() < 1e-4
        assert found not in seen
        seen.append(found)
        sums.add(synced.checksum)
    assert len(sums) == 4


def test_after_each_sync_of_merged_lora_both_sides_agree(pair: Pair) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    base = copy.deepcopy(pair.model)
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=names))
    frozen = {name: value.clone() for name, value in base.named_parameters() if "lora" not in name}
    generator = torch.Generator().manual_seed(3)
    seen = [pair.greedy()]
    for _ in range(4):
        with torch.no_grad():
            for name, value in base.named_parameters():
                if "lora" in name:
                    value.add_(0.2 * torch.randn(value.shape, generator=generator))
        pair.sampler.sync(_merged(iter(list(base.named_parameters())), adapted, {}))
        found = pair.greedy()
        assert found == pair.expected(copy.deepcopy(adapted).merge_and_unload())
        assert found not in seen
        seen.append(found)
    assert all(torch.equal(value, frozen[name]) for name, value in base.named_parameters() if name in frozen)


def test_without_the_reset_old_keys_and_values_would_be_used(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.greedy()
    pair.change(0)
    with monkeypatch.context() as patched:
        patched.setattr(VllmSampler, "_forget_prefixes", lambda self, asking: None)
        pair.sampler.sync(pair.weights())
    assert pair.surprise() > 1e-3
    pair.sampler.sync(pair.weights())
    assert pair.surprise() < 1e-4


def test_weights_of_another_type_are_compared_in_the_engines(pair: Pair) -> None:
    import torch

    rounded = {name: value.detach().to(torch.bfloat16) for name, value in pair.model.named_parameters()}
    synced = pair.sampler.sync(iter(rounded.items()))
    assert synced.checksum == combined({name: checksum(value.float()) for name, value in rounded.items()})


def test_one_flipped_bit_on_the_way_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import torch as files

    save = files.save_file

    def flip(tensors: Any, path: Path) -> None:
        save(tensors, path)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    pair.change(1)
    with monkeypatch.context() as patched:
        patched.setattr(files, "save_file", flip)
        with pytest.raises(
            SyncError, match=r"rank 0: worker 0 .* [0-9a-f]{64} there, [0-9a-f]{64} here, 1 of \d+"
        ):
            pair.sampler.sync(pair.weights())
    with pytest.raises(SyncError, match="sync again"):
        pair.greedy()
    pair.sampler.sync(pair.weights())
    assert pair.greedy() == pair.expected()


def test_a_cut_file_is_a_sync_error_and_all_weights_are_asked_for(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import torch as files

    save = files.save_file

    def cut(tensors: Any, path: Path) -> None:
        save(tensors, path)
        path.write_bytes(path.read_bytes()[:-100])

    weights = pair.weights()
    with monkeypatch.context() as patched:
        patched.setattr("kit.grpo.samplers.carrying.SHARD_BYTES", 20_000)
        patched.setattr(files, "save_file", cut)
        with pytest.raises(SyncError, match="rank 0: the weights did not reach the engine"):
            pair.sampler.sync(weights)
    # Other ranks gather the rest: this one must have, too.
    assert next(weights, None) is None
    assert isinstance(pair.sampler._carrier, FileCarrier)
    assert list(pair.sampler._carrier.path.iterdir()) == []


def test_a_weight_that_is_not_sent_is_named(pair: Pair) -> None:
    weights = [item for item in pair.weights() if "layers.1.self_attn.k_proj" not in item[0]]
    with pytest.raises(SyncError, match="rank 0"):
        pair.sampler.sync(iter(weights))
    weights = [item for item in pair.weights() if "norm" not in item[0]]
    with pytest.raises(SyncError, match=r"does not send: .*norm"):
        pair.sampler.sync(iter(weights))


# --- samples -----------------------------------------------------------------------------------------


def test_logprobs_are_those_of_the_distribution_drawn_from(pair: Pair) -> None:
    import torch

    requests = [Request(prompt, seed) for prompt in PROMPTS for seed in range(4)]
    for sampling, highest in [
        (FREE, 0.0),
        (Sampling(temperature=0.7, top_p=0.9, max_tokens=40, ignore_eos=True), -math.log(0.9)),
        (Sampling(temperature=0.7, min_p=0.6, max_tokens=40, ignore_eos=True), math.inf),
    ]:
        gained = []
        for request, row in zip(requests, pair.sample(sampling, requests), strict=True):
            assert len(row.ids) == len(row.logprobs) == len(row.mask) == 40
            ids = torch.tensor([[*request.prompt, *row.ids]])
            with torch.inference_mode():
                logits = pair.model(ids).logits[0, len(request.prompt) - 1 : -1]
            plain = (logits / 0.7).log_softmax(-1)
            wanted = plain
            if sampling.min_p:  # the rule of min-p, written out
                kept = plain >= plain.max(-1, keepdim=True).values + math.log(sampling.min_p)
                wanted = plain.masked_fill(~kept, -math.inf).log_softmax(-1)
            chosen = torch.tensor(row.ids).unsqueeze(-1)
            if sampling.top_p == 1:
                torch.testing.assert_close(
                    torch.tensor(row.logprobs), wanted.gather(-1, chosen).squeeze(-1), atol=1e-4, rtol=0
                )
            gained += (torch.tensor(row.logprobs) - plain.gather(-1, chosen).squeeze(-1)).tolist()
        # The mass that is kept lies between top_p and 1.
        assert min(gained) >= -1e-4
        assert max(gained) <= highest + 1e-4
        if highest:
            assert max(gained) > 0.03, "nothing was cut off: the test shows nothing"


def test_the_same_seeds_draw_the_same_again_and_in_other_company(pair: Pair) -> None:
    # Seeds of their own: this model hardly looks at the prompt, and one seed draws the same for all of them.
    requests = [Request(prompt, seed) for seed, prompt in enumerate(4 * PROMPTS)]
    first = pair.sample(FREE, requests)
    assert len({row.ids for row in first}) == len(first)
    again = pair.sample(FREE, requests)
    assert [row.ids for row in again] == [row.ids for row in first]
    assert pair.sample(FREE, requests[5:6])[0].ids == first[5].ids
    assert [row.ids for row in pair.sample(FREE, requests[::-1])] == [row.ids for row in first[::-1]]


def test_more_prompts_than_a_step_reads_are_drawn_all(pair: Pair) -> None:
    """With prompts read in parts, vLLM's CPU build died of the seeds."""
    requests = [
        Request([3 + (7 * row + place) % 250 for place in range(100 + row)], row) for row in range(60)
    ]
    assert sum(len(request.prompt) for request in requests) > 3 * 2_048
    rows = pair.sample(Sampling(temperature=1.0, max_tokens=4, ignore_eos=True), requests)
    assert all(len(row.ids) == 4 for row in rows)


def test_an_end_token_ends_a_completion_and_belongs_to_it(pair: Pair) -> None:
    end = pair.model.config.eos_token_id
    sampling = Sampling(temperature=1.5, max_tokens=800)
    rows = pair.sample(sampling, [Request([65, 66], seed) for seed in range(12)])
    ended = [row for row in rows if row.finish == "stop"]
    assert ended
    assert all(row.ids[-1] == end and end not in row.ids[:-1] for row in ended)
    assert all(len(row.ids) == 800 for row in rows if row.finish == "length")


def test_a_request_that_the_engine_refuses_is_a_failure_among_the_others(pair: Pair) -> None:
    rows = pair.sampler.sample([Request(PROMPTS[0], 1), Request([5] * 2000, 2), Request(PROMPTS[2], 3)], FREE)
    assert [type(row) for row in rows] == [Completion, Failure, Completion]
    assert isinstance(rows[1], Failure)
    assert "900" in rows[1].reason
    assert pair.sampler.sample([], FREE) == []


# --- several ranks -----------------------------------------------------------------------------------


def on_every_rank(checkpoint: str) -> dict[str, Any]:
    """Samples, then syncs well and badly."""
    import torch
    from safetensors import torch as files
    from transformers import AutoModelForCausalLM

    ranks = join(300.0)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    sampler = VllmSampler(Path(checkpoint), SETTINGS, ranks, sync_timeout=60)
    rows = sampler.sample([Request(prompt, 5) for prompt in PROMPTS], FREE)
    synced = sampler.sync(iter(list(model.named_parameters())))
    save: Any = files.save_file
    lossy: Any = lambda tensors, path: save(dict(list(tensors.items())[1:]), path)  # noqa: E731
    files.save_file = lossy
    error = ""
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1)
    try:
        sampler.sync(iter(list(model.named_parameters())))
    except SyncError as fault:
        error = str(fault)
    sampler.close()
    leave()
    return {"rows": rows, "checksum": synced.checksum, "error": error, "rank": os.environ["RANK"]}


def test_all_ranks_get_what_rank_0_drew(checkpoints: dict[str, Path]) -> None:
    ended = launch(on_every_rank, 2, str(checkpoints["llama"]))
    assert ended.codes == [0, 0], ended.errors
    one, two = ended.results
    assert one["rows"] == two["rows"]
    assert len(one["rows"]) == len(PROMPTS)
    assert one["checksum"] == two["checksum"]
    assert one["error"] == two["error"]
    assert "rank 0" in one["error"]
    assert (one["rank"], two["rank"]) == ("0", "1")
    # A fresh engine, with the seeds and weights of another: the same draws.
    pair = Pair(checkpoints["llama"])
    again = pair.sample(FREE)
    pair.sampler.close()
    assert [row.ids for row in again] == [row.ids for row in one["rows"]]
