"""A sample of `make faults`: whatever the moment of a kill, the same command ends with the same bytes."""

import os
import random
import signal

import pytest

import migaki
from durability.faults import (
    WORKLOADS,
    Undisturbed,
    differences,
    forked,
    killed_run,
    outcome,
    prepare,
    recipe,
    trained,
)
from migaki.training.monitor import Monitor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module", params=WORKLOADS)
def reference(request, folder):
    return request.param, Undisturbed(request.param, folder)


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(folder, reference):
    workload, undisturbed = reference
    hits, odd = killed_run(workload, folder, undisturbed, kills=5, dice=random.Random(7))
    assert odd == []
    assert hits > 0


def test_the_same_recipe_and_seed_give_the_same_bytes(folder, reference, tmp_path):
    workload, undisturbed = reference
    assert forked(trained(workload, folder, tmp_path)) == 0
    assert differences(undisturbed.files, outcome(tmp_path)) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_says_so_and_goes_on_to_the_same_end(folder, reference, tmp_path, number, code):
    from migaki.core.store import list_runs

    workload, undisturbed = reference
    exit_code = forked(trained(workload, folder, tmp_path), 0.6 * undisturbed.seconds, number)
    # Before the loop begins a signal ends the process in Python's own way.
    assert exit_code in (code, 1, -number, 0)
    if exit_code == code:
        (run,) = list_runs(tmp_path)
        assert run.state()["state"] == "stopped"
    assert forked(trained(workload, folder, tmp_path)) == 0
    if exit_code != 0:
        assert differences(undisturbed.files, outcome(tmp_path)) == []


def test_a_stop_in_the_last_step_before_the_last_evaluation_changes_nothing(folder, reference, tmp_path):
    class StopsAtTheEnd(Monitor):
        def start(self, total_steps, done):
            self.total_steps = total_steps

        def step(self, facts):
            if facts["step"] == self.total_steps:
                os.kill(os.getpid(), signal.SIGINT)

    workload, undisturbed = reference
    code = forked(lambda: migaki.train(recipe(workload, folder), runs=tmp_path, monitor=StopsAtTheEnd()))
    assert code == 130
    assert forked(trained(workload, folder, tmp_path)) == 0
    assert differences(undisturbed.files, outcome(tmp_path)) == []
