from storage.sources.docs import datasets_markdown
from storage.sources.listing.parameters import PARAMETERS
from storage.sources.listing.recipes import builtin_files


def test_every_recipe_and_layout_has_a_section_with_meanings() -> None:
    page = datasets_markdown()
    assert len(builtin_files()) >= 18
    for name in builtin_files():
        assert f"\n## {name}\n" in page
    for name, model in PARAMETERS.items():
        assert not model.model_fields or f"\n## layout {name}\n" in page
    assert "|  |\n" not in page.partition("# Layouts")[2].partition("# Public")[0]
