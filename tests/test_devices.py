"""Many devices and many processes give what one gives.

Every run is a process of its own, with fake CPU devices.
"""

import shutil
import signal
import socket
import time

import jax
import numpy as np
import pandas as pd
import pytest
from etils import epath
from test_resume import lines, records, wait_until

from timeldm_jax import results, shards
from timeldm_jax.training import checkpoint, parallel, stages
from timeldm_jax.workdir import Workdir

pytestmark = pytest.mark.training

WORKER = "device_worker"
STAGES = ("vae", "ldm")

# Devices add up a gradient in another order, so that its last digits differ, and Adam passes on a
# relative error as it is: RTOL is generous. ATOL, a thousandth of a learning rate, is for entries
# that have come from far to near zero.
RTOL, ATOL = 1e-4, 1e-6

# In a whole run the denoiser's data differ too: they are what the VAE's last digits made of the
# windows. Behind a modulation that starts at zero its gradients are small, and Adam scales what
# differs in them up with the rest: a thousandth of the furthest that it goes in 40 steps.
WHOLE_RUN_ATOL = {"vae": ATOL, "ldm": 1e-3 * 40 * 1e-3}

# A bias of keys shifts all logits of a softmax alike, so its gradient is zero but for rounding, and
# Adam, which divides by the gradient's own size, makes that a full step in a random direction. It
# has no effect on anything else.
WITHOUT_GRADIENT = "key_bias"


@pytest.fixture(scope="module")
def runs(server, tmp_path_factory):
    """Figures of the worker on one device and on four."""
    return figures_of(server, tmp_path_factory, one=(1, "train"), four=(4, "train"))


@pytest.fixture(scope="module")
def unaveraged(server, tmp_path_factory):
    """Figures on four devices without a mean of gradients."""
    found = figures_of(server, tmp_path_factory, unaveraged=(4, "train-without-sum"))
    return found["unaveraged"]


def figures_of(server, tmp_path_factory, **runs):
    """Figures of the worker by name of the run, of a number of devices and what to do on them."""
    folder = tmp_path_factory.mktemp("devices")
    children = {
        name: server.start(
            what, folder / f"{name}.npz", log=folder / name, module=WORKER, devices=devices
        )
        for name, (devices, what) in runs.items()
    }
    figures = {}
    for name, child in children.items():
        assert child.wait() == 0, child.output
        with np.load(folder / f"{name}.npz") as arrays:
            figures[name] = dict(arrays)
    return figures


def compared(figures, stage):
    """Names of the figures of a stage that two ways of training must agree on."""
    names = [
        name
        for name in figures
        if name.startswith((f"{stage}/loss", f"{stage}/params", f"{stage}/ema"))
        and WITHOUT_GRADIENT not in name
    ]
    assert len(names) > 20
    return names


def worst(one, other, stage, atol=ATOL):
    """The largest difference in units of what is tolerated."""
    return max(
        np.max(np.abs(one[name] - other[name]) / (atol + RTOL * np.abs(one[name])))
        for name in compared(one, stage)
    )


@pytest.mark.parametrize("devices", ["one", "four"])
def test_windows_that_are_sent_train_as_those_that_devices_hold(runs, devices):
    held = runs["one"]
    found = {
        name.replace("sent/", "gaps/"): figure
        for name, figure in runs[devices].items()
        if name.startswith("sent/")
    }
    assert worst({name: held[name] for name in found}, found, "gaps") < 1


@pytest.mark.parametrize("stage", STAGES)
def test_four_devices_draw_the_numbers_of_one(runs, stage):
    one, four = runs["one"], runs["four"]
    names = [name for name in one if name.startswith(f"{stage}/random")]
    assert len(names) == 9
    for name in names:
        np.testing.assert_array_equal(one[name], four[name], name)
    np.testing.assert_array_equal(one[f"{stage}/random/positions 0"], np.arange(16))
    assert len(set(one[f"{stage}/random/order 0"])) == 16
    assert not np.array_equal(one[f"{stage}/random/order 0"], one[f"{stage}/random/order 1"])


@pytest.mark.parametrize("stage", [*STAGES, "gaps"])
def test_four_devices_train_as_one(runs, stage):
    assert worst(runs["one"], runs["four"], stage) < 1


@pytest.mark.parametrize("stage", STAGES)
def test_devices_with_windows_of_their_own_take_the_steps_that_are_meant(runs, stage):
    """Each draws its part of the batch from its own; gradients are averaged over all of them."""
    one, four = runs["one"], runs["four"]
    found = {name.replace("divided", "by hand"): figure for name, figure in four.items()}
    expected = {name: figure for name, figure in one.items() if name.startswith("by hand")}
    assert worst(expected, found, f"by hand {stage}") < 1
    assert apart(four, f"divided {stage}") == []
    numbers = one[f"numbers {stage}"].reshape(20, 4, 4)  # (step, device, place)
    for device in range(4):  # ten windows each: two epochs are five steps
        of_epochs = numbers[:, device].reshape(8, 10)
        assert (np.sort(of_epochs) == np.arange(10 * device, 10 * device + 10)).all()
        assert len({tuple(epoch) for epoch in of_epochs}) == 8
    other = one[f"{stage}/loss"]
    assert np.abs(four[f"divided {stage}/loss"] - other).max() > 1e-3  # another order


@pytest.mark.parametrize("stage", STAGES)
def test_a_device_alone_trains_as_if_rows_were_not_divided(runs, stage):
    one = runs["one"]
    for name in compared(one, stage):
        np.testing.assert_array_equal(one[f"divided {name}"], one[name], name)


def test_a_device_holds_its_own_windows_and_no_others(runs):
    four, one = runs["four"], runs["one"]
    rows, starts = one["held vae/0"][0], one["held vae/1"][0]
    own_rows, own_starts = four["held vae/0"], four["held vae/1"]
    assert own_rows.shape == (4, 17, 3)  # of 47: ten windows of eight rows
    assert own_starts.shape == (4, 10)
    for device in range(4):
        places = starts[10 * device : 10 * device + 10][:, None] + np.arange(8)
        found = own_rows[device][own_starts[device][:, None] + np.arange(8)]
        np.testing.assert_array_equal(found, rows[places])
    for number in (0, 1):
        latents_of_all, own = one[f"held ldm/{number}"][0], four[f"held ldm/{number}"]
        np.testing.assert_array_equal(own.reshape(latents_of_all.shape), latents_of_all)


@pytest.fixture(scope="module")
def sharded(server, tmp_path_factory):
    """Figures on four devices by `jit` of `shard_map`."""
    return figures_of(server, tmp_path_factory, sharded=(4, "shard-map"))["sharded"]


@pytest.mark.parametrize("stage", [*STAGES, "gaps", "sent", "divided vae", "divided ldm"])
def test_shard_map_trains_as_pmap(runs, sharded, stage):
    names = [
        name for name in runs["four"] if name.startswith(f"{stage}/") and "unplaced" not in name
    ]
    assert len(names) > 20
    for name in names:
        np.testing.assert_allclose(sharded[name], runs["four"][name], RTOL, ATOL, err_msg=name)


def test_shard_map_reports_a_sum_that_is_forgotten(server, tmp_path):
    child = server.run(
        "shard-map-without-sum", tmp_path / "x.npz", log=tmp_path / "log", module=WORKER, devices=4
    )
    assert child.code != 0
    assert "varying" in child.output


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_that_test_sees_a_gradient_that_is_not_averaged(runs, unaveraged, stage):
    """pmap does not: with `out_axes=None` it returns one device's state."""
    for atol in (ATOL, WHOLE_RUN_ATOL[stage]):
        assert worst(runs["one"], unaveraged, stage, atol) > 10
    assert f"copies/{stage}/loss" in apart(unaveraged, stage)


def apart(figures, stage):
    """Names of what is not the same on all four devices."""
    copies = {n: a for n, a in figures.items() if n.startswith(f"copies/{stage}/")}
    assert f"copies/{stage}/loss" in copies
    assert {len(a) for a in copies.values()} == {4}
    return [name for name, a in copies.items() if (a != a[0]).any()]


@pytest.mark.parametrize("stage", [*STAGES, "gaps"])
def test_devices_agree_with_each_other(runs, stage):
    assert apart(runs["four"], stage) == []


@pytest.mark.parametrize("devices", ["one", "four"])
def test_chunks_send_nothing_and_the_guard_would_see_it(runs, devices):
    """The worker's chunks run under the guard; before, data and state went out with each."""
    for stage in (*STAGES, "gaps"):
        assert runs[devices][f"{stage}/unplaced is refused"]


def test_four_devices_sample_as_one(runs):
    one, four = runs["one"]["drawn"], runs["four"]["drawn"]
    assert one.shape == (23, 8, 3)
    assert one.std() > 0.01
    for found in runs["one"], runs["four"]:
        np.testing.assert_allclose(found["samples"], np.clip(one, 0, 1), rtol=0, atol=1e-3)
    # Window i is a function of (seed, i), and a share of another size only rounds differently. But
    # it starts from noise of size 80, whose last digit is 1e-5, and the weights here are random.
    np.testing.assert_allclose(four, one, rtol=0, atol=1e-3)
    assert np.abs(one[1:] - one[:-1]).max(axis=(1, 2)).min() > 0.1


def test_four_devices_encode_for_context_fid_as_one(runs):
    one, four = runs["one"]["encoded"], runs["four"]["encoded"]
    assert one.shape == (300, 16)
    assert one.std() > 0.01
    np.testing.assert_array_equal(four, one)


def test_a_batch_that_does_not_divide_is_an_error(server, launch_flags, tmp_path):
    for stage in STAGES:  # both at the start: not one after hours of the other
        child = server.run(
            *launch_flags,
            f"--workdir={tmp_path / 'run'}",
            f"--config.{stage}.batch=18",
            log=tmp_path / "log",
            devices=4,
        )
        assert child.code == 2
        assert f"config.{stage}.batch: a batch of 18 does not divide over 4" in child.output
        assert "use a multiple of 4, such as 16" in child.output
        assert "Traceback" not in child.output
    assert not (tmp_path / "run").exists()


# Two processes of one device each.

# As in device_worker.py: a learning rate that ATOL is a thousandth of, and no rounding to bfloat16.
SHORT = (
    *(
        f"--config.{stage}.{key}"
        for stage in STAGES
        for key in ("steps=40", "eval_every=10", "optimizer.learning_rate=1e-3")
    ),
    "--config.ldm.model.precision=float32",
    # Of means, sines leave axes that hold rounding alone, which sums in another order turn.
    "--config.ldm.posterior=draw",
    "--stages=vae,ldm,sample",  # scores are what one process makes of the samples
)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def pair(server, launch_flags, tmp_path):
    """Starts the command as two processes, whose training may move nothing unasked."""

    def start(*flags):
        port = free_port()
        return [
            server.start(
                "launch-guarded",
                *launch_flags,
                *flags,
                f"--workdir={tmp_path / 'run'}",
                "--distributed",
                f"--coordinator_address=127.0.0.1:{port}",
                "--num_processes=2",
                f"--process_id={number}",
                log=tmp_path / f"process {number}, {port}.log",
                module=WORKER,
            )
            for number in range(2)
        ]

    return start


@pytest.fixture(scope="module")
def single(server, launch_flags, tmp_path_factory):
    """The work directory of one process with one device."""
    workdir = tmp_path_factory.mktemp("single") / "run"
    run_guarded(server, launch_flags, workdir, devices=1)
    return workdir


def run_guarded(server, launch_flags, workdir, devices):
    """A whole run whose training may move nothing between host and devices unasked."""
    flags = (*launch_flags, *SHORT, f"--workdir={workdir}")
    log = f"{workdir}.log"
    child = server.run("launch-guarded", *flags, log=log, module=WORKER, devices=devices)
    assert child.code == 0, child.output


@pytest.mark.slow
def test_four_devices_of_one_process_end_as_one_with_nothing_sent_unasked(
    server, launch_flags, single, tmp_path
):
    run_guarded(server, launch_flags, tmp_path / "run", devices=4)
    assert_same_as_single(tmp_path / "run", single)


@pytest.mark.slow
def test_devices_with_rows_of_their_own_resume_to_the_same_end(server, launch_flags, tmp_path):
    """To the last bit, and on another number of devices not at all."""
    flags = (*launch_flags, *SHORT, "--config.data.placement=sharded")

    def run(name, devices, start):
        log = tmp_path / f"{name} {devices}.log"
        command = ("launch-guarded", *flags, f"--workdir={tmp_path / name}")
        return start(*command, log=log, module=WORKER, devices=devices)

    child = run("whole", 4, server.run)
    assert child.code == 0, child.output
    child = run("stopped", 4, server.start)
    assert wait_until(lambda: lines(tmp_path / "stopped") >= 1, child), child.output
    child.signal(signal.SIGTERM)
    assert child.wait() == 143, child.output
    assert 0 < checkpoint.steps(epath.Path(tmp_path / "stopped" / "vae"))[-1] < 40
    child = run("stopped", 2, server.run)
    assert child.code == 2, child.output
    assert "with rows divided among 4 devices, and here are 2" in child.output
    assert "Traceback" not in child.output
    child = run("stopped", 4, server.run)
    assert child.code == 0, child.output
    assert "vae: resuming at step" in child.output
    expected, found = final_figures(tmp_path / "whole"), final_figures(tmp_path / "stopped")
    for name, figure in expected.items():
        np.testing.assert_array_equal(found[name], figure, name)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pmap", "shard_map"])
def test_two_processes_with_rows_of_their_own_train_as_two_devices(
    server, launch_flags, pair, tmp_path, form
):
    sharded = "--config.data.placement=sharded"
    children = pair(*SHORT, sharded, f"--config.devices={form}")
    for child in children:
        assert child.wait() == 0, children[0].output + children[1].output
    workdir = tmp_path / "two"
    command = ("launch-guarded", *launch_flags, *SHORT, sharded, f"--workdir={workdir}")
    child = server.run(*command, log=tmp_path / "two.log", module=WORKER, devices=2)
    assert child.code == 0, child.output
    assert_same_as_single(tmp_path / "run", workdir)


def final_figures(workdir):
    """Weights at the end of both stages by name, and the training losses."""
    config = stages.read_config(Workdir(epath.Path(workdir)))
    models = stages.build_models(config, 5)
    stats = stages.zero_stats(config, models)
    templates = {
        "vae": lambda: stages.init_vae_state(config, models),
        "ldm": lambda: stages.init_ldm_state(config, models, stats),
    }
    found = {}
    for stage, template in templates.items():
        state, meta = checkpoint.restore_latest(
            epath.Path(workdir) / stage, jax.eval_shape(template)
        )
        assert meta["step"] == 40
        for part in ("params", "ema"):
            for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(state, part)):
                found[f"{stage}/{part}{jax.tree_util.keystr(path)}"] = leaf
        found[f"{stage}/loss"] = np.array(
            [record["loss"] for record in records(workdir) if record["stage"] == stage]
        )
    return found


def assert_same_as_single(workdir, single):
    one, two = final_figures(single), final_figures(workdir)
    for stage in STAGES:
        assert worst(one, two, stage, WHOLE_RUN_ATOL[stage]) < 1
    assert [(r["stage"], r["step"]) for r in records(workdir)] == [
        (r["stage"], r["step"]) for r in records(single)
    ]
    expected, found = (results.read_samples(Workdir(epath.Path(it)))[0] for it in (single, workdir))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_two_processes_train_as_one(pair, single, tmp_path):
    children = pair(*SHORT)
    for child in children:
        assert child.wait() == 0, children[0].output + children[1].output
    assert_same_as_single(tmp_path / "run", single)
    names = {path.relative_to(tmp_path / "run").parts[0] for path in (tmp_path / "run").rglob("*")}
    expected = {path.relative_to(single).parts[0] for path in single.rglob("*")}
    assert names == expected - {"samples.npz"} | {"samples"}
    # Each drew half of the samples.
    drawn = shards.read_manifest(epath.Path(tmp_path / "run" / "samples"))["shards"]
    assert [(each["first"], each["windows"]) for each in drawn] == [(0, 16), (16, 16)]
    # Process 0 alone writes and reports.
    assert "vae: step 40/40" in children[0].output
    assert "step" not in children[1].output
    for stage in STAGES:
        assert len(list((tmp_path / "run" / "tensorboard" / stage).iterdir())) == 1


@pytest.mark.slow
def test_two_processes_train_as_one_by_shard_map(pair, single, tmp_path):
    children = pair(*SHORT, "--config.devices=shard_map")
    for child in children:
        assert child.wait() == 0, children[0].output + children[1].output
    assert_same_as_single(tmp_path / "run", single)


@pytest.mark.slow
def test_two_processes_that_were_stopped_and_killed_resume(pair, single, tmp_path):
    workdir = tmp_path / "run"
    children = pair(*SHORT)
    assert wait_until(lambda: lines(workdir) >= 1, children[0]), children[0].output
    children[1].signal(signal.SIGTERM)  # to one of them: both save and stop
    for child in children:
        assert child.wait() == 143, child.output
        assert "the same command resumes there" in child.output
    stopped_at = checkpoint.steps(epath.Path(workdir / "vae"))[-1]

    children = pair(*SHORT)
    there = workdir / "ldm" / "20" / "checksums.json"
    assert wait_until(there.exists, children[0]), children[0].output
    for child in children:
        child.kill()
        assert child.code == -signal.SIGKILL
    for child in children:
        assert (f"vae: resuming at step {stopped_at}" in child.output) == (stopped_at < 40)

    children = pair(*SHORT)
    for child in children:
        assert child.wait() == 0, children[0].output + children[1].output
        assert "ldm: resuming at step" in child.output
    assert_same_as_single(workdir, single)


ALL_STAGES = "--stages=vae,ldm,sample,evaluate,report"
MOMENTS = {  # what is there when a process is lost
    "in the first stage": "metrics.jsonl",
    "in the second stage": "ldm/20/checksums.json",
    "while samples are drawn": "marginals.json",
    "while they score": "samples/manifest.json",
}


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_lost_process_ends_the_other_within_a_minute(pair, single, tmp_path, moment, lost):
    """Loudly, and all stages resume to the same end."""
    workdir = tmp_path / "run"
    children = pair(*SHORT, ALL_STAGES)
    there = workdir / MOMENTS[moment]
    assert wait_until(there.exists, children[0]), children[0].output
    children[lost].kill()
    began = time.monotonic()
    assert children[1 - lost].wait(60) != 0
    assert time.monotonic() - began < 60
    assert not (workdir / "report.html").exists()
    children = pair(*SHORT, ALL_STAGES)
    for child in children:
        assert child.wait() == 0, children[0].output + children[1].output
    assert_same_as_single(workdir, single)
    assert {"scores.json", "report.html"} <= {path.name for path in workdir.iterdir()}


# A table's sizes are chosen, so these are all that make it small.
SMALL_TABLE = (
    "--config=configs/table.py",
    "--config.budget=10m",
    *(f"--config.data.{key}" for key in ("window=8", "stride=4")),
    *(f"--config.vae.{key}" for key in ("steps=20", "batch=16", "chunk=10", "model.width=8")),
    *(f"--config.vae.model.{key}" for key in ("encoder_layers=1", "decoder_layers=1")),
    *(f"--config.ldm.{key}" for key in ("batch=16", "chunk=10", "model.hidden=16")),
    "--config.ldm.model.blocks=1",
    *(f"--config.sample.{key}" for key in ("count=32", "steps=3")),
    *(f"--config.evaluate.{key}" for key in ("repeats=2", "context_fid_steps=2")),
    *(f"--config.evaluate.{key}=5" for key in ("discriminative_steps", "predictive_steps")),
)


@pytest.fixture
def budgeted(server, tmp_path):
    """Two processes that train a table within a budget."""
    rows = np.sin(np.arange(400)[:, None] / [3, 5]) + np.random.default_rng(0).normal(size=(400, 2))
    table = tmp_path / "table.csv"
    pd.DataFrame(rows.round(3), columns=["a", "b"]).to_csv(table, index=False)
    port = free_port()
    return [
        server.start(
            "launch-timed",
            *SMALL_TABLE,
            f"--config.data.path={table}",
            f"--workdir={tmp_path / 'run'}",
            "--distributed",
            f"--coordinator_address=127.0.0.1:{port}",
            "--num_processes=2",
            f"--process_id={number}",
            log=tmp_path / f"process {number}.log",
            module=WORKER,
        )
        for number in range(2)
    ]


@pytest.mark.slow
def test_two_processes_train_a_table_within_a_budget(budgeted, tmp_path):
    """All run the steps that are timed, and one stopwatch decides for both."""
    workdir = tmp_path / "run"
    assert wait_until((workdir / "config.json").exists, budgeted[0]), budgeted[0].output
    for child in budgeted:
        child.kill()
        assert child.code == -signal.SIGKILL, child.output
    chosen = stages.read_config(Workdir(epath.Path(workdir)))
    # Process 0's stopwatch says a second a step. By process 1's there would be too few of them.
    assert 400 <= chosen.ldm.steps <= 600


@pytest.mark.slow
def test_two_processes_go_through_all_stages_within_a_budget(budgeted, tmp_path):
    workdir = tmp_path / "run"
    for child in budgeted:
        assert child.wait() == 0, budgeted[0].output + budgeted[1].output
    chosen = stages.read_config(Workdir(epath.Path(workdir)))
    for stage in STAGES:
        assert chosen[stage].steps == checkpoint.steps(epath.Path(workdir) / stage)[-1]
    made = {"samples", "samples.csv", "scores.json", "report.html"}
    assert {path.name for path in workdir.iterdir()} >= made


def test_an_error_of_process_0_ends_both(pair, single, tmp_path):
    """Here in a stage that process 0 does alone, while the other waits for it."""
    workdir = tmp_path / "run"
    shutil.copytree(single, workdir)
    (workdir / "scores.json").mkdir()
    children = pair(*SHORT, "--stages=report")
    for child in children:
        child.wait()
    assert children[0].code == children[1].code == 2, children[0].output
    assert "scores.json is damaged" in children[0].output
    assert "another process failed, and says why" in children[1].output


def test_what_no_process_can_read_ends_all_that_share_the_scores(pair, single, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(single, workdir)
    (workdir / "samples.npz").write_bytes(b"damaged")
    children = pair(*SHORT, "--stages=evaluate")
    for child in children:
        child.wait()
        assert child.code == 2, child.output
        assert "samples.npz is not a readable" in child.output


@pytest.mark.slow
def test_two_processes_score_as_one(pair, server, launch_flags, single, tmp_path):
    """Bit for bit: parts are shared, and each is computed as one process does."""
    alone = tmp_path / "alone"
    for workdir in (alone, tmp_path / "run"):
        shutil.copytree(single, workdir)
    flags = (*SHORT, "--stages=evaluate,report")
    child = server.run(*launch_flags, *flags, f"--workdir={alone}", log=tmp_path / "log")
    assert child.code == 0, child.output
    children = pair(*flags)
    for child in children:
        assert child.wait() == 0, children[0].output + children[1].output
    for name in ("scores.json", "report.html"):
        assert (tmp_path / "run" / name).read_bytes() == (alone / name).read_bytes(), name
    # Process 0 alone reports, on its own parts.
    assert "evaluate: part" in children[0].output
    assert "evaluate: part 15/15" not in children[0].output
    assert "evaluate" not in children[1].output


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_finds_no_other_does_not_train_alone(server, launch_flags, tmp_path, number):
    child = server.run(
        "launch",
        *launch_flags,
        f"--workdir={tmp_path / 'run'}",
        "--distributed",
        f"--coordinator_address=127.0.0.1:{free_port()}",
        "--num_processes=2",
        f"--process_id={number}",
        log=tmp_path / "log",
        module=WORKER,
    )
    assert child.code not in (0, None), child.output
    assert not (tmp_path / "run").exists()


def test_make_batch_names_the_next_smaller_batch(monkeypatch):
    monkeypatch.setattr(parallel.jax, "device_count", lambda: 8)
    assert parallel.make_batch(16).devices == 8
    for size, better in ((17, 16), (15, 8), (3, 8)):
        with pytest.raises(ValueError, match=f"a batch of {size} does not .* such as {better}$"):
            parallel.make_batch(size)
