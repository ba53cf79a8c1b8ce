"""Cards: what a trained model keeps of its base's."""

from pathlib import Path

from kit.training.card import carried_card, front_matter
from submission.checkpoint import LICENSE_NAMES


def test_licence_and_release_go_along_and_nothing_is_made_up(tmp_path: Path) -> None:
    base = tmp_path / "qwen"
    base.mkdir()
    texts = carried_card(base, "grpo")
    assert texts == {"README.md": "---\nbase_model: qwen\n---\n\nMade of qwen by `kit.train grpo`.\n"}
    (base / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model: Qwen/Qwen2.5-7B\nreleased: 2024-09-19\n"
        "tags:\n- math\n---\nText"
    )
    (base / "LICENSE").write_text("Apache")
    (base / "NOTICE").write_bytes(b"\xff\xfe")
    (base / "config.json").write_text("{}")
    texts = carried_card(base, "distill")
    assert set(texts) == {"README.md", "LICENSE"}
    assert LICENSE_NAMES.fullmatch("LICENSE")
    trained = tmp_path / "trained"
    trained.mkdir()
    for name, text in texts.items():
        (trained / name).write_text(text)
    assert front_matter(trained / "README.md") == {
        "license": "apache-2.0",
        "base_model": "Qwen/Qwen2.5-7B",
        "released": "2024-09-19",
    }
    # And on to the next phase.
    assert carried_card(trained, "grpo")["README.md"].startswith(
        "---\nbase_model: Qwen/Qwen2.5-7B\nlicense: ap"
    )
