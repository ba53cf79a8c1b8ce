"""How much each token counts in an optimizer step: what GRPO, BNPO, DAPO, Dr. GRPO, GSPO and CISPO differ in.

The loss of a step is sum_i w_i sum_t loss_it over all of its sequences, on whatever rank and in whatever
micro-batch they are. With S sequences of n_i trained tokens:

    grpo, gspo    1 / (S n_i)        mean over sequences of the mean over tokens (Shao et al. 2024,
                                     arXiv 2402.03300; Zheng et al. 2025, arXiv 2507.18071)
    bnpo          1 / sum_i n_i      mean over the step's tokens (TRL's name)
    dapo, cispo   1 / n              n = trained tokens of the roll-out batch / optimizer steps that it is cut
                                     into: mean over the batch's tokens (Yu et al. 2025, arXiv 2503.14476;
                                     MiniMax 2025, arXiv 2506.13585)
    dr_grpo       1 / (S L)          L = most tokens that a completion can have, a constant: a token counts
                                     the same however long its completion (Liu et al. 2025, arXiv 2503.20783)

A sequence without trained tokens (cut at the limit and filtered, say) has weight 0 and still counts in S, as
in TRL. So grpo and dr_grpo give the others no more weight for it.

dapo and bnpo are the same where the batch is one step. Where it is several, bnpo gives a token of a step with
few tokens more weight, and dapo gives every token of the batch the same.
"""

from collections.abc import Sequence
from typing import Literal, assert_never

Weighting = Literal["grpo", "bnpo", "dapo", "dr_grpo", "gspo", "cispo"]


def token_weights(
    kind: Weighting, lengths: Sequence[int], *, batch_tokens: float, max_completion_tokens: int
) -> list[float]:
    """The weight of every token of each sequence of one optimizer step.

    Args:
        kind: the loss.
        lengths: trained tokens of each sequence of the step, over all ranks; 0 where all are masked.
        batch_tokens: trained tokens of the roll-out batch, divided by the optimizer steps it is cut into.
            Read by dapo and cispo.
        max_completion_tokens: most tokens that a completion can have. Read by dr_grpo.

    Returns:
        One weight for each of `lengths`; 0 where that is 0.

    Raises:
        ValueError: `max_completion_tokens` below 1.
    """
    if max_completion_tokens < 1:
        raise ValueError(f"max_completion_tokens is {max_completion_tokens}; it must be at least 1")
    assert all(length >= 0 for length in lengths), "lengths are counts"
    total = sum(lengths)
    if not total:
        return [0.0] * len(lengths)
    match kind:
        case "grpo" | "gspo":
            return [1 / (len(lengths) * length) if length else 0.0 for length in lengths]
        case "bnpo":
            weight = 1 / total
        case "dapo" | "cispo":
            assert batch_tokens > 0, "the batch has at least the tokens of this step"
            weight = 1 / batch_tokens
        case "dr_grpo":
            weight = 1 / (len(lengths) * max_completion_tokens)
        case _:
            assert_never(kind)
    return [weight if length else 0.0 for length in lengths]
