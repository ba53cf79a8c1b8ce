"""Random checkpoints of a few hundred kB that transformers and vLLM both load: for tests of real engines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def make_tiny_checkpoint(
    folder: Path,
    *,
    vocab_texts: Sequence[str] = (),
    architecture: Literal["llama", "qwen2"] = "llama",
    hidden: int = 64,
    layers: int = 2,
    heads: int = 2,
    head_dim: int = 32,
    max_positions: int = 2048,
    seed: int = 0,
) -> Path:
    """Write a random model with its byte-level tokenizer into `folder`; returns `folder`.

    Each of `vocab_texts` becomes one token, every other byte is one token of its own. vLLM on a CPU wants
    `head_dim` of 32 or more. The same arguments give the same bytes.

    Raises:
        ValueError: `qwen2`, whose configuration has no head size of its own, with heads * head_dim != hidden.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    if architecture == "qwen2" and heads * head_dim != hidden:
        raise ValueError(f"qwen2: heads {heads} * head_dim {head_dim} must equal hidden {hidden}")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _byte_tokenizer(vocab_texts)
    ends = {
        "bos_token_id": tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": max_positions,
        "tie_word_embeddings": True,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any
        if architecture == "llama":
            model = LlamaForCausalLM(LlamaConfig(head_dim=head_dim, **shape, **ends))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**shape, **ends))
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # saved as 0600
    return folder


def _byte_tokenizer(vocab_texts: Sequence[str]) -> Any:
    """A byte-level tokenizer without merges: 256 bytes, ChatML's marks, and `vocab_texts` as whole tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(mark, special=True) for mark in (END_OF_TEXT, TURN_START, TURN_END)]
    )
    backend.add_tokens([AddedToken(text, normalized=False) for text in vocab_texts])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
