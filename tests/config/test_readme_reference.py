"""The README's reference of the TOML file is the one that the models give."""

import pytest
from toml_reference import BEGIN, END, README, reference, renewed


def test_a_row_has_value_default_and_meaning() -> None:
    rows = reference().splitlines()
    assert "| `gamma` | number, 0 to 1 | `0.977` | discount per step |" in rows
    assert "| `seed` | integer, at least 0 | `0` | seed of every random stream |" in rows


def test_renewing_changes_only_what_is_between_the_markers() -> None:
    text = f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter {END}\n"
    assert renewed(text) == f"# Title\n\n{BEGIN}\n\n{reference()}\n{END}\n\nafter {END}\n"
    assert renewed(renewed(text)) == renewed(text)


def test_a_readme_without_markers_is_left_alone() -> None:
    with pytest.raises(SystemExit, match="needs the lines"):
        renewed("# Title\n")


def test_the_readme_is_up_to_date() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == renewed(text), "run `python tests/support/toml_reference.py`"
