"""YAML as people mean it, everything else refused with its line, and what is written is read back equal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migaki.core.codec import apply_settings, dump_yaml, nearest, parse_value, parse_yaml
from migaki.core.errors import RecipeError
from migaki.recipe import Recipe


def problems(text: str) -> list[tuple[str, str]]:
    """Place and message of everything wrong with a YAML text."""
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "r.yaml")
    return [(problem.path, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("no", "no"),
        ("off", "off"),
        ("Yes", "Yes"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("+3", 3),
        ("007", 7),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("1e", "1e"),
        ("-", [None]),
        ("'7'", "7"),
        ('"true"', "true"),
        ("|\n  7", "7"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_words_are_words_and_numbers_are_what_people_mean(written, meant):
    value = parse_yaml(f"a: {written}" if written != "-" else "a:\n  -", "r.yaml")[0]["a"]
    assert value == meant
    assert type(value) is type(meant)


def test_every_path_has_its_line():
    _, lines = parse_yaml("# first\na: 1\nb:\n  c: {d: 2}\n  e:\n    - x\n    - y: 3\n", "r.yaml")
    assert lines[("a",)] == 2
    assert lines[("b", "c", "d")] == 4
    assert lines[("b", "e", "1", "y")] == 7


def test_a_key_that_stands_twice_is_told_with_both_lines():
    assert problems("a:\n  b: 1\n  c: 2\n  b: 3\n") == [
        ("r.yaml:4", "the key 'b' stands twice (first on line 2); keep one of them.")
    ]


def test_all_duplicate_keys_are_told_at_once():
    assert [place for place, _ in problems("a: 1\na: 2\nb:\n  c: 1\n  c: 2\nb: 3\n")] == [
        "r.yaml:2",
        "r.yaml:5",
        "r.yaml:6",
    ]


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['true']", "!!str 5", "!mine 5", "! 5", "!!binary aGk=", "!!set {a}"]
)
def test_tags_are_refused(tag):
    ((place, message),) = problems(f"ok: 1\na: {tag}\n")
    assert place == "r.yaml:2"
    assert "tag" in message
    assert "plain values" in message


def test_all_tags_are_told_at_once():
    assert [place for place, _ in problems("a: !x 1\nb: !y 2\n")] == ["r.yaml:1", "r.yaml:2"]


@pytest.mark.parametrize("text", ["a: 1\nb: &x 2\n", "a: 1\nb: *x\n", "a: 1\n? &x k\n: 1\n"])
def test_anchors_and_aliases_are_refused(text):
    ((place, message),) = problems(text)
    assert place == "r.yaml:2"
    assert "write the value out" in message


def test_an_alias_bomb_is_refused_at_its_first_anchor():
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40))]
    ((place, _),) = problems("\n".join(lines))
    assert place == "r.yaml:1"


def test_a_merge_key_is_a_key_like_any_other():
    assert parse_yaml("<<: {a: 1}\nb: 2", "r.yaml")[0] == {"<<": {"a": 1}, "b": 2}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\nb: [1, 2\n", 3),
        ("a: 'open\n", 2),
        ("a: 1\nb: c: d\n", 2),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: 1\nb: \x00\n", 2),
        ("a: 1\nb: x\x07\n", 2),
        ("%YAML 9.9\n---\na: 1\n", 1),
        ("a: @x\n", 1),
    ],
)
def test_bad_syntax_is_told_with_its_line(text, line):
    ((place, message),) = problems(text)
    assert place == f"r.yaml:{line}"
    assert message.startswith("is not valid YAML (")


def test_a_list_as_a_key_is_told_with_its_line():
    assert problems("a: 1\n? [b]\n: 2\n") == [("r.yaml:2", "a key must be a plain word.")]


@pytest.mark.parametrize("brackets", ["[" * 100 + "]" * 100, "[" * 400_000, "{a: " * 200_000])
def test_nesting_beyond_reason_is_refused_at_once(brackets):
    assert problems(f"b: 1\na: {brackets}") == [("r.yaml:2", "is nested too deeply for a recipe; write it flatter.")]


def test_nesting_that_is_only_unusual_is_read():
    assert parse_yaml("[" * 100 + "]" * 100, "r.yaml")[0] is not None


def test_a_text_of_more_than_a_mebibyte_is_refused_before_it_is_read():
    assert parse_yaml("a: " + "x" * 1000, "r.yaml")[0]["a"] == "x" * 1000
    ((place, message),) = problems("a: " + "x" * 2**20)
    assert place == "r.yaml"
    assert "over 1 MiB" in message


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("leraning_rate", "did you mean 'learning_rate'?"),
        ("EPOCHS", "did you mean 'epochs'?"),
        ("zzz", "valid: epochs, learning_rate."),
        ("", "valid: epochs, learning_rate."),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_one_or_all(name, hint):
    assert nearest(name, ["learning_rate", "epochs"]) == hint


def test_several_problems_of_a_recipe_come_at_once_in_the_order_of_its_lines(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "task: {kind: classify_text, poling: mean}\n"
        "data:\n"
        "  train: a.csv\n"
        "  test: 1.5\n"
        "  lable: y\n"
        "training:\n"
        "  epochs: three\n"
        "  schedule: cosin\n"
        "method: {kind: lora, rank: 0}\n"
        "sed: 1\n"
    )
    with pytest.raises(RecipeError) as caught:
        Recipe.from_file(path)
    told = [(problem.path.removeprefix(f"{path}:"), problem.message) for problem in caught.value.problems]
    assert told == [
        ("1: task.poling", "there is no such setting; did you mean 'pooling'?"),
        (
            "4: data.test",
            "1.5 is not a share above 0 and up to 0.9; every run needs rows to choose and to judge by.",
        ),
        ("5: data.lable", "there is no such setting; did you mean 'label'?"),
        ("7: training.epochs", "'three' is not a whole number."),
        ("8: training.schedule", "'cosin' is not one of the choices; did you mean 'cosine'?"),
        ("9: method.rank", "0: input should be greater than 0."),
        ("10: sed", "there is no such setting; did you mean 'seed'?"),
    ]
    assert str(caught.value).startswith(f"{path}: 7 problems found, nothing was started.\n  - ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: true", "true is not a whole number."),
        ("seed: 1.0", "1.0 is not a whole number."),
        ("seed:", "an empty value is not a whole number."),
        ("seed: -1", "-1: input should be greater than or equal to 0."),
        ("training: {clip: '1'}", "'1' is not a number."),
        ("training: {clip: 1e999}", "inf is not a finite number."),
        ("training: 5", "5 is not a group of settings (key: value)."),
        ("method: {kind: lora, rslora: yes}", "'yes' is not true or false."),
        ("method: {rank: 4}", "the kind is missing; valid: "),
        ("method: lore", "there is no kind 'lore'; did you mean 'lora'?"),
        ("method: [lora]", "['lora'] is no kind; valid: "),
        ("method: {kind: lora, targets: q_proj}", "'q_proj' is not one of the choices; valid: all-linear."),
    ],
)
def test_a_wrong_type_is_told_in_the_words_of_a_recipe(text, message):
    values, _ = parse_yaml(f"task: classify_text\ndata: {{train: a.csv}}\n{text}", "r.yaml")
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping(values)
    (problem,) = caught.value.problems
    assert problem.message.startswith(message)


def test_a_column_named_by_a_number_has_to_be_quoted_and_that_is_said():
    with pytest.raises(RecipeError, match=r"data\.text: 2024 is not a text\. Put it into quotes\."):
        Recipe(task="classify_text", data={"train": "a.csv", "text": 2024})


# apply_settings


def test_settings_are_put_over_the_tree_in_their_order():
    tree = {"method": "lora", "model": "bundled:minilm", "seed": 1}
    apply_settings(
        tree, ["method.rank=4", "training.clip=null", "model.revision=main", "seed=2", "seed=3", " a.b =x=y"]
    )
    assert tree == {
        "method": {"kind": "lora", "rank": 4},
        "training": {"clip": None},
        "model": {"reference": "bundled:minilm", "revision": "main"},
        "seed": 3,
        "a": {"b": "x=y"},
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("[a, no, 3]", ["a", "no", 3]), ("{k: v}", {"k": "v"}), ("", None), ("'5'", "5")],
)
def test_a_value_of_set_is_read_as_in_a_recipe(text, value):
    assert parse_value(text) == value


def test_all_settings_that_cannot_be_read_are_told_at_once():
    settings = ["seed", "=1", "a..b=1", "seed.x=1", "c=[", "d=!!str 5"]
    with pytest.raises(RecipeError) as caught:
        apply_settings({"seed": 3}, settings)
    assert [problem.path for problem in caught.value.problems] == [f"--set {setting}" for setting in settings]


# dump_yaml

TEXTS = st.one_of(
    st.text(max_size=200),
    st.sampled_from(
        [
            "no",
            "1e-4",
            "",
            " ",
            "~",
            "null",
            "08",
            "0x10",
            "=",
            "<<",
            "- a",
            "a: b",
            "#",
            "a #b",
            "'",
            '"',
            "\n",
            "a\n\nb ",
            "\t",
        ]
    ),
    st.text(alphabet="é本あ①〜🙂\u2028\x85\ufeff\n :#", max_size=40),
)
NUMBERS = st.one_of(st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    """Equal, and of equal types: 1, 1.0 and true are three things."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4))
def test_what_is_written_is_read_back_equal(values):
    assert same(parse_yaml(dump_yaml(values), "r.yaml")[0], values)


def test_settings_are_written_in_their_order_and_readably():
    text = dump_yaml({"b": 1, "a": {"z": None, "y": [True, "本"]}, "rate": 5e-05})
    assert text == "b: 1\na:\n  z: null\n  y:\n  - true\n  - 本\nrate: 5.0e-05\n"
