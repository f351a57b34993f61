"""A process that is lost at any moment ends the others, loudly and soon, and nothing is lost by it.

Ten losses at random moments of all five stages, of one of two and one of four processes. With `-s`
the test prints a table of them.
"""

import re
import time

import numpy as np
import pytest
from etils import epath
from test_devices import ALL_STAGES, SHORT, WORKER, free_port
from test_resume import final_states, records

from timeldm_jax import results
from timeldm_jax.workdir import Workdir

pytestmark = [pytest.mark.training, pytest.mark.slow]

LOSSES = 5
REACHED = {  # the last of these that is there says what a run was at
    "samples/manifest.json": "evaluate",
    "samples": "sample",
    "ldm/40/checksums.json": "calibrate",
    "vae/40/checksums.json": "ldm",
    "config.json": "vae",
}
# A line of ours, of JAX's service, or of the exchange that was cut off.
WHY = re.compile(r"another process|distributed service|heartbeat|[Cc]onnection|peer", re.MULTILINE)


class Group:
    """Processes of one run, started together."""

    def __init__(self, server, flags, workdir, number):
        port, self.workdir = free_port(), workdir
        shared = (f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={number}")
        self.children = [
            server.start(
                "launch-guarded",
                *(*flags, *SHORT, ALL_STAGES, f"--workdir={workdir}", "--distributed", *shared),
                f"--process_id={each}",
                log=workdir.parent / f"{workdir.name} {port} {each}.log",
                module=WORKER,
            )
            for each in range(number)
        ]

    def finish(self):
        for child in self.children:
            assert child.wait(600) == 0, "\n".join(each.output for each in self.children)

    def ended(self):
        return any(child.ended() for child in self.children)

    def reached(self):
        if (self.workdir / "scores.json").exists():
            return "report"
        return next((at for path, at in REACHED.items() if (self.workdir / path).exists()), "start")


def left_by(workdir):
    """All that a run leaves which must be the same."""
    samples, columns = results.read_samples(Workdir(epath.Path(workdir)))
    scores = (workdir / "scores.json").read_text()
    return final_states(workdir), records(workdir), samples.tobytes(), columns, scores


@pytest.mark.parametrize("number", [2, 4])
def test_a_process_lost_at_a_random_moment(server, launch_flags, tmp_path, number):
    random = np.random.default_rng(number)
    Group(server, launch_flags, tmp_path / "first", number).finish()  # compiles
    expected = left_by(tmp_path / "first")
    began = time.monotonic()
    Group(server, launch_flags, tmp_path / "again", number).finish()
    whole = time.monotonic() - began
    assert left_by(tmp_path / "again") == expected
    done = 0
    for trial in range(4 * LOSSES):
        # Not in the last tenth: a run of another load would be through.
        moment, lost = random.uniform(0, 0.9 * whole), random.integers(number)
        group = Group(server, launch_flags, tmp_path / f"run {trial}", number)
        began = time.monotonic()
        while not group.ended() and time.monotonic() - began < moment:
            time.sleep(0.01)
        if group.ended():  # this machine was quicker than before
            group.finish()
            continue
        reached, victim = group.reached(), group.children[lost]
        victim.kill()
        began = time.monotonic()
        others = [child for child in group.children if child is not victim]
        for child in others:
            left = 60 - (time.monotonic() - began)
            assert child.wait(max(left, 0.1)) not in (0, None), child.output
            assert WHY.search(child.output), child.output
        seconds = time.monotonic() - began
        Group(server, launch_flags, group.workdir, number).finish()
        same = left_by(group.workdir) == expected
        codes = [child.code for child in others]
        print(
            f"\n| {lost} of {number} | {moment:.1f} of {whole:.1f} s | {reached} | "
            f"{seconds:.1f} s, {codes} | {'equal' if same else 'NOT EQUAL'} |",
            flush=True,
        )
        assert same
        done += 1
        if done == LOSSES:
            return
    raise AssertionError("the machine was too quick too often")
