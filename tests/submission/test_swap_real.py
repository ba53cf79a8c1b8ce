"""A swap with two real vLLM engines, the whole way; on a CPU they keep their memory, the rest is as it is."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from submission.engines.base import Message, SampleRequest, Sampling
from submission.engines.supervised import SupervisedEngine
from submission.prm.making import make_scorer
from submission.prm.transformers_scorer import TransformersScorer
from submission.prm.turns import Turns
from submission.prm.vllm_scorer import VllmScorer
from submission.settings import ContestSettings
from submission.staff import Staff
from submission.supervision import make_supervised
from tests.submission.prm.checkpoints import CANDIDATES, classifier
from tests.submission.prm.test_vllm_scorer import close
from tests.tiny import make_tiny_checkpoint

PROBLEM = "What is 1+1, doubled?"
SETTINGS = [
    "prm.swap=true",
    "prm.engine=vllm",
    "engine.dtype=float32",
    "engine.max_model_len=512",
    "engine.max_num_seqs=8",
    "engine.cpu_kv_cache_gib=1",
]


async def greedy(engine: SupervisedEngine, name: str) -> list[int]:
    sampling = Sampling(temperature=0.0, max_tokens=40, ignore_eos=True)
    request = SampleRequest(name, engine.encode_chat([Message("user", PROBLEM)]), sampling)
    return [token async for chunk in engine.generate(request) for token in chunk.token_ids]


@pytest.mark.slow
def test_real_engines_take_turns(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    settings = ContestSettings.load(None, SETTINGS)
    model, prm = make_tiny_checkpoint(tmp_path / "model", max_positions=512), classifier(tmp_path / "prm")
    faults: list[tuple[str, str]] = []

    def note(what: str, why: str) -> None:
        faults.append((what, why))

    async def play() -> None:
        log = tmp_path / "engine.log"
        engine = make_supervised(settings, model, log=log, seconds_left=lambda: 1e4, on_fault=note)
        scorer = make_scorer(settings, prm)
        assert isinstance(engine, SupervisedEngine) and isinstance(scorer, VllmScorer)
        reference = TransformersScorer(prm)
        await reference.start()
        expected = await reference.score_steps(PROBLEM, CANDIDATES)
        staff = Staff(settings, engine, scorer, on_fault=note)
        try:
            assert await staff.start() == ""
            turns = staff.solver.scorer
            assert isinstance(turns, Turns) and 0 < turns.cost < 60
            before = await greedy(engine, "before")
            for _ in range(2):
                turn = await turns.score(PROBLEM, CANDIDATES, 120.0)
                assert turn.scores is not None and close(turn.scores, expected), turn.why
                assert turn.swap > 0 and turn.scoring > 0
            assert await greedy(engine, "after") == before and faults == []
            # While the PRM's process dies in its sleep, the next sample is asked for.
            assert scorer._child is not None
            os.killpg(scorer._child._process.pid, signal.SIGKILL)
            turn, ids = await asyncio.gather(turns.score(PROBLEM, CANDIDATES, 120.0), later(engine))
            assert turn.scores is None and "has ended: exit code -9" in turn.why
            assert ids == before and engine.starts == 1
            assert [what for what, _ in faults] == ["PRM dropped"]
        finally:
            await staff.close()

    asyncio.run(play())


async def later(engine: SupervisedEngine) -> list[int]:
    while not engine._asleep:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0.001)
    return await greedy(engine, "later")
