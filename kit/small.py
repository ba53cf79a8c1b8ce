"""Models of some 100,000 parameters with a small vocabulary: ordinary checkpoints that learn in minutes.

    python -m kit.small --out build/small

They stand in for 32B models in proofs of learning and in tests. The tokenizer knows every byte, each digit by
itself, and the words of `kit.worked` as one token each, so that any text (in Unicode's composed form, NFC)
makes the way there and back.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from pydantic import Field, model_validator

from kit.data.records import write_records
from kit.worked import VOCABULARY, Difficulty, Split, generate
from submission.cli import run
from submission.recipes import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END = "<|endoftext|>", "<|end|>"
HEAD_SIZES = (32, 64, 80, 96, 112)
ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A turn is one token for its role, its text, and the end token."""


def make_small_tokenizer() -> "PreTrainedTokenizerFast":
    """256 bytes, the special tokens, and `kit.worked.VOCABULARY`; no merges, so digits stay single."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    # transformers reads every Qwen2 checkpoint's tokenizer with this normalizer and with this padding token.
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    marks = [PAD, END, *(f"<|{role}|>" for role in ROLES)]
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    backend.add_tokens([AddedToken(text, normalized=False) for text in VOCABULARY])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_small_model(
    folder: Path,
    *,
    hidden: int,
    layers: int,
    heads: int,
    intermediate: int,
    seed: int,
    initializer_range: float = 0.04,
    max_positions: int = 512,
) -> Path:
    """Write a random Qwen2 model and its tokenizer into `folder`; returns `folder`.

    The same arguments give the same weights; torch's global random state is left as it was. Weights start at
    twice the usual standard deviation: at 0.02 such narrow models stay far longer on their first plateau.

    Raises:
        ValueError: a size below 1, or a head size (hidden / heads) that vLLM's CPU attention does not take.
    """
    sizes = {"hidden": hidden, "layers": layers, "heads": heads, "intermediate": intermediate}
    for name, size in {**sizes, "max_positions": max_positions}.items():
        if size < 1:
            raise ValueError(f"{name} {size} must be at least 1")
    if hidden % heads or (
        hidden // heads not in HEAD_SIZES and (hidden // heads < 128 or hidden // heads % 2)
    ):
        raise ValueError(
            f"hidden {hidden} / heads {heads} must be one of {', '.join(map(str, HEAD_SIZES))}, or an even "
            "number from 128: vLLM's CPU attention has no others"
        )

    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_small_tokenizer()
    ends: dict[str, Any] = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        initializer_range=initializer_range,
        **ends,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(**ends)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # saved as 0600
    return folder


class ModelShape(Recipe):
    """An untrained model; see `make_small_model`."""

    hidden: int = Field(default=64, ge=1)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=2, ge=1)
    intermediate: int = Field(default=128, ge=1)
    seed: int | None = Field(default=None, ge=0)
    """None: that of the whole."""


class ProblemSet(Recipe):
    """Worked problems; see `kit.worked.generate`."""

    count: int = Field(default=1_000, ge=1)
    split: Split = "train"
    """Problems of different splits are never the same, whatever their difficulty."""
    draw: int = Field(default=0, ge=0)
    """Added to the seed: other problems of the same split, though some may come up in both draws."""
    difficulty: Difficulty = Difficulty()


class SmallRecipe(Recipe):
    """Which models and sets are made, by the names of their folders and files."""

    models: dict[str, ModelShape] = Field(
        default={"teacher": ModelShape(hidden=96, heads=3, intermediate=192), "student": ModelShape()}
    )
    sets: dict[str, ProblemSet] = Field(
        default={
            "train": ProblemSet(count=4_000),
            "validation": ProblemSet(count=200, split="validation"),
        }
    )

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in (*self.models, *self.sets):
            if not name.isidentifier():
                raise ValueError(f"{name!r} is a folder's or file's name: letters, digits and _ only")
        return self


def make_small(recipe: SmallRecipe, out: Path, seed: int = 0) -> None:
    """Write a recipe's models into folders of `out` and its sets beside them. The same seed, the same files.

    Raises:
        ValueError: a model that cannot be, or a set of more problems than there are.
    """
    for name, shape in recipe.models.items():
        sizes = shape.model_dump(exclude={"seed"})
        make_small_model(out / name, **sizes, seed=seed if shape.seed is None else shape.seed)
    for name, wanted in recipe.sets.items():
        found = generate(wanted.count, wanted.split, seed + wanted.draw, wanted.difficulty)
        write_records(out / f"{name}.jsonl", found)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def small(
    out: Annotated[Path, typer.Option(help="Folder for untrained models and worked problems.")],
    problems: Annotated[
        int | None, typer.Option(min=1, help="Worked problems to train on, without --recipe (4000).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same files.")] = 0,
    recipe: Annotated[
        Path | None, typer.Option(help="TOML of other models and sets: kit/recipes/pipeline_problems.toml.")
    ] = None,
) -> None:
    """Write what kit/recipes/distill_cpu.toml needs: untrained models, worked problems to learn from."""
    if recipe is not None and problems is not None:
        raise ValueError("--problems is for the models and sets without --recipe, which has its own counts")
    made = SmallRecipe.load(recipe)
    if problems is not None:
        train = made.sets["train"].model_copy(update={"count": problems})
        made = made.model_copy(update={"sets": {**made.sets, "train": train}})
    make_small(made, out, seed)


if __name__ == "__main__":
    run(app)
