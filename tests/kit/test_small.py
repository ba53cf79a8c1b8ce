"""Small models: the tokenizer gives back what it got, and the checkpoint loads where any other does."""

import itertools
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.records import read_records
from kit.small import SmallRecipe, make_small, make_small_model, make_small_tokenizer, small
from kit.worked import generate, stream

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPE = {"hidden": 64, "layers": 2, "heads": 2, "intermediate": 128}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_model(tmp_path_factory.mktemp("small"), **SHAPE, seed=3)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    """As any pipeline loads it."""
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_generated_text_makes_the_way_there_and_back(tokenizer: Any) -> None:
    for record in itertools.islice(stream("train", 0), 300):
        for text in (record.problem, record.completion):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@given(text=st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_makes_the_way_there_and_back(tokenizer: Any, text: str) -> None:
    special = any(mark in text for mark in tokenizer.all_special_tokens)
    back = tokenizer.decode(tokenizer(text)["input_ids"])
    assert special or back == unicodedata.normalize("NFC", text)


def test_the_loaded_tokenizer_is_the_made_one(tokenizer: Any) -> None:
    made = make_small_tokenizer()
    assert tokenizer.get_vocab() == made.get_vocab()
    text = "Mia has 12 apples.\n\nStep 1: 12 + 7 = 19 e\u0301 \u2211"
    assert tokenizer(text)["input_ids"] == made(text)["input_ids"]


def test_steps_and_digits_are_single_tokens(tokenizer: Any) -> None:
    text = "Step 1: 12 + 7 = 19\n\nAnswer: \\boxed{19}"
    pieces = [tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]]
    assert pieces == [
        *("Step", " ", "1", ": ", "1", "2", " + ", "7", " = ", "1", "9", "\n\n"),
        *("Answer:", " \\boxed{", "1", "9", "}"),
    ]


def test_the_chat_template_marks_the_turns(tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "Compute 1 + 2."}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|user|>Compute 1 + 2.<|end|><|assistant|>"
    whole = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": "3"}], tokenize=False)
    assert whole == prompt + "3<|end|>"
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.convert_ids_to_tokens(ids[0]) == "<|user|>"


def test_the_model_loads_and_its_size_is_as_asked(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    vocabulary = len(make_small_tokenizer())
    # A layer: q, k, v with biases, o; gate, up, down; two norms.
    layer = 3 * (64 * 64 + 64) + 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert model.num_parameters() == vocabulary * 64 + 2 * layer + 64
    assert model.generation_config.eos_token_id == make_small_tokenizer().eos_token_id
    logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.shape == (1, 3, vocabulary)


def test_the_seed_decides_the_weights(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    same = make_small_model(tmp_path / "same", **SHAPE, seed=3)
    assert torch.equal(torch.rand(3), expected)
    other = make_small_model(tmp_path / "other", **SHAPE, seed=4)
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, same, other)]
    assert weights[0] == weights[1] != weights[2]


def test_impossible_sizes_are_refused(tmp_path: Path) -> None:
    for hidden, heads in ((64, 4), (96, 192), (100, 3), (66, 2), (96, 2)):
        with pytest.raises(ValueError, match=f"hidden {hidden} / heads {heads} must be"):
            make_small_model(tmp_path, hidden=hidden, layers=1, heads=heads, intermediate=64, seed=0)
    with pytest.raises(ValueError, match="layers 0"):
        make_small_model(tmp_path, hidden=64, layers=0, heads=2, intermediate=64, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_vllm_serves_it(folder: Path) -> None:
    pytest.importorskip("vllm")
    code = (
        "import sys, vllm\n"
        "if __name__ == '__main__':\n"
        "    llm = vllm.LLM(sys.argv[1], dtype='float32', max_model_len=256, enforce_eager=True)\n"
        "    chat = [{'role': 'user', 'content': 'Compute 1 + 2.'}]\n"
        "    reply = llm.chat(chat, vllm.SamplingParams(max_tokens=5, temperature=0, ignore_eos=True))\n"
        "    print('ids', list(reply[0].prompt_token_ids), list(reply[0].outputs[0].token_ids))\n"
    )
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_HOST_IP": "127.0.0.1",
    }
    script = folder.parent / "serve_small.py"
    script.write_text(code)
    ended = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = make_small_tokenizer()("<|user|>Compute 1 + 2.<|end|><|assistant|>")["input_ids"]
    ids = list(prompt)
    for _ in range(5):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert f"ids {prompt} {ids[len(prompt) :]}" in ended.stdout


RECIPE = """
[models.one]
hidden = 32
heads = 1
layers = 1
[sets.easy]
count = 5
[sets.easy.difficulty]
kinds = ["sum"]
max_operands = 2
[sets.other]
count = 5
draw = 1
split = "test"
"""


def test_a_recipe_names_models_and_sets(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    recipe = SmallRecipe.load(tmp_path / "r.toml")
    for name in ("a", "b"):
        make_small(recipe, tmp_path / name, seed=3)
    made = {path.name for path in (tmp_path / "a").iterdir()}
    assert made == {"one", "easy.jsonl", "other.jsonl"}
    easy = list(read_records(tmp_path / "a" / "easy.jsonl"))
    assert len(easy) == 5 and {record.level for record in easy} == {"2 operands"}
    assert list(read_records(tmp_path / "a" / "other.jsonl")) == generate(5, "test", 4)
    for name in ("easy.jsonl", "other.jsonl", "one/model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_recipes_mistakes_are_told(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    with pytest.raises(ValueError, match=r"'\.\./up' is a folder's or file's name"):
        SmallRecipe.parse({"models": {"../up": {}}}, "here")
    with pytest.raises(ValueError, match="--problems is for the models and sets without --recipe"):
        small(tmp_path / "out", problems=3, seed=0, recipe=tmp_path / "r.toml")
    assert not (tmp_path / "out").exists()
