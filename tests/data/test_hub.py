"""A data set of the hub: its Parquet files from the hub's own cache, or what to do where there is none."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from migaki.core.errors import DataError
from migaki.data import read_records


def cached(home, config, split, rows, commit="a" * 40):
    """A snapshot in the layout of the hub's cache."""
    repository = home / "hub" / "datasets--org--name"
    (repository / "refs/refs/convert").mkdir(parents=True, exist_ok=True)
    (repository / "refs/refs/convert/parquet").write_text(commit)
    folder = repository / "snapshots" / commit / config / split
    folder.mkdir(parents=True)
    for number, part in enumerate((rows[:2], rows[2:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{number:04}.parquet")


def told(home, source):
    """What a fresh process reads, whose hub settings are taken at import."""
    code = (
        "import sys\nfrom migaki.data import read_records\nfrom migaki.core.errors import DataError\n"
        "try:\n print([(str(r.place), r.values) for r in read_records(sys.argv[1]).records])\n"
        "except DataError as error:\n print('DataError:', error)\n"
    )
    import os

    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, source], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("source", ["hf:org/name", "hf:org/name/default", "hf:org/name/default/train"])
def test_all_parts_of_a_split_are_read_in_order_without_a_network(tmp_path, source):
    rows = [{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(3)]
    cached(tmp_path, "default", "train", rows)
    assert told(tmp_path, source) == str([(f"{source}:{n}", row) for n, row in enumerate(rows, 1)])


def test_a_split_that_is_not_there_is_refused_with_what_to_do(tmp_path):
    cached(tmp_path, "default", "train", [{"text": "t"}] * 3)
    said = told(tmp_path, "hf:org/name/default/test")
    assert said.startswith("DataError: hf:org/name/default/test is not in the local hub cache")
    assert "hf download org/name --repo-type dataset" in said


@pytest.mark.parametrize("source", ["hf:name", "hf:a/b/c/d/e", "hf:org//x"])
def test_what_is_no_name_of_a_data_set_is_refused(source):
    with pytest.raises(DataError, match="is no name of a data set; write hf:OWNER/NAME"):
        read_records(source)
