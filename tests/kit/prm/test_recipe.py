import pytest

from kit.prm.recipe import PrmRecipe


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"head": {"span": "prefix"}}, "head.span = 'prefix' goes with the head 'logprob'"),
        ({"head": {"kind": "logprob", "dropout": 0.1}}, "head.dropout is a classifier's"),
        ({"head": {"kind": "linear"}}, "head.kind"),
        ({"evaluation": {"every": 30}, "checkpoint": {"every": 20}}, "seldom meet"),
        ({"data": {"after_error": "drop"}}, "data.after_error"),
    ],
)
def test_what_does_not_go_together(sections: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrmRecipe.parse(sections, "the test")


def test_every_recipe_of_the_kit_is_valid() -> None:
    from pathlib import Path

    for name in ("prm_cpu", "prm_qwen7b"):
        recipe = PrmRecipe.load(Path("kit/recipes") / f"{name}.toml")
        assert recipe.assume.gpus >= 1
