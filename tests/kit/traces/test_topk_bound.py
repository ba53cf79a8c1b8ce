"""What lumping the tail leaves out: the identity, its bounds, and the measured size on a real model."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.losses.topk_bound import full_kl, lumped_kl, rounding_bound, tail_gap
from kit.models import MODEL_FOLDER
from kit.traces.teacher_pass import top_k_of
from kit.traces.topk import TopKHeader, TopKReader, TopKWriter


def exact_top(
    logits: torch.Tensor, k: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logprobs = torch.log_softmax(logits.double() / temperature, -1)
    values, ids = logprobs.topk(k, -1)
    return ids, values, torch.logsumexp(logprobs.scatter(-1, ids, -math.inf), -1)


def test_the_gap_worked_out_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.2, 0.4]], dtype=torch.float64)
    # Lumped: (0.5, 0.5) against (0.4, 0.6). The tail: (0.6, 0.4) against (1/3, 2/3).
    lumped = 0.5 * math.log(0.5 / 0.4) + 0.5 * math.log(0.5 / 0.6)
    gap = 0.5 * (0.6 * math.log(0.6 * 3) + 0.4 * math.log(0.4 * 1.5))
    ids, values, tail = exact_top(p.log(), 1, 1.0)
    assert float(lumped_kl(ids, values, tail, q.log())) == pytest.approx(lumped, abs=1e-12)
    assert float(tail_gap(p.log(), q.log(), 1)) == pytest.approx(gap, abs=1e-12)
    assert float(full_kl(p.log(), q.log())) == pytest.approx(lumped + gap, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.floats(0.3, 5.0), st.floats(0.0, 6.0))
def test_full_is_lumped_plus_gap_and_the_gap_is_not_negative(
    seed: int, k: int, temperature: float, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, 3, 40, generator=generator, dtype=torch.float64) * scale
    full = full_kl(teacher, student, temperature)
    lumped = lumped_kl(*exact_top(teacher, k, temperature), student, temperature)
    gap = tail_gap(teacher, student, k, temperature)
    torch.testing.assert_close(full, lumped + gap, atol=1e-10, rtol=1e-10)
    assert (gap >= -1e-12).all()
    if k == 40:
        assert (gap == 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.05))
def test_the_bound_on_rounding_holds(seed: int, error: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.log_softmax(torch.randn(2, 20, generator=generator, dtype=torch.float64) * 3, -1)
    moved = torch.log_softmax(
        p + (torch.rand(20, generator=generator, dtype=torch.float64) - 0.5) * error, -1
    )
    largest = float((moved - p).abs().max())
    change = (moved.exp() * (moved - q)).sum() - (p.exp() * (p - q)).sum()
    assert abs(float(change)) <= float(rounding_bound(p, q, largest)) + 1e-12


def cached_gap(
    path: Path, teacher: torch.Tensor, student: torch.Tensor, k: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Through the file: full KD, what the cached rows give, and the gap that the identity predicts."""
    header = TopKHeader(
        vocab_size=teacher.shape[-1], k=k, temperatures=(1.0, 2.0), tokenizer="0" * 64, teacher="t"
    )
    with TopKWriter(path, header) as writer:
        writer.append(*(part.numpy() for part in top_k_of(teacher, k, header.temperatures)))
    row = TopKReader(path).row(0, temperature)
    lumped = lumped_kl(
        torch.from_numpy(row.ids),
        torch.from_numpy(row.logprobs).double(),
        torch.from_numpy(row.tail_logprob).double(),
        student,
        temperature,
    )
    return full_kl(teacher, student, temperature), lumped, tail_gap(teacher, student, k, temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_cached_rows_give_full_kd_less_the_gap_on_random_distributions(
    tmp_path: Path, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(64, 5000, generator=generator) * 4
    student = teacher + torch.randn(64, 5000, generator=generator)
    full, lumped, gap = cached_gap(tmp_path / "x.topk", teacher, student, 64, temperature)
    # Twice the code's error over T, times what |log p/q| makes of it.
    torch.testing.assert_close(lumped, full - gap, atol=3e-4, rtol=0)
    assert (gap > 0).all()


@pytest.mark.slow
def test_the_gap_of_a_real_model_at_k_64(tmp_path: Path) -> None:
    if not (MODEL_FOLDER / "model.safetensors").exists():
        pytest.skip("the default model is not built here (python -m kit.models)")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    chat = [{"role": "user", "content": "What is 12 times 7, and what is left of it modulo 5?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        ids = model.generate(prompt, do_sample=True, max_new_tokens=80)
        teacher = model(ids).logits[0, prompt.shape[1] - 1 : -1]
        # A student that has drifted: the same model with noise on every weight matrix.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.06)
        student = model(ids).logits[0, prompt.shape[1] - 1 : -1]
    shares = {}
    for temperature in (1.0, 2.0):
        full, lumped, gap = cached_gap(tmp_path / "x.topk", teacher, student, 64, temperature)
        torch.testing.assert_close(lumped, full - gap, atol=1e-3, rtol=0)
        shares[temperature] = float(gap.mean() / full.mean())
        print(  # noqa: T201 - the measured numbers, for `pytest -s`
            f"T={temperature:g}: full KL {full.mean():.4f}, gap {gap.mean():.5f} mean, "
            f"{gap.max():.4f} at most, rounding {(lumped - full + gap).abs().max():.1e}"
        )
        assert (gap >= 0).all()
        assert 0.05 < float(full.mean()) < 1
    # What `kit/losses/topk_bound.py` says of k = 64: next to nothing at T = 1, a good part at T = 2.
    assert shares[1.0] < 0.05
    assert 0.1 < shares[2.0] < 0.8
