"""A step in this process, with a sampler that is told what to say: updates, tables, errors, drawing ahead."""

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kit.grpo.collect import Collector
from kit.grpo.curriculum import stream
from kit.grpo.objective import PolicyObjective
from kit.grpo.recipe import GrpoRecipe
from kit.grpo.reference import Reference
from kit.grpo.rollout import Completion, Failure, Request, Synced, SyncError
from kit.grpo.steps import GrpoSteps
from kit.grpo.table import read_table, table_path
from kit.rewards.judge import Judge
from kit.training.engines.torch_engine import TorchEngine
from kit.training.model import load_causal, wrap
from kit.training.ranks import Ranks
from kit.training.recipe import ModelSection
from submission.engines.base import EngineError, Sampling
from tests.kit.grpo.made import tasks
from tests.kit.grpo.scripted import Script, Scripted
from tests.tiny import make_tiny_checkpoint

PROMPTS, SIZE, STEPS = 12, 4, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"), hidden=32, heads=1, layers=1, seed=6)


def half(prompt: int, attempt: int) -> str:
    """Every group has a signal."""
    return f"\\boxed{{{prompt if attempt % 2 else prompt + 1}}}"


def solved(prompt: int, attempt: int) -> str:
    """No group has a signal."""
    return f"\\boxed{{{prompt}}}"


class Weighted(Scripted):
    """What it says depends on the weights that it was last given, and on the seeds."""

    def sync(self, weights: "Iterator[tuple[str, Any]]") -> Synced:
        digest = hashlib.sha256()
        for _, tensor in weights:
            digest.update(tensor.numpy().tobytes())
        self.held = digest.hexdigest()
        self.synced += 1
        return Synced("", 0.0, 0)

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion | Failure]:
        kept = iter(requests)

        def said(prompt: int, attempt: int) -> str:
            odd = hashlib.sha256(f"{self.held} {next(kept).seed}".encode()).digest()[0] % 2
            return f"\\boxed{{{prompt + odd}}}"

        self.script = said
        return super().sample(requests, sampling)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(recipe_of(Path()).rewards, 50) as made:
        yield made


def recipe_of(out: Path, **sections: dict[str, Any]) -> GrpoRecipe:
    base: dict[str, dict[str, Any]] = {
        "batch": {"batch_size": 3, "group_size": SIZE, "num_episodes": STEPS, "max_length": 64},
        "rollout": {"max_completion_tokens": 50, "refill_rounds": 1},
        "policy": {"mask_cut_off": False},
        "optimizer": {"lr": 1e-3},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return GrpoRecipe.parse({"out": str(out), **base}, "the test")


class Made:
    """Everything for steps, on a fresh copy of the model."""

    def __init__(self, folder: Path, out: Path, judge: Judge, sampler: Scripted, **sections: Any) -> None:
        import torch

        self.recipe = recipe_of(out, **sections)
        ranks = Ranks(0, 1, 0, torch.device("cpu"))
        section = ModelSection.parse({"path": str(folder), "dtype": "float32"}, "the test")
        self.engine = TorchEngine(wrap(load_causal(folder, section)), self.recipe.optimizer, ranks)
        self.sampler = sampler
        self.exports: list[str] = []
        reference = Reference(
            start=wrap(load_causal(folder, section)),
            trained=self.engine.module,
            adapted=None,
            every=self.recipe.policy.reference_every,
            keep=self._keep,
            load=lambda path: wrap(load_causal(folder, section)),
            folder=out / "reference",
        )
        self.steps = GrpoSteps(
            recipe=self.recipe,
            engine=self.engine,
            objective=PolicyObjective(self.recipe.policy, self.recipe.rollout.temperature, 259),
            ranks=ranks,
            weights=self.engine.weights,
            collector=Collector(self.recipe, tasks(PROMPTS), sampler, judge, ranks),
            tasks=tasks(PROMPTS),
            held_out=tasks(5),
            vocabulary=259,
            run="run",
            reference=reference if self.recipe.policy.kl_coef else None,
        )

    def _keep(self, path: Path) -> None:
        self.exports.append(path.name)
        path.mkdir(parents=True)

    def step(self, step: int) -> Any:
        return self.steps.step(step, 1e-3)

    def state(self) -> dict[str, Any]:
        return {name: tensor.clone() for name, tensor in self.engine.state()}


Maker = Callable[..., Made]


@pytest.fixture
def make(folder: Path, tmp_path: Path, judge: Judge) -> Maker:
    def made(script: Script | Scripted = half, out: str = "run", **sections: Any) -> Made:
        sampler = script if isinstance(script, Scripted) else Scripted(script, SIZE)
        return Made(folder, tmp_path / out, judge, sampler, **sections)

    return made


def equal(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    import torch

    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


# --- updates ----------------------------------------------------------------------------------------------


def test_a_step_draws_scores_and_trains(make: Maker) -> None:
    made = make()
    before = made.state()
    result = made.step(0)
    assert made.engine.updates == result.told["updates"] == 1
    assert not equal(made.state(), before)
    assert result.told["reward"] == result.told["accuracy"] == 0.5
    assert (result.told["groups"], result.told["rows_moving"]) == (3, 12)
    assert result.others["ratio"] == 1.0
    assert 0 < result.grad_norm < math.inf
    assert set(result.timings) >= {"sampling_seconds", "reward_seconds", "train_seconds"}
    assert all(seconds >= 0 for name, seconds in result.timings.items() if name != "other_seconds")
    assert set(result.shown) <= {*result.told, *result.others}


def test_several_updates_of_one_batch(make: Maker) -> None:
    """Old log-probabilities are those before the first: its ratio is 1, that of the others is not."""
    cut = {"minibatches": 2, "epochs": 2, "micro_batch_tokens": 4096}
    made = make(batch=cut, optimizer={"lr": 0.01})
    ratios = []
    run = made.steps.objective.token_loss

    def noted(micro: Any) -> Any:
        loss = run(micro)

        def inner(logits: Any, part: slice) -> Any:
            values, told = loss(logits, part)
            ratios.append(told["ratio"])
            return values, told

        return inner

    made.steps.objective.token_loss = noted  # type: ignore[method-assign]
    result = made.step(0)
    assert made.engine.updates == result.told["updates"] == len(ratios) == 4
    assert bool((ratios[0] == 1).all())
    assert all(bool((ratio != 1).any()) for ratio in ratios[1:])
    assert result.trained == 2 * sum(
        len(one.ids) for group in _table(made, 0).groups for one in group.completions
    )


@pytest.mark.parametrize("packing", [True, False])
def test_a_prompt_goes_through_once_for_its_group(make: Maker, packing: bool) -> None:
    """The same update but for rounding, from fewer tokens: 3 prompts of 2 tokens instead of 12."""
    found, given = [], []
    for share in (True, False):
        batch = {"share_prompts": share, "packing": packing, "micro_batch_tokens": 4096}
        made = make(out=f"run-{share}", batch=batch, optimizer={"eps": 1e-3})
        run = made.steps.objective.token_loss

        def noted(micro: Any, run: Any = run) -> Any:
            given.append(micro.tokens)
            return run(micro)

        made.steps.objective.token_loss = noted  # type: ignore[method-assign]
        found.append((made.step(0), made.state()))
    (shared, weights), (plain, expected) = found
    assert given == [shared.tokens, plain.tokens]
    assert plain.tokens - shared.tokens == 9 * 2
    assert shared.trained == plain.trained
    assert shared.loss == pytest.approx(plain.loss, rel=1e-4, abs=1e-7)
    assert shared.grad_norm == pytest.approx(plain.grad_norm, rel=1e-4)
    assert all(float((weights[name] - tensor).abs().max()) < 1e-5 for name, tensor in expected.items())


def _table(made: Made, step: int) -> Any:
    return read_table(table_path(made.steps.folder, step), "run")


def test_a_step_without_any_signal_is_no_update(make: Maker) -> None:
    """It is counted, nothing is made up for it, and the run goes on."""
    made = make(solved)
    before = made.state()
    result = made.steps.step(0, 1e-3)
    assert (result.loss, result.grad_norm, result.trained) == (0.0, 0.0, 0)
    assert (result.told["updates"], result.told["groups_without_signal"], result.told["rows_moving"]) == (
        0,
        3,
        0,
    )
    assert (result.told["groups_replaced"], result.told["refill_rounds"]) == (3, 1)
    assert made.engine.updates == 0 and equal(made.state(), before)
    made.sampler.script = half
    assert made.step(1).told["updates"] == 1
    assert made.sampler.synced == 1  # the weights had not changed


def test_optimizer_steps_without_a_moving_row_are_passed_over(make: Maker) -> None:
    """One group has a signal: four rows in twelve cuts."""
    first = next(stream(PROMPTS, 0, 0, 1.0, lambda prompt: None)).prompt
    made = make(
        lambda prompt, attempt: (half if prompt == first else solved)(prompt, attempt),
        rollout={"refill_rounds": 0},
        batch={"minibatches": 12},
    )
    assert made.step(0).told["updates"] == made.engine.updates == 4


def test_the_reference_is_kept_in_a_step_without_rows_too(make: Maker) -> None:
    """All completions are cut off by the limit, so none is trained on; the next step needs the export."""

    class Cut(Scripted):
        def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion | Failure]:
            from dataclasses import replace

            drawn = super().sample(requests, sampling)
            return [replace(one, finish=self.finish) for one in drawn if isinstance(one, Completion)]

        finish: Any = "length"

    sampler = Cut(half, SIZE)
    made = make(sampler, policy={"mask_cut_off": True, "kl_coef": 0.1, "reference_every": 2})
    assert [made.step(step).told["updates"] for step in range(3)] == [0, 0, 0]
    sampler.finish = "stop"
    assert made.step(3).told["updates"] == 1
    assert made.exports == ["step-00000002"]


# --- tables -----------------------------------------------------------------------------------------------


def test_a_table_that_is_there_is_not_drawn_again(make: Maker) -> None:
    made = make()
    for step in range(2):
        made.step(step)
    after = made.state()
    again = make()
    for step in range(2):
        again.step(step)
    assert again.sampler.requests == [] and again.sampler.synced == 0
    assert equal(again.state(), after)
    shutil.rmtree(again.steps.folder)
    third = make()
    for step in range(2):
        third.step(step)
    assert third.sampler.requests == made.sampler.requests
    assert equal(third.state(), after)


def test_a_damaged_table_is_drawn_again(make: Maker) -> None:
    made = make()
    made.step(0)
    expected, path = repr(_table(made, 0)), table_path(made.steps.folder, 0)
    path.write_bytes(path.read_bytes()[:200])
    again = make()
    again.step(0)
    assert repr(_table(again, 0)) == expected
    assert len(again.sampler.requests) == 3 * SIZE


def test_a_table_that_is_missing_before_the_step_ends_the_run(make: Maker) -> None:
    with pytest.raises(ValueError, match=r"step-00000000\.parquet is missing .* but step 1 is done"):
        make().step(1)


def test_a_table_that_cannot_be_written_ends_the_run(make: Maker) -> None:
    made = make()
    made.recipe.out.mkdir()
    made.steps.folder.write_text("in the way")
    with pytest.raises(ValueError, match=r"the completions of step 1 were not written to .*make room"):
        made.step(0)


# --- errors of the sampler --------------------------------------------------------------------------------


class Failing(Scripted):
    """Fails at a sync or a sample, from the second on."""

    def __init__(self, what: str) -> None:
        super().__init__(half, SIZE)
        self.what, self.left = what, 1

    def _fail(self, what: str, error: Exception) -> None:
        if self.what == what:
            self.left -= 1
            if self.left < 0:
                raise error

    def sync(self, weights: "Iterator[tuple[str, Any]]") -> Synced:
        next(weights)
        self._fail("sync", SyncError("rank 0: its weights differ"))
        return super().sync(weights)

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion | Failure]:
        self._fail("sample", EngineError("the engine died"))
        return super().sample(requests, sampling)


@pytest.mark.parametrize(
    ("what", "said"), [("sync", "rank 0: its weights differ"), ("sample", "the engine died")]
)
def test_a_sampler_that_fails_is_an_error_that_all_ranks_raise(make: Maker, what: str, said: str) -> None:
    made = make(Failing(what))
    seen: list[str] = []
    weights = made.engine.weights

    def counted() -> Iterator[tuple[str, Any]]:
        for name, tensor in weights():
            seen.append(name)
            yield name, tensor

    made.steps.weights = counted
    made.step(0)
    count = len(seen)
    with pytest.raises(ValueError, match=said):
        made.step(1)
    # The other ranks gather all weights: so does the one that fails.
    assert len(seen) == 2 * count > 2


def test_an_error_while_drawing_ahead_is_raised_by_the_step(make: Maker) -> None:
    made = make(Failing("sample"), rollout={"overlap": True})
    with pytest.raises(ValueError, match="the engine died"):
        made.step(0)
    assert made.engine.updates == 1  # trained meanwhile


# --- drawing ahead ----------------------------------------------------------------------------------------

OVERLAP = {"rollout": {"overlap": True}}


def test_drawing_ahead_takes_weights_one_step_old(make: Maker) -> None:
    made = make(Weighted(half, SIZE), **OVERLAP)
    sizes = []
    for step in range(STEPS):
        made.step(step)
        sizes.append(len(list(made.steps.folder.glob("*.parquet"))))
    assert sizes == [2, 3, 4, 5, 6, 6]
    assert made.sampler.synced == STEPS - 1  # nothing is drawn with the weights after step 5
    plain = make(Weighted(half, SIZE), "plain")
    for step in range(STEPS):
        plain.step(step)
    assert repr(_table(plain, 0)) == repr(_table(made, 0))
    assert repr(_table(plain, 1)) != repr(_table(made, 1))  # other weights: other words
    assert plain.sampler.synced == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("sections", [OVERLAP, {}], ids=["overlap", "plain"])
def test_resumed_after_every_step(make: Maker, sections: dict[str, Any]) -> None:
    """From the checkpoint after each step, with the tables that a kill during the next ones leaves."""
    made = make(Weighted(half, SIZE), **sections)
    states = [(made.state(), 0)]
    for step in range(STEPS):
        made.step(step)
        states.append((made.state(), made.engine.updates))
    expected = [repr(_table(made, step)) for step in range(STEPS)]
    for begin in range(STEPS):
        # With drawing ahead a checkpoint is made after the next table is there.
        least = begin + bool(sections and begin)
        for left in range(least, STEPS + 1):
            out = f"{begin}-{left}"
            again = make(Weighted(half, SIZE), out, **sections)
            again.steps.folder.mkdir(parents=True)
            for step in range(left):
                shutil.copy(table_path(made.steps.folder, step), again.steps.folder)
            tensors, updates = states[begin]
            again.engine.load_state({name: value.clone() for name, value in tensors.items()}, updates)
            for step in range(begin, STEPS):
                again.step(step)
            assert [repr(_table(again, step)) for step in range(STEPS)] == expected, out
            assert equal(again.state(), states[-1][0]), out


# --- evaluation -------------------------------------------------------------------------------------------


def test_evaluation_is_of_the_weights_as_they_are(make: Maker) -> None:
    made = make(lambda prompt, attempt: f"\\boxed{{{prompt * (prompt != 2)}}}")
    assert made.steps.evaluates and (made.steps.metric, made.steps.lower_is_better) == ("accuracy", False)
    assert made.steps.evaluate() == {"accuracy": 0.8, "greedy_accuracy": 0.8, "samples_lost": 0}
    greedy, sampled = made.sampler.samplings
    assert (greedy.temperature, sampled.temperature) == (0.0, 1.0)
    made.sampler.script = lambda prompt, attempt: solved(prompt, attempt) if prompt else Failure("it hung")
    assert made.steps.evaluate() == {"accuracy": 0.8, "greedy_accuracy": 0.8, "samples_lost": 2}
    assert made.sampler.synced == 1
    made.sampler.script = half
    made.step(0)
    made.steps.evaluate()
    assert made.sampler.synced == 2


def test_a_folder_that_ranks_do_not_share_is_named(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(solved)
    monkeypatch.setattr("kit.grpo.steps.PATIENCE", 0.0)
    monkeypatch.setattr("kit.grpo.steps.write_table", lambda *_: None)
    with pytest.raises(ValueError, match="must lie on a file system that all nodes share"):
        made.steps.step(0, 1e-3)
