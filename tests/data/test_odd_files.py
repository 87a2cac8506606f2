"""Every file of `odd_files` is read to the last character, or refused by file, line and remedy; never anything else."""

import re
import signal

import pytest

from data.odd_files import broken, odd, write
from migaki.core.errors import DataError
from migaki.data import Data

_REMEDY = re.compile(
    r"\b([Cc]orrect|[Gg]ive|[Ss]ave|[Ww]rite|[Rr]emove|[Rr]ename|[Pp]ut|[Ee]xport|[Ff]ill|[Ss]et|[Nn]ame|[Ss]ay|[Cc]onvert)\b"
)
_HANGS_S = 20
ODD = {case.name: case for case in odd()}
BROKEN = {case.name: case for case in broken()}


@pytest.fixture(autouse=True)
def no_hanging():
    def stop(*_):
        raise AssertionError(f"took more than {_HANGS_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_HANGS_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def contents(case, source):
    rows, _ = Data(train=[{"text": "x", "label": "y"}]).read(source, case.kind, need_target=True)
    return [row.content for row in rows.rows]


def test_there_are_hundreds_and_no_two_of_one_name():
    assert len(ODD) == len(list(odd()))
    assert len(BROKEN) == len(list(broken()))
    assert len(ODD) + len(BROKEN) >= 300


@pytest.mark.parametrize("name", ODD)
def test_what_is_only_odd_is_read_to_the_last_character(tmp_path, name):
    case = ODD[name]
    path = write(case, tmp_path)
    wanted = contents(case, [dict(values) for values in case.values])
    try:
        found, refusal = contents(case, str(path)), ""
    except DataError as error:
        refusal = str(error)
        encoding = name.rpartition(".")[0].rpartition("-")[2]
        rows, _ = Data(train=str(path), encoding=encoding).read(str(path), case.kind, need_target=True)
        found = [row.content for row in rows.rows]
    assert found == wanted
    assert not refusal or (case.may_be_refused and "data.encoding" in refusal), refusal


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_by_file_line_and_remedy(tmp_path, name):
    case = BROKEN[name]
    path = write(case, tmp_path)
    with pytest.raises(DataError) as caught:
        contents(case, str(path))
    message = str(caught.value)
    place = f"{path}:{case.line}" if case.line else str(path)
    assert re.search(re.escape(place) + r"(?!\d)", message), message
    assert _REMEDY.search(message), message
    assert len(message) < 1500
