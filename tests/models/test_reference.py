"""What `model:` may say, and which folders are refused before anything in them is opened."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from migaki.core.errors import ModelError, RecipeError
from migaki.models import BUNDLED, Model, hashed, locate
from migaki.models.reference import check_folder
from migaki.recipe import Recipe


def model_folder(folder, config=None, **files):
    """The smallest folder that passes the door; none of its files is opened by it but the JSON ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_a_word_is_short_for_a_reference():
    assert Model.model_validate("bundled:minilm") == Model(reference="bundled:minilm")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("bundled:minilmm", r"no bundled model 'minilmm'.*minilm"),
        ("bundled:", "names no model after the colon"),
        ("run:", "names no model after the colon"),
        ("hf:gpt2", "not of the form hf:ORG/NAME"),
        ("hf:a/b/c", "not of the form hf:ORG/NAME"),
        ("huggingface:org/name", "no kind of model reference 'huggingface:'; valid: bundled:, hf:, run:"),
    ],
)
def test_a_reference_of_no_known_form_is_refused_with_the_known_ones(reference, message):
    with pytest.raises(ValidationError, match=message):
        Model(reference=reference)


@pytest.mark.parametrize("reference", ["bundled:minilm", "hf:org/name", "run:0003", "run:0003-generate-lora"])
def test_references_of_the_known_forms_stay_as_they_are(reference):
    assert Model(reference=reference).reference == reference


def test_a_revision_without_a_hub_is_refused():
    with pytest.raises(ValidationError, match="revision is only for hf:"):
        Model(reference="bundled:minilm", revision="main")
    assert Model(reference="hf:org/name", revision="v1").revision == "v1"


def test_a_path_is_relative_to_the_recipe_and_home_is_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a.yaml").write_text("task: generate\ndata: {train: x.jsonl}\nmodel: ../models/mine\n")
    (tmp_path / "recipes" / "b.yaml").write_text("task: generate\ndata: {train: x.jsonl}\nmodel: ~/models/mine\n")
    monkeypatch.chdir("/")
    assert Recipe.from_file(tmp_path / "recipes" / "a.yaml").model.reference == str(tmp_path / "models" / "mine")
    assert Recipe.from_file(tmp_path / "recipes" / "b.yaml").model.reference == str(
        tmp_path / "home" / "models" / "mine"
    )
    assert Model(reference="~/models/mine").reference == str(tmp_path / "home" / "models" / "mine")


def test_a_wrong_reference_in_a_recipe_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("task: generate\ndata: {train: x.jsonl}\nmodel: bundled:smollm\n")
    with pytest.raises(RecipeError, match=r"a\.yaml:3.*no bundled model 'smollm'.*smollm2"):
        Recipe.from_file(path)


def test_a_folder_is_found_with_its_licence(tmp_path):
    folder = model_folder(tmp_path / "m", README__md="---\nlanguage: ja\nlicense: cc-by-4.0\n---\n# A model\n")
    found = locate(Model(reference=str(folder)))
    assert (found.folder, found.packed, found.licence) == (folder, None, "cc-by-4.0")
    assert locate(Model(reference=str(model_folder(tmp_path / "n")))).licence == "unknown"


def test_a_missing_folder_or_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(ModelError, match=rf"no model folder {tmp_path / 'none'}\. Check `model`"):
        locate(Model(reference=str(tmp_path / "none")))
    with pytest.raises(ModelError, match=rf"no GGUF file {tmp_path / 'none.gguf'}\. Check `model`"):
        locate(Model(reference=str(tmp_path / "none.gguf")))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_a_model_that_asks_for_its_own_code_is_refused(tmp_path, name):
    folder = model_folder(tmp_path / "m")
    wish = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / name).write_text(json.dumps(wish))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(
        ModelError, match=r"asks for code of its own \(auto_map: AutoConfig, AutoModel\).*never runs code"
    ):
        locate(Model(reference=str(folder)))
    assert not (tmp_path / "ran").exists()


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickled_weights_are_refused_unopened(tmp_path, name):
    folder = model_folder(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / name)
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(
        ModelError, match=rf"only pickled weights \({name}\).*reads safetensors.*convert it where you trust"
    ):
        locate(Model(reference=str(folder)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "holds no weights"),
        ("tokenizer.json", r"has no tokenizer \(tokenizer\.json\)"),
    ],
)
def test_a_folder_that_lacks_a_part_says_which(tmp_path, missing, message):
    folder = model_folder(tmp_path / "m")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=message):
        check_folder(folder)


@pytest.mark.parametrize(("text", "message"), [('{"a":', "is not valid JSON"), ("[1]", "is not a JSON object")])
def test_a_damaged_configuration_is_named(tmp_path, text, message):
    folder = model_folder(tmp_path / "m", config__json=text)
    with pytest.raises(ModelError, match=rf"config\.json {message}"):
        check_folder(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 224, 224]}},
        {"model_type": "timm_wrapper", "architecture": "resnet18"},
    ],
    ids=["as timm writes it", "as transformers writes it"],
)
def test_a_model_of_timm_is_told_with_what_to_use(tmp_path, config):
    folder = model_folder(tmp_path / "m", config__json=json.dumps(config))
    (folder / "tokenizer.json").unlink()  # images need none
    with pytest.raises(ModelError, match=r"holds a model of timm \(resnet18\).*does not load\. Use .*transformers"):
        locate(Model(reference=str(folder)))


def test_a_bundled_file_that_is_not_the_known_one_is_refused(tmp_path, monkeypatch):
    card = BUNDLED["minilm"]
    other = model_folder(tmp_path / "m") / "model.safetensors"
    monkeypatch.setattr(type(card), "weight_file", lambda self: other)
    with pytest.raises(ModelError, match=r"sha256 differs.*migaki models get minilm"):
        hashed(locate(Model(reference="bundled:minilm")))


def test_a_bundled_model_is_found_by_the_hash_of_its_file(tmp_path, monkeypatch):
    from dataclasses import replace

    folder = model_folder(tmp_path / "m")
    card = replace(BUNDLED["minilm"], sha256=hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(BUNDLED, "minilm", card)
    monkeypatch.setattr(type(card), "weight_file", lambda self: folder / "model.safetensors")
    found = locate(Model(reference="bundled:minilm"))
    assert (found.folder, found.packed, found.licence) == (folder, None, "Apache-2.0")
    assert hashed(found).folder == folder


def hub(environment, *names):
    """What `locate` says in a fresh process, whose hub settings are read at import."""
    script = (
        "import sys\nfrom migaki.core.errors import ModelError\nfrom migaki.models import Model, locate\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        print(locate(Model(reference=name)).folder)\n"
        "    except ModelError as error:\n        print('ModelError:', error)\n"
    )
    source = Path(sys.modules["migaki"].__file__).parents[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    done = subprocess.run(
        [sys.executable, "-c", script, *names],
        env={**kept, "PYTHONPATH": str(source), **environment},
        capture_output=True,
        text=True,
        timeout=60,  # hanging would be the failure
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "network",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}],
    ids=["switched off", "nobody answers"],
)
def test_without_the_hub_a_name_fails_at_once_and_says_what_to_do(tmp_path, network):
    (said,) = hub({"HF_HOME": str(tmp_path), **network}, "hf:org/name")
    assert said.startswith("ModelError: hf:org/name is not whole in the local hub cache and the hub cannot be reached")
    assert "hf download org/name" in said
    assert "set `model` to its path" in said
    assert "bundled:minilm, bundled:e5-small, bundled:smollm2" in said


def cached(home, name, make):
    """A snapshot in the layout of the hub's own cache."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    commit = "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return make(repository / "snapshots" / commit)


def test_a_model_in_the_hubs_cache_needs_no_network(tmp_path):
    folder = cached(tmp_path, "org/name", model_folder)
    assert hub({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}, "hf:org/name") == [str(folder)]


def test_a_part_of_a_model_in_the_hubs_cache_is_not_taken_for_the_model(tmp_path):
    """Someone once looked at the configuration alone: without the hub the rest is missing, and that is what is said."""

    def only_configuration(folder):
        model_folder(folder)
        (folder / "model.safetensors").unlink()
        return folder

    cached(tmp_path, "org/name", only_configuration)
    (said,) = hub({"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}, "hf:org/name")
    assert "hf:org/name is not whole in the local hub cache" in said
    assert "hf download org/name" in said


def test_a_model_of_which_one_shard_is_missing_is_not_taken_for_the_model(tmp_path):
    def one_of_two(folder):
        model_folder(folder)
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        return folder

    cached(tmp_path, "org/name", one_of_two)
    (said,) = hub({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}, "hf:org/name")
    assert "hf:org/name is not whole in the local hub cache" in said


def test_only_configuration_tokenizer_and_safetensors_are_fetched(tmp_path, monkeypatch):
    """Pickles and code of a hub model never reach the disk."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import filter_repo_objects

    asked = []

    monkeypatch.setattr(huggingface_hub, "model_info", lambda name, **_: None)

    def download(name, *, allow_patterns, local_files_only=False, **_):
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        asked.append((name, allow_patterns))
        return str(model_folder(tmp_path / "m"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate(Model(reference="hf:org/name")).folder == tmp_path / "m"
    ((name, patterns),) = asked
    assert name == "org/name"
    there = ["config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "chat_template.jinja", "README.md"]
    refused = ["pytorch_model.bin", "modeling_mine.py", "model.pt", "optimizer.pkl", "model.onnx", "run.sh"]
    assert list(filter_repo_objects([*there, *refused], allow_patterns=patterns)) == there


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("RepositoryNotFoundError", r"hf:org/name: the hub has no such model, or it is private.*hf auth login"),
        ("GatedRepoError", r"hf:org/name is gated: accept its terms.*hf auth login"),
        ("RevisionNotFoundError", r"hf:org/name: the hub has no revision 'v9'\. Check model\.revision"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(monkeypatch, tmp_path, kind, message):
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(name, **_):
        raise getattr(errors, kind)("refused", response=SimpleNamespace(headers={}, request=None))

    def absent(name, **_):
        raise errors.LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "model_info", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    with pytest.raises(ModelError, match=message):
        locate(Model(reference="hf:org/name", revision="v9"))
