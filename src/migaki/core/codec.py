"""Settings to and from YAML: strict reading, `--set`, all problems at once with line numbers, and the JSON schema.

PyYAML's own loader reads `no` as false, `1e-4` as text and builds objects from tags. Here words are words, numbers
are what people mean by them (YAML 1.2 core schema), and duplicate keys, tags, anchors and aliases are refused.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from migaki.core.errors import Problem, RecipeError
from migaki.core.types import shorten

__all__ = ["apply_settings", "dump_yaml", "nearest", "parse_value", "parse_yaml", "problems_of", "takes_list"]

_MAX_YAML_CHARACTERS = 1 << 20
_MAX_DEPTH = 100
"""Values inside values. PyYAML's time grows with the square of it: 200 kB of brackets took minutes."""
_MAX_DIGITS = 400
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}

Lines = dict[tuple[str, ...], int]


def _scalar(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if len(text) > _MAX_DIGITS:
        return text  # no setting is so long a number, and Python refuses to read one
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _build(node: yaml.Node, path: tuple[str, ...], lines: Lines, problems: list[Problem], source: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if node.tag and not node.tag.startswith("tag:yaml.org,2002:"):
        problems.append(
            Problem(f"{source}:{line}", f"the tag {node.tag!r} is not allowed; a recipe holds only plain values.")
        )
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append(Problem(f"{source}:{key_line}", "a key must be a plain word."))
                continue
            key = str(key_node.value)
            if key in result:
                first = lines.get((*path, key), 0)
                problems.append(
                    Problem(
                        f"{source}:{key_line}",
                        f"the key {key!r} stands twice (first on line {first}); keep one of them.",
                    )
                )
            lines[(*path, key)] = key_line
            result[key] = _build(value_node, (*path, key), lines, problems, source)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, str(i)), lines, problems, source) for i, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return node.value if node.style in ("'", '"', "|", ">") else _scalar(node.value)


def parse_yaml(text: str, source: str) -> tuple[Any, Lines]:
    """The plain values in a YAML text, and the line of every path in it.

    Raises:
        RecipeError: bad syntax, a duplicate key, a tag, an anchor or alias, or a text over 1 MiB.

    >>> parse_yaml("a: 1e-4\\nb: no", "r.yaml")[0]
    {'a': 0.0001, 'b': 'no'}
    """
    if len(text) > _MAX_YAML_CHARACTERS:
        what = "is over 1 MiB; a recipe is a page of settings. Rows belong into a data file."
        raise RecipeError([Problem(source, what)], source)
    problems: list[Problem] = []
    lines: Lines = {}
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            where = f"{source}:{event.start_mark.line + 1}" if event.start_mark else source
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise RecipeError([Problem(where, "is nested too deeply for a recipe; write it flatter.")], source)
            anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
            if anchor is not None:
                # Aliases can blow up a small file beyond all memory, and a recipe has no use for them.
                refusal = f"the anchor or alias {anchor!r} is not allowed; write the value out."
                raise RecipeError([Problem(where, refusal)], source)
            if tag:
                problems.append(Problem(where, f"the tag {tag!r} is not allowed; a recipe holds only plain values."))
        if problems:
            raise RecipeError(problems, source)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        if isinstance(error, yaml.reader.ReaderError):
            line = text.count("\n", 0, error.position) + 1
        where = f"{source}:{line}" if line else source
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(
            [Problem(where, f"is not valid YAML ({what}). Look at the indentation and the colons on this line.")],
            source,
        ) from None
    values = None if node is None else _build(node, (), lines, problems, source)
    if problems:
        raise RecipeError(problems, source)
    return values, lines


def parse_value(text: str) -> Any:
    """One value as written after `--set key=`: YAML flow syntax, so lists and mappings work too.

    >>> parse_value("1e-4"), parse_value("[q_proj, v_proj]"), parse_value("no")
    (0.0001, ['q_proj', 'v_proj'], 'no')
    """
    return parse_yaml(text, "--set")[0]


def apply_settings(tree: Any, settings: Sequence[str]) -> None:
    """Put `a.b=c` into the tree, in order. A part given by its name alone (`method: lora`) grows into a mapping.

    Raises:
        RecipeError: a setting without `=`, or a path through a value that has no keys.
    """
    problems = []
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            problems.append(
                Problem(f"--set {setting}", "is not of the form key.key=value, for example --set method.rank=16.")
            )
            continue
        place = tree
        for depth, key in enumerate(keys[:-1]):
            child = place.get(key)
            if child is None or isinstance(child, str):
                name = {"model": "reference"}.get(key, "kind")
                child = place[key] = {name: child} if isinstance(child, str) else {}
            if not isinstance(child, dict):
                problems.append(
                    Problem(
                        f"--set {setting}",
                        f"{'.'.join(keys[: depth + 1])} is a plain value and has no {keys[depth + 1]!r}.",
                    )
                )
                break
            place = child
        else:
            try:
                place[keys[-1]] = parse_value(text)
            except RecipeError as error:
                problems += [Problem(f"--set {setting}", problem.message) for problem in error.problems]
    if problems:
        raise RecipeError(problems)


def nearest(name: str, valid: Sequence[str]) -> str:
    """The hint for a wrong name: the closest valid one, or all of them.

    >>> nearest("leraning_rate", ["epochs", "learning_rate"])
    "did you mean 'learning_rate'?"
    """
    close = difflib.get_close_matches(name.lower(), valid, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(sorted(valid))}."


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for argument in get_args(annotation) for model in _models(argument)]
    return []


def _kind(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return field.default if field is not None else None


def takes_list(model: type[BaseModel], values: Any, path: Sequence[str]) -> bool:
    """Whether the setting at this path of a recipe's plain values is itself a list, so that a list is one value of it.

    Of a part with several kinds it is the kind named in the values that counts. A setting that does not exist takes none.
    """
    models, place = [model], values
    for key in path[:-1]:
        place = place.get(key) if isinstance(place, Mapping) else None
        found = [inner for m in models if key in m.model_fields for inner in _models(m.model_fields[key].annotation)]
        kind = place.get("kind") if isinstance(place, Mapping) else place
        models = [m for m in found if _kind(m) in (kind, None)] or found
    fields = [m.model_fields[path[-1]] for m in models if path[-1] in m.model_fields]
    return any(_has_list(field.annotation) for field in fields)


def _has_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _has_list(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return any(_has_list(argument) for argument in get_args(annotation))
    return (origin or annotation) in (list, tuple, set, Sequence)


def _walk(model: type[BaseModel], location: Sequence[str | int]) -> tuple[list[str], type[BaseModel] | None]:
    """The path as the user writes it (tags of unions left out) and the model in which its last key was looked up."""
    path: list[str] = []
    current: list[type[BaseModel]] = [model]
    holder: type[BaseModel] | None = None
    for step in location:
        tagged = [m for m in current if _kind(m) == step]
        if len(current) > 1 and tagged:
            current = tagged
            continue
        if (
            isinstance(step, str)
            and path
            and (
                step.startswith(("function-", "list[", "dict[", "literal[")) or step in ("str", "int", "float", "bool")
            )
        ):
            continue  # pydantic's names for the branches of a union, not the user's words
        holder = current[0] if len(current) == 1 else None
        path.append(str(step))
        fields = [m.model_fields[step] for m in current if isinstance(step, str) and step in m.model_fields]
        current = [inner for found in fields for inner in _models(found.annotation)]
    return path, holder


_SETTINGS = "a group of settings (key: value)"
_WANTED = {
    "bool_type": "true or false",
    "dict_type": _SETTINGS,
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": _SETTINGS,
    "string_type": "a text",
}
"""What pydantic's kinds of type error ask for, in the words of a recipe."""


def _as_written(value: Any) -> str:
    """The value as it stands in a recipe, not as Python shows it."""
    words = {None: "an empty value", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else shorten(repr(value))


def problems_of(
    error: ValidationError, model: type[BaseModel], source: str = "", lines: Mapping[tuple[str, ...], int] | None = None
) -> list[Problem]:
    """Pydantic's findings in the recipe's own words, each with its line, sorted as they stand in the file."""
    found: dict[tuple[str, ...], Problem] = {}
    for item in error.errors(include_url=False):
        path, holder = _walk(model, item["loc"])
        kind, context, value = item["type"], item.get("ctx", {}), _as_written(item.get("input"))
        if kind == "extra_forbidden":
            valid = sorted(holder.model_fields) if holder else []
            message = f"there is no such setting; {nearest(path[-1], valid)}"
        elif kind in ("union_tag_invalid", "union_tag_not_found", "model_attributes_type"):
            kinds = sorted(
                k for m in _models(typing.cast(Any, model.model_fields[path[0]].annotation)) if (k := _kind(m))
            )
            if kind == "union_tag_invalid":
                message = f"there is no kind {context['tag']!r}; {nearest(str(context['tag']), kinds)}"
            else:
                what = "the kind is missing" if kind == "union_tag_not_found" else f"{value} is no kind"
                message = f"{what}; {nearest('', kinds)}"
        elif kind == "literal_error":
            options = re.findall(r"'([^']+)'", str(context.get("expected", "")))
            message = (
                f"{value} is not one of the choices; {nearest(str(item['input']), options)}"
                if options
                else f"{value}: {item['msg']}."
            )
        elif kind == "missing":
            message = "is missing; it has no default."
        elif kind == "value_error":
            message = str(context.get("error", item["msg"]))
        elif kind in _WANTED:
            quotes = " Put it into quotes." if kind == "string_type" and isinstance(item["input"], int | float) else ""
            message = f"{value} is not {_WANTED[kind]}.{quotes}"
        else:
            message = f"{value}: {item['msg'][0].lower()}{item['msg'][1:]}."
        key = tuple(path)
        line = _line_of(key, lines or {})
        where = ".".join(path)
        if line and source:
            where = f"{source}:{line}: {where}"
        previous = found.get(key)
        found[key] = Problem(
            where, f"{previous.message} Or: {message}" if previous and message not in previous.message else message
        )
    return sorted(found.values(), key=lambda problem: (_line_number(problem.path), problem.path))


def _line_of(path: tuple[str, ...], lines: Mapping[tuple[str, ...], int]) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 0) if path else 0


def _line_number(where: str) -> int:
    match = re.search(r":(\d+): ", where)
    return int(match.group(1)) if match else 0


def dump_yaml(values: Mapping[str, Any]) -> str:
    """YAML that `parse_yaml` reads back to equal values, keys in the given order.

    >>> parse_yaml(dump_yaml({"a": "no", "b": 5e-05, "c": "1e-4", "d": None}), "r")[0]
    {'a': 'no', 'b': 5e-05, 'c': '1e-4', 'd': None}
    """
    return yaml.dump(_quoted(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Quoted(str):
    """A text that would be read as something else if it stood there plain."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_quoted(dumper: yaml.SafeDumper, text: _Quoted) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"')


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    # YAML 1.1, which PyYAML writes, takes 5e-05 for a text: a float needs a point there.
    text = repr(value)
    return dumper.represent_scalar("tag:yaml.org,2002:float", text if "." in text else text.replace("e", ".0e"))


_Dumper.add_representer(_Quoted, _represent_quoted)
_Dumper.add_representer(float, _represent_float)


def _quoted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_escaped(str(key)): _quoted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_quoted(item) for item in value]
    if isinstance(value, str):
        return _escaped(value) if isinstance(_scalar(value), str) else _Quoted(value)
    return value


def _escaped(text: str) -> str:
    """A text with line breaks or controls as one line of escapes: YAML folds U+0085 and its like into spaces."""
    return text if text.isprintable() else _Quoted(text)
