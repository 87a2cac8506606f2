"""The command line. Nothing heavy is imported before a verb needs it, so `--help` is instant."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migaki.core.errors import DamagedError, MigakiError, UsageError

if TYPE_CHECKING:
    from migaki.audit.look import Subject
    from migaki.choosing import Candidate
    from migaki.core.store import RunFolder
    from migaki.core.types import Evaluation
    from migaki.data.gathered import Gathered
    from migaki.run import Run

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 the run failed or the machine is not ready, 2 recipe, data or usage, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    # Read when torch is loaded: threads that wait for one another sleep soon instead of spinning. Where other work shares
    # the cores, spinning made the same training five times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        code = arguments.verb(arguments)
        sys.stdout.flush()
    except MigakiError as error:
        print(f"migaki: {error}", file=sys.stderr)
        if getattr(arguments, "json", False):
            print(json.dumps({"error": type(error).__name__, "message": str(error)}, ensure_ascii=False))
        return error.exit_code
    except KeyboardInterrupt:
        print("migaki: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has closed it (`| head`); point stdout elsewhere so that the exit stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="migaki",
        description="Adapt a pretrained model to your own task, and measure whether it was worth it.",
        epilog="Start with: migaki train recipes/quickstart.yaml",
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        *(_add_train, _add_compare, _add_search, _add_rates),
        *(_add_evaluate, _add_predict, _add_generate, _add_index, _add_runs, _add_report),
        *(_add_data, _add_choose, _add_doctor, _add_lock, _add_models, _add_schema),
    ):
        add(verbs)
    return parser


def _verb(
    verbs: Any, name: str, function: Callable[..., Any], text: str, run: bool = False, json_output: bool = False
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    command.set_defaults(verb=function)
    if run:
        command.add_argument("run", metavar="RUN", help="a run's id, its number, or its folder")
    if json_output:
        command.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return command


def _add_runs_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--runs", metavar="DIR", type=Path, default=Path("runs"), help="folder of the runs (default: runs)"
    )


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", help="a recipe in YAML")
    command.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="override a setting, e.g. method.rank=16"
    )


def _add_task(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--task", metavar="TASK", help="its kind (classify_text, tag_tokens ...), where the columns do not tell"
    )


def _add_language(command: argparse.ArgumentParser, of: str) -> None:
    command.add_argument("--lang", choices=("en", "ja"), default="en", help=f"language of the {of}")


def _count(text: str, of: str = "number of rows") -> int:
    if not text.isascii() or not text.isdecimal() or int(text[:9]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a {of} above 0")
    return int(text[:9])


def _whole(text: str) -> int:
    return _count(text, "whole number")


def _positive(text: str, of: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {of} above 0")
    return value


def _gigabytes(text: str) -> float:
    return _positive(text, "GiB")


def _minutes(text: str) -> float:
    return _positive(text, "minutes")


def _add_train(verbs: Any) -> None:
    train = _verb(verbs, "train", _train, "tune a model by a recipe and measure it against the base", json_output=True)
    _add_recipe(train)
    which = train.add_mutually_exclusive_group()
    which.add_argument(
        "--new", action="store_true", help="start afresh, even where an unfinished run could be gone on with"
    )
    which.add_argument("--resume", metavar="RUN", help="go on with this run, and with no other")
    _add_runs_folder(train)


def _train(arguments: argparse.Namespace) -> None:
    from migaki.recipe import Recipe

    # The recipe is read before anything heavy is imported, so its mistakes are told at once.
    recipe = Recipe.from_file(arguments.recipe, arguments.set)
    from migaki.pipeline import train
    from migaki.training.monitor import monitor_for

    run = train(recipe, arguments.runs, monitor_for(), new=arguments.new, resume=arguments.resume)
    _print_comparison(run)
    print(f"report: {run.path / 'report.html'}")
    again = f" --runs {arguments.runs}" if str(arguments.runs) != "runs" else ""
    ask = "generate" if recipe.task.kind == "generate" else "predict"
    example = "--chat" if ask == "generate" else "--input FILE --output FILE"
    print(f"use it: migaki {ask} {run.id.split('-')[0]} {example}{again}")
    if arguments.json:
        print(json.dumps(run.summary(), ensure_ascii=False))


def _add_compare(verbs: Any) -> None:
    text = "adapt the model in every way and say which one is worth it on your data"
    compare = _verb(verbs, "compare", _compare, text, json_output=True)
    _add_recipe(compare)
    compare.add_argument("--methods", metavar="A,B,...", help="which ones (default: all that make sense for the task)")
    compare.add_argument(
        "--seeds", type=_count, default=3, metavar="N", help="runs of each method that depends on the seed (default: 3)"
    )
    compare.add_argument(
        "--minutes", type=_minutes, metavar="M", help="beyond it more seeds and learning curves are left out"
    )
    _add_language(compare, "page")
    _add_runs_folder(compare)


def _compare(arguments: argparse.Namespace) -> None:
    from migaki.recipe import Recipe

    recipe = Recipe.from_file(arguments.recipe, arguments.set)
    from migaki.comparison import compare
    from migaki.report import write_comparison
    from migaki.training.monitor import monitor_for

    methods = [name.strip() for name in arguments.methods.split(",") if name.strip()] if arguments.methods else None
    found = compare(recipe, methods, arguments.runs, monitor_for(), seeds=arguments.seeds, minutes=arguments.minutes)
    page = found.folder / "comparison.html"
    page.write_text(write_comparison(found.folder, arguments.lang), encoding="utf-8")
    _print_methods(found.facts)
    print(f"report: {page}")
    if arguments.json:
        print(json.dumps({"folder": str(found.folder), **found.facts}, ensure_ascii=False))


def _print_methods(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from migaki.core.units import bytes_text, count_text, seconds_text

    rows, metric = facts["rows"], facts["metric"]
    table = Table(
        title=f"{facts['model']}: {rows['train']} train, {rows['test']} test rows, 95 % intervals over rows and seeds"
    )
    for column in ("method", metric, "group", "seeds", "trained", "training", "memory", "on disk", "answer p50 / p95"):
        table.add_column(column, justify="left" if column == "method" else "right")

    def rank(name: str) -> tuple[int, int]:
        group = facts["methods"][name].get("group", 99)
        return group, next((m.index(name) for m in facts["groups"] if name in m), 99)

    for name in sorted(facts["methods"], key=rank):
        method = facts["methods"][name]
        if "group" not in method:
            table.add_row(name, _interval_text(method["metrics"][metric]), *[""] * 7)
            continue
        latency = [method["latency_p50_s"], method["latency_p95_s"]]
        table.add_row(
            ("* " if name == facts["recommended"] else "  ") + name,
            _interval_text(method["metrics"][metric]),
            str(method["group"]),
            str(len(method["seeds"])),
            count_text(method["trainable_parameters"]),
            seconds_text(method["seconds"]),
            bytes_text(method["peak_bytes"]),
            bytes_text(method["disk_bytes"]),
            " / ".join("" if s is None else f"{1000 * s:.0f}" for s in latency) + " ms",
        )
    Console(width=max(130, Console().width), highlight=False).print(table)
    print("Methods of one group cannot be told apart on these rows.")
    print(f"recommended: {facts['recommended']}. {facts['reason']}")
    below = [name for name in facts["not_above_floor"] if name != facts["recommended"]]
    if below:
        print(f"not better than a floor beyond chance: {', '.join(below)}")
    for flip in facts["flips_when"]:
        labels = facts["labels"]
        each = f" ({flip['rows'] / labels:.0f} a label)" if labels else ""
        print(f"it would be {flip['method']} with about {flip['rows']} train rows{each}, by the validation rows")


def _add_search(verbs: Any) -> None:
    text = "search settings within a budget, and test the best against the default"
    search = _verb(verbs, "search", _search, text, json_output=True)
    _add_recipe(search)
    search.add_argument("--trials", type=_whole, metavar="N", help="at most (default: 20; a grid has all of it)")
    search.add_argument("--minutes", type=_minutes, metavar="M", help="that all of it may take from now on")
    search.add_argument("--sampler", choices=("tpe", "gp", "grid", "random"), default="tpe", help="default: tpe")
    search.add_argument(
        "--pruner",
        choices=("none", "halving", "hyperband", "median", "patience"),
        help="what ends a trial early (default: halving where there are steps; none for a grid)",
    )
    search.add_argument("--workers", type=_whole, default=1, metavar="K", help="processes (default: 1)")
    search.add_argument(
        "--seeds", type=_whole, default=3, metavar="N", help="trainings of each candidate in the end (default: 3)"
    )
    search.add_argument("--also", choices=("parameters", "latency"), help="what is wanted small beside the figure")
    search.add_argument("--storage", metavar="URL", help="a database that several machines share (default: a file)")
    _add_language(search, "page")
    _add_runs_folder(search)


def _search(arguments: argparse.Namespace) -> None:
    from migaki.search.space import read_space

    # The space is read before anything heavy is imported, so its mistakes are told at once.
    space = read_space(arguments.recipe, arguments.set)
    import signal

    from migaki.core.errors import StoppedError
    from migaki.report import write_search
    from migaki.search import search

    try:
        found = search(
            space,
            arguments.runs,
            trials=arguments.trials,
            minutes=arguments.minutes,
            sampler=arguments.sampler,
            pruner=arguments.pruner,
            workers=arguments.workers,
            seeds=arguments.seeds,
            second=arguments.also,
            storage=arguments.storage,
        )
    except KeyboardInterrupt:
        # What is done lies in the list of trials and their checkpoints, whatever the moment.
        raise StoppedError(signal.SIGINT) from None
    page = found.folder / "search.html"
    page.write_text(write_search(found.folder, arguments.lang), encoding="utf-8")
    _print_search(found.facts)
    print(f"report: {page}")
    print(f"use it: migaki train {found.recipe}")
    if arguments.json:
        keys = ("trials", "best", "default", "gain", "beats_default", "recipe")
        print(json.dumps({key: found.facts[key] for key in keys}, ensure_ascii=False))


def _print_search(facts: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from migaki.core.units import seconds_text
    from migaki.search.display import settings_text

    table = Table(title=f"trained anew with {facts['seeds']} seeds, 95 % intervals over rows and seeds")
    for column in ("what", "validation", "test", "settings"):
        table.add_column(column)
    for final in facts["finals"]:
        star = "* " if final["name"] == (facts["best_is"] if facts["beats_default"] else "default") else "  "
        figures = [_interval_text(final[split]) if final[split] else "" for split in ("valid", "test")]
        table.add_row(star + final["name"], *figures, settings_text(final["settings"]))
    Console(width=max(130, Console().width), highlight=False).print(table)
    states = [trial["state"] for trial in facts["trials"]]
    print(
        f"{len(states)} trials, {states.count('finished')} trained to their end, {states.count('failed')} failed; "
        f"{seconds_text(facts['seconds'])}; the validation rows were looked at {facts['looks']} times, the test rows once"
    )
    gain = facts["gain"]
    measured = (
        f"{gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}] on the test rows (p {facts['p_value']:.3f})"
    )
    if facts["beats_default"]:
        print(f"{facts['best_is']} beats the default: {facts['metric']} {measured}")
    elif facts["best_is"] == "default":
        print("nothing better than the default was found: no other trial has a figure")
    else:
        print(f"nothing better than the default was found: {facts['best_is']} has {facts['metric']} {measured}")
    for plateau in facts["plateaus"]:
        print(f"{plateau['setting']}: between {plateau['low']:g} and {plateau['high']:g} nothing changes")


def _add_rates(verbs: Any) -> None:
    rates = _verb(verbs, "rates", _rates, "try rising learning rates for some steps, and suggest one", json_output=True)
    _add_recipe(rates)
    rates.add_argument("--steps", type=_whole, default=120, metavar="N", help="how many (default: 120)")
    _add_runs_folder(rates)


def _rates(arguments: argparse.Namespace) -> None:
    from migaki.search.space import read_space

    recipe = read_space(arguments.recipe, arguments.set).default
    from migaki.search import range_test

    found = range_test(recipe, arguments.runs, lambda text: print(text, file=sys.stderr), arguments.steps)
    highest, lowest = max(found.smoothed), min(found.smoothed)
    for at in range(0, len(found.rates), max(1, len(found.rates) // 24)):
        share = (found.smoothed[at] - lowest) / ((highest - lowest) or 1.0)
        print(f"{found.rates[at]:9.2e}  {found.smoothed[at]:8.4f}  {'#' * round(40 * share)}")
    grows = (
        f"above the untrained one at {found.diverges:.2g}"
        if found.diverges
        else "it never grew above the untrained one"
    )
    print(f"the loss is least at a rate of {found.least:.2g}; {grows}")
    print(f"suggested: training.learning_rate: {found.suggestion:g} (now {found.usual:g})")
    if arguments.json:
        print(json.dumps(found.as_json()))


def _interval_text(m: Mapping[str, Any]) -> str:
    return f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"


def _print_comparison(run: Run) -> None:
    from rich.console import Console
    from rich.table import Table

    from migaki.core.units import bytes_text, count_text, seconds_text

    results = run.results
    table = Table(title=f"{run.id}: {results['rows']} test rows, 95 % intervals")
    for column in ("", results["baseline"]["name"], "tuned", "n"):
        table.add_column(column, justify="left" if not column else "right")
    for name, tuned in run.metrics.items():
        base = run.baseline.get(name)
        table.add_row(
            name, _interval_text(base.as_json()) if base else "", _interval_text(tuned.as_json()), str(tuned.n)
        )
    Console(width=max(100, Console().width), highlight=False).print(table)
    _print_examples(run)
    cost = results["cost"]
    print(
        f"trained {count_text(cost['trainable_parameters'])} of {count_text(cost['total_parameters'])} parameters in "
        f"{seconds_text(cost['train_seconds'])}, peak memory {bytes_text(cost['peak_bytes'])}"
    )
    if general := results.get("generality"):
        print(_forgetting_text(general))
    never = results["details"].get("never_predicted")
    if never:
        print(f"never predicted: {', '.join(never[:10])}{' ...' if len(never) > 10 else ''}")


def _forgetting_text(general: dict[str, Any]) -> str:
    """The main part, or all that were forgotten with what helps, in one line."""
    parts = [part for part in general["parts"] if part["forgotten"] or part["name"] == general["part"]]
    if general["forgotten"]:
        parts = [part for part in parts if part["forgotten"]]
    figures = "; ".join(
        f"{part['name']} {part['metric']} {part['before']['value']:.3f} -> {part['after']['value']:.3f}, change "
        f"{part['change']['value']:+.3f} [{part['change']['low']:+.3f}, {part['change']['high']:+.3f}], n {part['n']}"
        for part in parts
    )
    if not general["forgotten"]:
        return f"general ability, which was not trained: {figures}; no forgetting found"
    return f"general ability was forgotten: {figures}. What helps: {' '.join(general['remedy'])}"


def _print_examples(run: Run, count: int = 3) -> None:
    """For a generator: a few answers before and after."""
    if run.recipe.task.kind != "generate":
        return
    from migaki.core.types import shorten

    lines = (run.path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    answered = [row for line in lines if (row := json.loads(line))["stopped"] is not None]
    shown: dict[str, Any] = {}
    for row in answered:
        # A question with several wanted answers is asked once for each; one of them is enough to see.
        shown.setdefault(row["text"], row)
    for row in list(shown.values())[:count]:
        print(
            f"question: {shorten(row['text'], 200)}\n  before: {shorten(row['baseline']['output'], 300)}\n  after:  {shorten(row['output'], 300)}"
        )


def _add_evaluate(verbs: Any) -> None:
    text = "judge a run on its test split or on other rows"
    evaluate = _verb(verbs, "evaluate", _evaluate, text, run=True, json_output=True)
    rows_or_errors = evaluate.add_mutually_exclusive_group()
    rows_or_errors.add_argument(
        "--data", metavar="FILE", help="rows with targets; default: the test split of the run's recipe"
    )
    rows_or_errors.add_argument(
        "--errors",
        metavar="FILE",
        help="write what to do before the next training: labels to check, rows to collect, copies (CSV, TSV or JSONL)",
    )
    _add_runs_folder(evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    from migaki.run import load

    run = load(arguments.run, arguments.runs)
    if arguments.errors:
        from migaki.todo import check_to_do_file

        check_to_do_file(arguments.errors)
    evaluation = run.evaluate(arguments.data)
    for name, measure in evaluation.metrics.items():
        print(f"{name:18} {_interval_text(measure.as_json())}  n {measure.n}")
    said = {"run": run.id, **evaluation.as_json()}
    if arguments.errors:
        said["errors"] = _write_errors(run, evaluation, arguments.errors)
    if arguments.json:
        print(json.dumps(said, ensure_ascii=False))


def _write_errors(run: Run, evaluation: Evaluation, path: str) -> dict[str, Any]:
    from migaki.todo import write_to_do

    facts = write_to_do(run, evaluation, path).facts
    if scaling := facts["temperature"]:
        before, after = (scaling[when]["error"]["value"] for when in ("before", "after"))
        print(
            f"temperature {scaling['value']:.2f}, fitted on {scaling['rows']} valid rows, would change the calibration error "
            f"from {before:.3f} to {after:.3f}; predictions stay as they are"
        )
    counts = facts["counts"]
    print(
        f"labels to check: {counts['relabel']}, places to collect more rows: {counts['collect_more']}, "
        f"copies: {counts['duplicate']}; written to {path}"
    )
    if counts["relabel"]:
        print("write yes under accept where the suggested label is right, and name the file as data.corrections")
    return {"file": path, **facts}


def _add_predict(verbs: Any) -> None:
    predict = _verb(verbs, "predict", _predict, "add prediction and confidence to the rows of a file", run=True)
    predict.add_argument("--input", metavar="FILE", required=True, help="CSV, TSV, JSONL, JSON or Parquet")
    predict.add_argument("--output", metavar="FILE", required=True, help="CSV, TSV or JSONL")
    _add_runs_folder(predict)


def _predict(arguments: argparse.Namespace) -> None:
    from migaki.core.types import Place, Prediction
    from migaki.data import check_output, write_records
    from migaki.run import load

    check_output(arguments.output)
    run = load(arguments.run, arguments.runs)
    task = run.recipe.task
    dataset, records = run.recipe.data.read(arguments.input, task.content_kind, need_target=False)
    added = list(task.written(Prediction(Place("", 1), "")))
    if run.recipe.method.kind == "retrieve":
        added.append("sources")
    taken = [name for name in added if any(name in record.values for record in records)]
    if taken:
        raise UsageError(
            f"{arguments.input} already has a column {taken[0]!r}; rename it, so that nothing is overwritten."
        )
    predictions = run.predict_rows(dataset.rows)
    rows = []
    for record, p in zip(records, predictions, strict=True):
        said = {**task.written(p), "sources": " ".join(p.sources)}
        rows.append({**record.values, **{name: said[name] for name in added}})
    write_records(arguments.output, rows, [*records[0].values, *added])
    print(f"{len(rows)} rows written to {arguments.output}")


def _add_generate(verbs: Any) -> None:
    generate = _verb(verbs, "generate", _generate, "ask a tuned chat model", run=True)
    how = generate.add_mutually_exclusive_group()
    how.add_argument("--prompt", metavar="TEXT", help="one question; default: read it from standard input")
    how.add_argument("--chat", action="store_true", help="talk with it, turn by turn")
    _add_runs_folder(generate)


def _generate(arguments: argparse.Namespace) -> None:
    from migaki.core.types import Turn
    from migaki.run import load

    run = load(arguments.run, arguments.runs)
    if not arguments.chat:
        prompt = arguments.prompt if arguments.prompt is not None else _read_input(sys.stdin.read)
        if not prompt.strip():
            raise UsageError("The prompt is empty. Give it with --prompt TEXT, or talk with --chat.")
        if not prompt.isprintable() and any("\ud800" <= character <= "\udfff" for character in prompt):
            raise UsageError("The prompt is not UTF-8. Convert it first, for example with iconv.")
        print(run.generate([Turn("user", prompt)])[0])
        return
    turns: list[Turn] = []
    talks = sys.stdin.isatty()
    if talks:
        print("An empty line or Ctrl-D ends the talk.", file=sys.stderr)
    while True:
        try:
            # Where the questions come from a file, the answers are the whole output.
            said = _read_input(lambda: input("> " if talks else ""))
        except EOFError:
            return
        if not said.strip():
            return
        turns.append(Turn("user", said))
        answer, _ = run.generate(turns)
        turns.append(Turn("assistant", answer))
        print(answer, flush=True)


def _add_index(verbs: Any) -> None:
    text = "show what a retrieve run looks up, or add to it without training"
    index = _verb(verbs, "index", _index, text, run=True)
    index.add_argument(
        "--add", metavar="PATH", help="a document, a folder of documents, or rows with labels where the run classifies"
    )
    _add_runs_folder(index)


def _index(arguments: argparse.Namespace) -> None:
    from collections import Counter

    from migaki.run import load

    run = load(arguments.run, arguments.runs)
    if arguments.add is not None:
        print(f"{run.add(arguments.add)} passages added to run {run.id}")
    passages = run.indexed()
    sources = Counter(passage.place.source for passage in passages)
    print(f"{len(passages)} passages of {len(sources)} sources")
    for source, n in sources.items():
        print(f"{n:8}  {source}")


def _read_input(read: Callable[[], str]) -> str:
    try:
        return read()
    except UnicodeDecodeError as error:
        raise UsageError(f"Standard input is not UTF-8 ({error}). Convert it first, for example with iconv.") from None


def _run_row(folder: RunFolder) -> dict[str, Any]:
    from migaki.core.store import read_json

    row: dict[str, Any] = {"run": folder.id, "state": "damaged", "folder": str(folder.path)}
    try:
        row["state"] = folder.state()["state"]
        if row["state"] == "finished":
            results = read_json(folder.path / "evaluation.json")
            row |= {"metric": results["primary"], **results["metrics"][results["primary"]]}
            row["baseline"] = results["baseline"]["metrics"][results["primary"]]["value"]
    except DamagedError:
        # One damaged run must not hide the others.
        row["state"] = "damaged"
    return row


def _add_runs(verbs: Any) -> None:
    _add_runs_folder(_verb(verbs, "runs", _runs, "list the runs", json_output=True))


def _runs(arguments: argparse.Namespace) -> None:
    from migaki.core.store import list_runs

    rows = [_run_row(folder) for folder in list_runs(arguments.runs)]
    for row in rows:
        score = (
            f"  {row['metric']} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}], base {row['baseline']:.3f}"
            if "metric" in row
            else ""
        )
        print(f"{row['run']:36} {row['state']:9}{score}")
    if not rows:
        print(f"no runs in {arguments.runs}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"runs": rows}, ensure_ascii=False))


def _add_report(verbs: Any) -> None:
    report = _verb(verbs, "report", _report, "write a run's report and print its path", run=True)
    _add_language(report, "report")
    _add_runs_folder(report)


def _report(arguments: argparse.Namespace) -> None:
    from migaki.core.store import open_run

    run = open_run(arguments.run, arguments.runs)
    if run.state()["state"] != "finished":
        raise UsageError(f"Run {run.id} is {run.state()['state']}; there is a report once it is finished.")
    path = run.path / "report.html"
    # The run's own files are sealed; another language, or what `evaluate --errors` found since, is a view beside them.
    if arguments.lang != "en" or (run.path / "errors.json").is_file():
        from migaki.report import write_report

        path = run.path / f"report.{arguments.lang}.html"
        run.write(path.name, write_report(run.path, arguments.lang))
    print(path)


def _add_data(verbs: Any) -> None:
    data = verbs.add_parser("data", help="look at the data", description="look at the data")
    looks = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_data_check, _add_data_report, _add_data_prepare, _add_data_show):
        add(looks)


def _add_data_prepare(looks: Any) -> None:
    text = "write the rows of a recipe as they are learned from, with a hash, into a folder"
    prepare = _verb(looks, "prepare", _data_prepare, text)
    _add_recipe(prepare)
    prepare.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder to make")


def _data_prepare(arguments: argparse.Namespace) -> None:
    from migaki.recipe import Recipe

    recipe = Recipe.from_file(arguments.recipe, arguments.set)
    splits, found = recipe.data.prepare(arguments.output.absolute(), recipe.task.content_kind, recipe.seed)
    print(f"{len(splits.train)} train, {len(splits.valid)} valid, {len(splits.test)} test rows; {found}")
    print(f"train from it alone: migaki train {arguments.recipe} --set data.prepared={arguments.output.absolute()}")


def _add_data_show(looks: Any) -> None:
    text = "print the rows of a recipe as the model will see them, targets marked; of a file its format"
    show = _verb(looks, "show", _data_show, text)
    show.add_argument("what", metavar="FILE or RECIPE", help="a data file, a folder of files, or a recipe in YAML")
    show.add_argument("--task", metavar="TASK", help="of a file: its kind, where the columns do not tell")
    show.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override a setting of a recipe")
    show.add_argument("--rows", type=_count, default=3, metavar="N", help="how many rows (default: 3)")
    _add_runs_folder(show)


def _data_show(arguments: argparse.Namespace) -> None:
    if arguments.what.endswith((".yaml", ".yml")):
        _show_rows(arguments)
    elif arguments.set:
        raise UsageError("--set changes a recipe, but a data file is named.")
    else:
        _show_form(arguments)


def _show_form(arguments: argparse.Namespace) -> None:
    from migaki.audit.look import form_of, gathered_in

    if files := gathered_in(arguments.what, arguments.task):
        _show_files(arguments, *files)
        return
    form = form_of(arguments.what, arguments.task)
    print(f"{arguments.what}: {form.name}")
    for role, column in form.columns.items():
        print(f"  {role} from column {column!r}")
    if form.unused:
        print(f"  not read: {', '.join(map(repr, form.unused))}")
    for row in form.rows[: arguments.rows]:
        print(f"\n{row.place}\n{json.dumps(row.content.as_json(), ensure_ascii=False)}")
    if not form.task:
        print("\nNo task of migaki learns from such rows yet; migaki data check looks at them all the same.")
        return
    fixed = ", ".join(f"{role}: {json.dumps(column, ensure_ascii=False)}" for role, column in form.settings().items())
    print(
        f"\nIn a recipe, where every column can be changed:\ntask: {form.task}\ndata: {{train: {arguments.what}, {fixed}}}"
    )
    if form.others:
        from migaki.data.recognition import TASKS

        print(f"Could also be read for: {', '.join(TASKS[kind] or kind for kind in form.others)} (--task)")


def _show_files(arguments: argparse.Namespace, found: Gathered, task: str) -> None:
    print(f"{arguments.what}: {found.name}, {found.files} in all")
    for role, column in found.columns.items():
        print(f"  {role} from column {column!r}")
    for label, count in found.labels.items():
        print(f"  {label}: {count}")
    for note in found.notes:
        print(f"{note.level}: {note}")
    for row in found.rows[: arguments.rows]:
        told = row.content.as_json()
        answer = told.get("label") or told.get("transcript")
        print(f"\n{row.place}\n{row.content.text} -> {answer}")
    if not task:
        print("\nNo task of migaki learns from such files yet.")
        return
    named = {**found.settings, **found.columns}
    lines = ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in named.items())
    print(f"\nIn a recipe:\ntask: {task}\ndata: {{{lines}}}")


def _show_rows(arguments: argparse.Namespace) -> None:
    from migaki.recipe import Recipe

    recipe = Recipe.from_file(arguments.what, arguments.set)
    from migaki.run import base_of

    splits = recipe.data.load(recipe.task.content_kind, recipe.seed)
    base = base_of(recipe.model, recipe.task.base_role, arguments.runs)
    learner = recipe.method.prepare(base, recipe.task, splits.train, recipe.seed)
    columns = ", ".join(f"{role} from {column!r}" for role, column in splits.columns.items())
    print(f"{len(splits.train)} train, {len(splits.valid)} valid, {len(splits.test)} test rows; {columns}")
    for finding in splits.findings:
        print(f"{finding.level}: {finding}")
    start, end = ("\033[1;32m", "\033[0m") if sys.stdout.isatty() else ("⟦", "⟧")
    # All rows are encoded, because how many may be too long is a share of all.
    for example in learner.encode(splits.train)[: arguments.rows]:
        row = example.row
        text = "".join(f"{start}{piece}{end}" if target else piece for piece, target in learner.marked(example))
        size = f"{len(example)} tokens, " if example.ids else ""
        print(f"\n{row.place}: {size}{example.targets} targets\n{text}")


def _add_choose(verbs: Any) -> None:
    text = "rank pretrained models for your data and this machine, with cost and licence"
    choose = _verb(verbs, "choose", _choose, text, json_output=True)
    choose.add_argument("--data", metavar="FILE", required=True, help="rows to train on, or a recipe")
    _add_task(choose)
    choose.add_argument(
        "--minutes", type=_minutes, default=60.0, metavar="M", help="that one training may take (default: 60)"
    )
    choose.add_argument(
        "--memory", type=_gigabytes, metavar="G", help="GiB that it may use (default: what this machine has)"
    )
    choose.add_argument(
        "--cards", metavar="PATH", type=Path, help="a YAML file, or a folder of them, with cards of your own models"
    )
    choose.add_argument(
        "--probe",
        action="store_true",
        help="measure frozen features of the models at hand, at most about a minute each",
    )
    choose.add_argument("--all", action="store_true", help="also those that do not fit or do not speak the language")


def _choose(arguments: argparse.Namespace) -> None:
    from migaki.audit.look import subject_of
    from migaki.choosing import choose
    from migaki.core.units import bytes_text, count_text, seconds_text
    from migaki.environment import memory_bytes

    subject = subject_of(arguments.data, task=arguments.task)
    room = int(arguments.memory * 2**30) if arguments.memory else memory_bytes()[0]
    found = choose(subject, minutes=arguments.minutes, memory_bytes=room, cards=arguments.cards, probe=arguments.probe)
    by_script = f"language by script: {found.language}; " if found.language != "any" else ""
    print(f"{by_script}{arguments.minutes:g} minutes, {bytes_text(room)}")
    shown = [
        c for c in found.candidates if arguments.all or (c.card.speaks(found.language) and not all(c.fits.values()))
    ]
    above: Candidate | None = None
    for candidate in shown:
        card = candidate.card
        print(f"\n{card.reference}  {card.title}, {count_text(card.parameters)} parameters, {card.licence}")
        print(f"  {candidate.reason}")
        if candidate.probed:
            alike = above is not None and above.probed and above.probed["group"] == candidate.probed["group"]
            print(
                f"  frozen features reach {_interval_text(candidate.probed)} (unseen fifths of {candidate.probed['n']:.0f} rows)"
                + (f"; not to be told apart from {above.card.reference}" if alike and above else "")
            )
        above = candidate
        for one in candidate.estimates:
            stands = f"; {candidate.fits[one.method]}" if candidate.fits[one.method] else ""
            print(f"  {one.method:7} about {seconds_text(one.seconds)}, {bytes_text(one.peak_bytes)}{stands}")
    hidden = len(found.candidates) - len(shown)
    if hidden:
        print(f"\n{hidden} more do not fit or do not speak the language; --all shows them with what would help")
    if arguments.json:
        print(json.dumps(found.as_json(), ensure_ascii=False))


def _add_doctor(verbs: Any) -> None:
    text = "look at this machine, and say how to mend what is wrong"
    doctor = _verb(verbs, "doctor", _doctor, text, json_output=True)
    doctor.add_argument(
        "--run", metavar="RUN", help="what differs from the environment of this run, or of an environment.json"
    )
    _add_runs_folder(doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    if arguments.run:
        return _doctor_of_run(arguments)
    from migaki.doctor import examine

    checks = examine(arguments.runs)
    for check in checks:
        print(f"{check.level:8} {check.name}: {check.found}" + (f"\n{'':9}-> {check.remedy}" if check.remedy else ""))
    healthy = all(check.level != "broken" for check in checks)
    if arguments.json:
        print(json.dumps({"healthy": healthy, "checks": [check.as_json() for check in checks]}, ensure_ascii=False))
    return 0 if healthy else 1


def _doctor_of_run(arguments: argparse.Namespace) -> int:
    from migaki.core.store import open_run, read_json
    from migaki.doctor import differences
    from migaki.environment import describe_environment

    path = Path(arguments.run)
    what = str(path)
    if path.suffix != ".json" or not path.is_file():
        run = open_run(arguments.run, arguments.runs)
        path, what = run.path / "environment.json", run.id
    then = read_json(path)
    try:
        now = describe_environment()
    except ImportError as error:
        raise UsageError(f"torch cannot be imported here ({error}). Mend it first: migaki doctor says how") from None
    found = differences(then, now)
    for one in found:
        print(f"{one.name}: {one.then} then, {one.now} now; may change: {one.changes}")
    if not found:
        print(f"nothing differs from the environment of {what}")
    if arguments.json:
        facts = {"run": what, "differences": [one.as_json() for one in found]}
        print(json.dumps(facts, ensure_ascii=False))
    return 0


def _add_lock(verbs: Any) -> None:
    text = "write requirements and a Dockerfile that make a run's environment again"
    lock = _verb(verbs, "lock", _lock, text, run=True)
    lock.add_argument("--output", metavar="DIR", type=Path, default=Path("lock"), help="folder (default: lock)")
    _add_runs_folder(lock)


def _lock(arguments: argparse.Namespace) -> None:
    from migaki.core.store import open_run, read_json
    from migaki.doctor import write_lock

    run = open_run(arguments.run, arguments.runs)
    recipe = (run.path / "recipe.yaml").read_text(encoding="utf-8")
    for path in write_lock(run.id, read_json(run.path / "environment.json"), recipe, arguments.output):
        print(path)


def _add_models(verbs: Any) -> None:
    models = _verb(verbs, "models", _models, "list the models that need no hub, or fetch one", json_output=True)
    get = models.add_subparsers(metavar="get NAME").add_parser("get", help="fetch a model into the cache")
    get.add_argument("name", metavar="NAME", help="as `migaki models` lists it")
    get.set_defaults(verb=_models_get)


def _models(arguments: argparse.Namespace) -> None:
    from migaki.models import BUNDLED

    there = {name: card.is_there() for name, card in BUNDLED.items()}
    width = max(map(len, BUNDLED))
    for name, card in BUNDLED.items():
        where = "at hand" if there[name] else f"migaki models get {name} ({card.megabytes} MB)"
        print(f"bundled:{name:{width}} {card.title}, {card.licence}; {', '.join(card.languages)}; {where}")
        print(f"{'':{len('bundled:') + width}} {card.use}")
    if arguments.json:
        facts = [
            {
                "model": f"bundled:{name}",
                "title": card.title,
                "licence": card.licence,
                "languages": card.languages,
                "at_hand": there[name],
            }
            for name, card in BUNDLED.items()
        ]
        print(json.dumps({"models": facts}, ensure_ascii=False))


def _models_get(arguments: argparse.Namespace) -> None:
    from migaki.core.codec import nearest
    from migaki.models import BUNDLED
    from migaki.models.fetch import fetch

    name = arguments.name.removeprefix("bundled:")
    if name not in BUNDLED:
        raise UsageError(f"there is no bundled model {name!r}; {nearest(name, list(BUNDLED))}")
    card = BUNDLED[name]
    print(f"bundled:{name} is {card.title}, licence {card.licence}: {fetch(card)}")


def _add_data_check(looks: Any) -> None:
    text = "look for what makes figures wrong: leaks, slips, personal data, lost characters"
    check = _verb(looks, "check", _data_check, text)
    _add_subject(check)
    _add_runs_folder(check)


def _add_data_report(looks: Any) -> None:
    text = "the same as a page, and which labels are probably wrong (loads the model)"
    page = _verb(looks, "report", _data_report, text)
    _add_subject(page)
    page.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("data-report"), help="folder (default: data-report)"
    )
    _add_language(page, "page")
    _add_runs_folder(page)


def _add_subject(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", metavar="FILE or RECIPE", nargs="?", help="a data file, or a recipe in YAML")
    for split in ("train", "valid", "test"):
        command.add_argument(f"--{split}", metavar="FILE", help=f"the {split} rows, instead of one file")
    _add_task(command)
    command.add_argument("--model", metavar="MODEL", help="whose tokenizer counts; default: the recipe's")
    command.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override a setting")
    command.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def _data_check(arguments: argparse.Namespace) -> None:
    found = _looked_at(arguments, labels_too=False)[1]
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False))


def _data_report(arguments: argparse.Namespace) -> None:
    from migaki.audit.look import cleaned_texts
    from migaki.exhibits import exhibits_of
    from migaki.report import write_audit

    subject, found = _looked_at(arguments, labels_too=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    page = arguments.output / "data-report.html"
    shown = exhibits_of((file for light in found["lights"] for file in light.get("files", ())), subject.content_kind)
    page.write_text(write_audit(arguments.what or arguments.train, found, arguments.lang, shown), encoding="utf-8")
    (arguments.output / "data-report.json").write_text(
        json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    if subject.data.clean:
        lines = [json.dumps(change.as_json(), ensure_ascii=False) + "\n" for change in cleaned_texts(subject)]
        (arguments.output / "data-changes.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"every change of data.clean: {arguments.output / 'data-changes.jsonl'} ({len(lines)})")
    print(f"report: {page}")
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False))


def _looked_at(arguments: argparse.Namespace, labels_too: bool) -> tuple[Subject, dict[str, Any]]:
    from migaki.audit.look import look_at, subject_of

    splits = {name: getattr(arguments, name) for name in ("train", "valid", "test")}
    subject = subject_of(arguments.what, arguments.set, **splits, task=arguments.task, model=arguments.model)
    found = look_at(subject, arguments.runs, labels_too).as_json()
    rows = found["facts"]["rows"]
    print(f"{rows['train']} train, {rows['valid']} valid, {rows['test']} test rows")
    for light in found["lights"]:
        print(f"{light['level']:7} {light['name']}: {light['message']}")
        for example in light["examples"] if light["level"] != "green" else ():
            print(f"{'':8}{example}")
        if light["remedy"] and light["level"] != "green":
            print(f"{'':8}-> {light['remedy']}")
    return subject, found


def _add_schema(verbs: Any) -> None:
    _verb(verbs, "schema", _schema, "print the JSON schema of a recipe, for editors")


def _schema(arguments: argparse.Namespace) -> None:
    from migaki.recipe import recipe_schema

    print(json.dumps(recipe_schema(), ensure_ascii=False, indent=1))
