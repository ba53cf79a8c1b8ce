"""The distillation loss of a step equals the losses on whole logits, however the batch is made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.distill.objective import CachedTeacher, DistillObjective, OnlineTeacher
from kit.distill.recipe import LossSection
from kit.losses.distillation import distillation_terms, mix
from kit.traces.topk import TopKHeader, TopKWriter
from kit.training.batches import collate
from kit.training.model import load_causal, load_tokenizer, wrap
from kit.training.recipe import ModelSection
from kit.training.rows import TokenRow, TokenTable, write_table
from tests.kit.distill.made import teacher
from tests.kit.training.made import token_rows
from tests.tiny import make_tiny_checkpoint

VOCABULARY = 259
ROWS = token_rows(5, seed=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    make_tiny_checkpoint(made / "student", hidden=32, heads=1, layers=2, seed=1)
    teacher(made / "teacher")
    teacher(made / "wide", pad_to=320)
    return made


def load(folder: Path) -> Any:
    return load_causal(
        folder, ModelSection.parse({"path": str(folder), "dtype": "float64"}, "the test")
    ).eval()


def section(**settings: Any) -> LossSection:
    return LossSection.parse({"alpha": 0.6, "temperature": 2.0} | settings, "the test")


def online(
    model: Any, prompts: TokenTable | None = None, ends: tuple[int, int] = (3, 3), **options: Any
) -> Any:
    head = model.get_output_embeddings().weight
    return OnlineTeacher(wrap(model), head, prompts, ends, packing=options.get("packing", True))


def by_hand(
    student: Any, other: Any, chosen: LossSection, prompts: Any = None, ends: Any = None
) -> dict[str, float]:
    """Sums over the trained tokens from plain forward passes of single rows, on whole logits."""
    import torch

    totals = {"loss": 0.0, "kd": 0.0, "ce": 0.0}
    for index, row in enumerate(ROWS):
        begin = int(np.argmax(row.mask))
        ids = torch.tensor([row.ids.tolist()])
        theirs = ids if prompts is None else torch.tensor([[*prompts[index], *row.ids[begin:].tolist()]])
        with torch.no_grad():
            # The token before the completion predicts its first token.
            count = len(row) - begin
            ours_logits = student(input_ids=ids).logits[0, -count - 1 : -1]
            their_logits = other(input_ids=theirs).logits[0, -count - 1 : -1, :VOCABULARY].clone()
            if ends:
                first, second = ends
                swapped = their_logits.clone()
                swapped[:, first], swapped[:, second] = their_logits[:, second], their_logits[:, first]
                their_logits = swapped
        terms = distillation_terms(
            ours_logits,
            ids[0, begin:],
            their_logits,
            alpha=chosen.alpha,
            temperature=chosen.temperature,
            kind=chosen.divergence,
            beta=chosen.beta,
        )
        loss = mix(terms, alpha=chosen.alpha, temperature=chosen.temperature)
        assert terms.divergence is not None and terms.cross_entropy is not None
        totals["loss"] += float(loss.sum())
        totals["kd"] += float(terms.divergence.sum())
        totals["ce"] += float(terms.cross_entropy.sum())
    return totals


def measured(student: Any, objective: DistillObjective, packing: bool = True) -> dict[str, float]:
    import torch

    micro = collate(ROWS, "cpu", packing=packing)
    with torch.no_grad():
        total, others = wrap(student, chunk=7)(micro, objective.token_loss(micro))
    return {"loss": float(total)} | {name: float(value) for name, value in others.items()}


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_an_online_teacher(folder: Path, divergence: str, packing: bool) -> None:
    student, other = load(folder / "student"), load(folder / "teacher")
    chosen = section(divergence=divergence)
    objective = DistillObjective(chosen, online(other, packing=packing), VOCABULARY)
    expected = by_hand(student, other, chosen)
    assert measured(student, objective, packing) == pytest.approx(expected, rel=1e-10)
    assert objective.names == ("kd", "ce")


@pytest.mark.parametrize("packing", [True, False])
def test_a_teacher_with_its_own_prompts_and_end(folder: Path, tmp_path: Path, packing: bool) -> None:
    student, other = load(folder / "student"), load(folder / "teacher")
    prompts = [list(range(10, 10 + 3 * (n + 1))) for n in range(len(ROWS))]
    table = write_table(
        tmp_path / "prompts",
        [TokenRow(np.array(ids, np.int32), np.zeros(len(ids), np.uint8)) for ids in prompts],
        {},
    )
    chosen = section()
    objective = DistillObjective(chosen, online(other, table, (258, 256), packing=packing), VOCABULARY)
    found = measured(student, objective, packing)
    assert found == pytest.approx(by_hand(student, other, chosen, prompts, (258, 256)), rel=1e-10)
    assert found["kd"] != pytest.approx(by_hand(student, other, chosen, prompts)["kd"], rel=1e-6)


def test_rows_beyond_the_vocabulary_do_not_count(folder: Path) -> None:
    """The wide teacher is the plain one with 61 more rows, whose logits are large."""
    student, plain, wide = load(folder / "student"), load(folder / "teacher"), load(folder / "wide")
    assert wide.config.vocab_size == 320
    found = [measured(student, DistillObjective(section(), online(m), VOCABULARY)) for m in (plain, wide)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)  # saved in float32


def test_every_token_cached_is_the_online_teacher(folder: Path, tmp_path: Path) -> None:
    """But for the file's rounding: 1e-3 nats a log-probability at worst."""
    import torch

    student, other = load(folder / "student"), load(folder / "teacher")
    header = TopKHeader(
        vocab_size=VOCABULARY, k=VOCABULARY, temperatures=(2.0,), tokenizer="0" * 64, teacher="tiny"
    )
    with TopKWriter(tmp_path / "all.topk", header) as writer:
        for row in ROWS:
            with torch.no_grad():
                logits = other(input_ids=torch.tensor([row.ids.tolist()])).logits[0]
            begin = int(np.argmax(row.mask))
            top = logits[begin - 1 : -1].log_softmax(-1).topk(VOCABULARY, -1)
            tails = np.full((len(row) - begin, 1), -np.inf)  # nothing is left
            writer.append(top.indices.numpy(), top.values.numpy(), tails)
    places = [("all.topk", index) for index in range(len(ROWS))]
    cached = DistillObjective(section(), CachedTeacher(tmp_path, places, 2.0), VOCABULARY)
    live = DistillObjective(section(), online(other), VOCABULARY)
    assert measured(student, cached) == pytest.approx(measured(student, live), rel=2e-3)
    assert measured(student, cached) == pytest.approx(measured(student, cached, packing=False), rel=1e-9)
    with pytest.raises(ValueError, match="has temperatures 2, not 1"):
        CachedTeacher(tmp_path, places, 1.0)
    with pytest.raises(ValueError, match="has rows 0 to 4, no row 5"):
        CachedTeacher(tmp_path, [("all.topk", 5)], 2.0)
    with pytest.raises(ValueError, match="cannot be read"):
        CachedTeacher(tmp_path, [("gone.topk", 0)], 2.0)


@pytest.mark.parametrize("kind", ["none", "online"])
def test_no_rows_have_no_loss(folder: Path, kind: str) -> None:
    student = load(folder / "student")
    alpha = 0.0 if kind == "none" else 1.0
    chosen = section(alpha=alpha)
    other = online(load(folder / "teacher")) if kind == "online" else None
    objective = DistillObjective(chosen, other, VOCABULARY)
    assert objective.names == (("ce",) if kind == "none" else ("kd",))
    micro = collate((), "cpu")
    total, others = wrap(student)(micro, objective.token_loss(micro))
    total.backward()
    assert (float(total.detach()), others) == (0.0, {})


def test_the_tokenizer_is_that_of_the_tests(folder: Path) -> None:
    assert len(load_tokenizer(folder / "student")) == VOCABULARY
