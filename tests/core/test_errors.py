"""The tree of errors that the docstring draws is the tree that exists."""

import inspect
import re

import pytest

from migaki.core import errors


def drawn_tree() -> dict[str, tuple[str | None, int | None]]:
    """Name of each drawn error -> its drawn parent, and the exit code that stands beside it (None: the parent's)."""
    found: dict[str, tuple[str | None, int | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)(\w+Error)\b(.*)", line)
        if not match:
            continue
        depth = len(match.group(1)) // 4
        above[depth:] = [match.group(2)]
        # `exit 128 + ...` belongs to the instance, not to the class.
        code = re.search(r"exit (\d)(?!\d)", match.group(3))
        found[match.group(2)] = (above[depth - 1] if depth else None, int(code.group(1)) if code else None)
    return found


def classes() -> dict[str, type[errors.MigakiError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.MigakiError)
    }


def test_the_drawn_tree_has_every_class_and_no_other():
    assert drawn_tree().keys() == classes().keys()
    assert len(drawn_tree()) > 10


@pytest.mark.parametrize("name", classes())
def test_each_error_hangs_where_it_is_drawn(name):
    parent, _ = drawn_tree()[name]
    bases = [base.__name__ for base in classes()[name].__bases__]
    assert bases == ([parent] if parent else ["Exception"])


@pytest.mark.parametrize("name", classes())
def test_each_error_has_the_exit_code_that_is_drawn(name):
    tree = drawn_tree()
    at: str | None = name
    while at is not None and tree[at][1] is None:
        at = tree[at][0]
    assert at is not None
    assert classes()[name].exit_code == tree[at][1]


def test_a_recipe_error_lists_all_problems_and_keeps_them():
    problems = [errors.Problem("seed", "is wrong."), errors.Problem("", "and so is this.")]
    error = errors.RecipeError(problems, "a.yaml")
    assert error.problems == problems
    assert str(error) == "a.yaml: 2 problems found, nothing was started.\n  - seed: is wrong.\n  - and so is this."


def test_a_recipe_error_of_one_sentence_counts_one_problem():
    assert str(errors.RecipeError("no.")) == "recipe: 1 problem found, nothing was started.\n  - no."
