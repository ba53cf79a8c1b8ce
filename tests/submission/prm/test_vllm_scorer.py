"""vLLM against transformers, and what becomes of a scorer whose engine dies."""

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from submission.engines.base import EngineError
from submission.prm.heads import PrmConfig
from submission.prm.scorer import CancelledError
from submission.prm.transformers_scorer import TransformersScorer
from submission.prm.vllm_scorer import VllmScorer, _Child
from submission.settings import EngineSettings
from tests.submission.prm.checkpoints import CANDIDATES, classifier, policy, process_reward

PROBLEM = "What is 1+1, doubled? " + "Think well before you write anything. " * 5
"""Longer than a block of the prefix cache, which is what is shared."""
SETTINGS = EngineSettings(cpu_kv_cache_gib=1, max_num_seqs=8, dtype="float32")


def close(first: list[list[float]], second: list[list[float]]) -> bool:
    pairs = zip(itertools.chain(*first), itertools.chain(*second), strict=True)
    return list(map(len, first)) == list(map(len, second)) and all(abs(a - b) < 1e-3 for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("make", [classifier, process_reward, policy])
def test_vllm_and_transformers_agree(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    pytest.importorskip("vllm")

    async def play() -> None:
        folder = make(tmp_path)
        reference, scorer = TransformersScorer(folder), VllmScorer(folder, SETTINGS)
        await reference.start()
        await scorer.start()
        try:
            expected = await reference.score_steps(PROBLEM, CANDIDATES)
            assert close(await scorer.score_steps(PROBLEM, CANDIDATES), expected)
            # Once more: now the prefix cache has it all, and keeps no rows.
            assert close(await scorer.score_steps(PROBLEM, CANDIDATES[::-1]), expected[::-1])
            await check_stop(scorer, expected)
            assert await scorer.score_steps(PROBLEM, [""]) == [[]]
            await check_death(scorer)
        finally:
            await scorer.close()
            await scorer.close()

    asyncio.run(play())


async def check_stop(scorer: VllmScorer, expected: list[list[float]]) -> None:
    """An answer that nobody waited for is not taken for the next one's."""
    child = scorer._child
    assert child is not None
    os.killpg(child._process.pid, signal.SIGSTOP)
    stop = threading.Event()
    asking = asyncio.create_task(asyncio.to_thread(scorer.step_scores_many, PROBLEM, CANDIDATES[3:4], stop))
    await asyncio.sleep(0.3)
    stop.set()
    with pytest.raises(CancelledError):
        await asking
    os.killpg(child._process.pid, signal.SIGCONT)
    assert close(await scorer.score_steps(PROBLEM, CANDIDATES[:2]), expected[:2])


async def check_death(scorer: VllmScorer) -> None:
    """A dead engine is an EngineError, at once and from then on."""
    child = scorer._child
    assert child is not None
    os.killpg(child._process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(EngineError, match="has ended: exit code -9"):
            await scorer.score_steps(PROBLEM, CANDIDATES)
    await scorer.close()
    with pytest.raises(EngineError, match="closed"):
        await scorer.score_steps(PROBLEM, CANDIDATES)


def test_a_scorer_that_is_closed_while_it_starts_leaves_no_process() -> None:
    scorer = VllmScorer(Path("x"), SETTINGS)
    asyncio.run(scorer.close())
    with pytest.raises(EngineError, match="has ended: exit code -9"):
        scorer._load(PrmConfig(head="logprob"))
    asyncio.run(scorer.close())


def test_what_the_child_cannot_serve_is_told_of() -> None:
    child = _Child()
    setup = {"folder": "x", "head": "logprob", "context": 64, "settings": {"kind": "nonsense"}}
    with pytest.raises(EngineError, match="failed: ValueError: settings: kind"):
        child.ask(setup, threading.Event())
    with pytest.raises(EngineError, match="has ended: exit code 0"):
        child.ask(setup, threading.Event())
    child.kill()
    child.release()
