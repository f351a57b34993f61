"""Rows that are divided among devices: whose they are, and what is trained on them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from test_large import TINY, asked, hourly
from test_steps import SMALL_VAE

from timeldm_jax import experiment, latents
from timeldm_jax.data import batched
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data.table import Options
from timeldm_jax.errors import CheckpointError
from timeldm_jax.loading import load_generator
from timeldm_jax.training import loop, parallel, placement, state, steps
from timeldm_jax.workdir import Workdir

DEVICES = 4


SIZES = [(40, 4), (41, 4), (43, 4), (7, 1), (3, 8), (9, 8)]


@pytest.mark.parametrize(("windows", "devices"), SIZES)
def test_every_window_is_of_some_device_and_few_are_of_two(windows, devices):
    whose = placement.shares(windows, devices)
    assert whose.shape == (devices, -(-windows // devices))
    assert (np.diff(whose, axis=1) == 1).all()
    times = np.bincount(whose.ravel(), minlength=windows)
    assert len(times) == windows
    assert times.min() == 1 or windows < devices
    assert whose.size - windows < devices


def test_a_device_holds_the_rows_of_its_windows_and_no_others(monkeypatch):
    """With a stride, and rows between that no training window covers."""
    monkeypatch.setattr(parallel, "device_numbers", lambda: np.arange(DEVICES))
    rows = np.random.default_rng(0).normal(size=(1_000, 3)).astype(np.float32)
    for starts in (np.arange(0, 990), np.r_[0:300:3, 400:600:3, 900:990:3]):
        values, own = placement.share_windows(rows, starts, 10, DEVICES).each
        whose = placement.shares(len(starts), DEVICES)
        for device in range(DEVICES):
            found = values[device][own[device][:, None] + np.arange(10)]
            expected = rows[starts[whose[device]][:, None] + np.arange(10)]
            np.testing.assert_array_equal(found, expected)
        held = len(np.unique(starts[:, None] + np.arange(10)))
        # A quarter, the rows that windows of two devices share, and at most so many fillers.
        assert values.shape[1] <= held / DEVICES + 10 * 3


def orders(step, share, examples, own=True):
    """The examples of a step on each of four devices."""
    batch = steps.Batch(DEVICES * share, DEVICES, parallel.AXIS, own=own)
    train = state.TrainState(
        jnp.int32(step), (), (), (), (), (), jax.random.key_data(jax.random.key(3))
    )

    def of_device(_):
        positions = batch.positions().reshape(-1)
        ahead = batch.order(train, positions, examples, ahead=1)
        return batch.order(train, positions, examples), ahead

    return jax.vmap(of_device, axis_name=parallel.AXIS)(jnp.zeros(DEVICES))


def test_each_device_sees_each_of_its_windows_once_an_epoch():
    share, examples = 4, 12
    epochs = [
        np.concatenate([orders(e * 3 + i, share, examples)[0] for i in range(3)], 1)
        for e in range(2)
    ]
    for epoch in epochs:
        assert epoch.shape == (DEVICES, examples)
        assert (np.sort(epoch, axis=1) == np.arange(examples)).all()
        assert len({tuple(row) for row in epoch}) == DEVICES  # not all in one order
    assert (epochs[0] != epochs[1]).any(axis=1).all()
    # The neighbour, whose gaps a window is also judged on, is of the same device.
    found, ahead = orders(5, share, examples)
    np.testing.assert_array_equal(ahead, np.roll(found, -1, axis=1))


def test_the_first_device_has_the_order_that_one_alone_has():
    train = state.TrainState(
        jnp.int32(7), (), (), (), (), (), jax.random.key_data(jax.random.key(3))
    )
    alone = steps.Batch(4, own=True).order(train, jnp.arange(4), 12)
    np.testing.assert_array_equal(alone, steps.Batch(4).order(train, jnp.arange(4), 12))
    np.testing.assert_array_equal(orders(7, 4, 12)[0][0], alone)


def test_latents_that_are_made_part_by_part_are_those_made_at_once(monkeypatch):
    frame = hourly(400)[["load", "price"]].fillna(0.0)
    config, given = datasets.take(asked("", "", protocol="paper", window=8, stride=1), frame)
    dataset = datasets.cut(datasets.prepare(given, config), config)
    vae = SMALL_VAE.clone(features=2)
    params = vae.init(jax.random.key(0), jnp.zeros((1, 8, 2)), jnp.zeros((1, 8, 2)))["params"]
    monkeypatch.setattr(latents, "ENCODE_BATCH", 32)
    monkeypatch.setattr(placement.feed, "CHUNK_BYTES", 2 * 32 * 4 * 16)
    starts = dataset.series.train[:]
    found = [
        placement.encoded(dataset, starts, vae, params, "exact", whole=whole)
        for whole in (True, False)
    ]
    assert len(found[0].mean) == len(starts)
    np.testing.assert_array_equal(found[1].mean, found[0].mean)


def trained(source, workdir, where):
    config, names = asked("", "", placement=where, window=12), ("vae", "ldm")
    config.update_from_flattened_dict(TINY | {"vae.steps": 20, "ldm.steps": 20})
    config.data.stride = 1
    started = experiment.start(config, Workdir(epath.Path(workdir)), names, data=source)
    experiment.run(started, names)
    return load_generator(started.workdir)


@pytest.mark.slow
def test_on_one_device_a_share_is_all(tmp_path):
    """Both stages, with gaps and a calendar, to the last bit."""
    held, own = (
        trained(hourly(600), tmp_path / where, where) for where in ("replicated", "sharded")
    )
    for part in ("vae_params", "ldm_params", "stats"):
        chex.assert_trees_all_equal(getattr(held, part), getattr(own, part))
    assert own.meta["devices"] == 1
    assert "devices" not in held.meta


def test_sharded_tables_are_read_whole(tmp_path):
    hourly(50).to_csv(tmp_path / "t.csv", index=False)
    assert batched.large(str(tmp_path / "t.csv"), "sharded", tmp_path, Options()) is None


def test_another_number_of_devices_is_refused():
    folder = epath.Path("runs/mine/vae")
    loop._check_devices(folder, {"devices": 4}, {"devices": 4})
    loop._check_devices(folder, {}, {})
    with pytest.raises(CheckpointError, match=r"divided among 4 devices, and here are 2.*anew in"):
        loop._check_devices(folder, {"devices": 4}, {"devices": 2})
