"""Perplexity, agreement and divergence, by hand and between real models."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.package.quantize.measure import Row, SolverFigures, compare, divergence, judge_solver, look
from kit.package.quantize.prm_measure import compare_scores

torch = pytest.importorskip("torch")


def test_the_divergence_over_all_outcomes_is_the_textbooks() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    # 0.5 ln 2 + 0 - 0.25 ln 2
    assert float(divergence(p.log(), q.log())) == pytest.approx(0.25 * math.log(2))
    assert float(divergence(p.log(), p.log())) == 0


def test_the_rest_counts_as_one_outcome() -> None:
    # Of p only one outcome is known, 1/2; the other half lies elsewhere in both.
    p, q = torch.tensor([[0.5]]).log(), torch.tensor([[0.125]]).log()
    expected = 0.5 * math.log(0.5 / 0.125) + 0.5 * math.log(0.5 / 0.875)
    assert float(divergence(p, q)) == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.floats(-8, 8), min_size=6, max_size=6), st.lists(st.floats(-8, 8), min_size=6, max_size=6))
def test_lumping_outcomes_never_adds(first: list[float], second: list[float]) -> None:
    p, q = (torch.tensor([row], dtype=torch.float64).log_softmax(-1) for row in (first, second))
    whole = float(divergence(p, q))
    top, ids = p.topk(3)
    part = float(divergence(top, q.gather(-1, ids)))
    assert 0 <= part <= whole + 1e-9


def test_the_loss_is_the_growth_of_the_perplexity() -> None:
    assert SolverFigures(10, 2.0, 2.1, 1.0, 0.0).loss == pytest.approx(0.05)


def test_step_scores_are_compared_by_hand() -> None:
    before, after = [0.9, 0.4, 0.5, 0.1] * 8, [0.8, 0.6, 0.5, 0.1] * 8
    figures = compare_scores(before, after)
    assert figures.steps == 32
    assert figures.mean_difference == pytest.approx(0.3 / 4)
    assert figures.largest_difference == pytest.approx(0.2)
    assert figures.same_side == 0.75
    assert figures.loss == figures.mean_difference


def test_scores_that_are_no_numbers_and_too_few_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="3 steps"):
        compare_scores([0.1] * 3, [0.1] * 3)
    with pytest.raises(ValueError, match="the quantized process reward model gives"):
        compare_scores([0.5] * 32, [0.5] * 31 + [math.nan])


ROWS: list[Row] = [([5, 6, 7, 8, 9], 2), ([10, 11, 12], 1)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from kit.small import make_small_model

    folder = tmp_path_factory.mktemp("models")
    shape = {"hidden": 32, "layers": 1, "heads": 1, "intermediate": 32}
    return tuple(make_small_model(folder / str(seed), **shape, seed=seed) for seed in (0, 1))  # type: ignore[return-value]


@pytest.mark.slow
def test_a_model_loses_nothing_against_itself_and_much_against_another(models: tuple[Path, Path]) -> None:
    same, nlls = judge_solver(models[0], models[0], ROWS)
    assert (same.tokens, same.agreement) == (5, 1.0)
    assert same.loss == pytest.approx(0, abs=1e-9)
    assert same.kl == pytest.approx(0, abs=1e-9)
    assert math.exp(sum(nlls) / 5) == pytest.approx(same.perplexity_after)
    other, _ = judge_solver(models[0], models[1], ROWS)
    assert other.kl > 0.01
    assert other.perplexity_before == pytest.approx(same.perplexity_before)


@pytest.mark.slow
def test_figures_are_those_of_the_models_own_logits(models: tuple[Path, Path]) -> None:
    from kit.package.quantize.measure import load_solver

    old, new = map(load_solver, models)
    figures, nlls = compare(new, ROWS, look(old, ROWS))
    nll, kl, same = 0.0, 0.0, 0
    with torch.inference_mode():
        for ids, begin in ROWS:
            p, q = (model(torch.tensor([ids])).logits[0].double().log_softmax(-1) for model in (old, new))
            for place in range(begin, len(ids)):
                nll -= float(q[place - 1, ids[place]])
                kl += float((p[place - 1].exp() * (p[place - 1] - q[place - 1])).sum())
                same += int(p[place - 1].argmax() == q[place - 1].argmax())
    assert sum(nlls) == pytest.approx(nll, rel=1e-5)
    assert figures.agreement == same / 5
    # 256 of 354 outcomes and the rest as one: most of the whole, even for so flat a distribution.
    assert 0.8 * kl / 5 < figures.kl <= kl / 5 + 1e-9


@pytest.mark.slow
def test_a_model_whose_logits_are_no_numbers_is_refused(models: tuple[Path, Path]) -> None:
    from kit.package.quantize.measure import load_solver

    model = load_solver(models[0])
    model.model.norm.weight.data.fill_(math.inf)
    with pytest.raises(ValueError, match="not all finite"):
        look(model, ROWS)
