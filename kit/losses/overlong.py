"""Soft overlong punishment: a reward that sinks as a completion nears its limit. Pure maths."""


def soft_overlong_penalty(length: int, *, max_length: int, buffer: int) -> float:
    """0 up to max_length - buffer tokens, from there in a line to -1 at max_length, and -1 beyond.

    Equation 13 of Yu et al. 2025 (DAPO, arXiv 2503.14476), to be added to the reward; there max_length is
    20,480 and the buffer 4,096. A buffer of 0 punishes only what is longer than max_length.

    Args:
        length: tokens of the completion.
        max_length: tokens, at least 1.
        buffer: tokens, in 0..max_length.

    Returns:
        A reward in [-1, 0].

    Raises:
        ValueError: max_length or buffer out of range.
    """
    if max_length < 1:
        raise ValueError(f"max_length is {max_length} tokens; it must be at least 1")
    if not 0 <= buffer <= max_length:
        raise ValueError(f"buffer is {buffer} tokens; it must lie in 0..{max_length}, the max_length")
    assert length >= 0, "a length is a count"
    if length > max_length:
        return -1.0
    over = length - (max_length - buffer)
    return -over / buffer if over > 0 else 0.0
