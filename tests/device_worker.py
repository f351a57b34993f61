"""What test_devices.py runs with a number of fake devices: both stages, their randomness, sampling.

A child of `launch_in_fork`: `jax_num_cpu_devices` is set before `run()`, and no device is started.

Arguments: `train OUT.npz` writes everything that the test compares; `train-without-sum OUT.npz`
the same with gradients that are not added up; `shard-map OUT.npz` and `shard-map-without-sum
OUT.npz` the same with `shard_map`; `launch FLAGS...` is the command with an impatient
`jax.distributed`; `launch-guarded FLAGS...` the command whose training may move nothing between
host and devices unasked; `launch-timed FLAGS...` the command whose stopwatches say 1 s a step, or
differ from process to process, after the steps that they time; `sample GROUPS FLAGS...` the
command `sample`, in small groups of windows, the process killed after so many of them; 0: never.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

STEPS, CHUNK, BATCH = 20, 5, 16


def run():
    """Does what the arguments say."""
    what, *rest = sys.argv[1:]
    if what == "launch":
        from timeldm_jax import launch

        sys.argv[1:] = rest
        jax.distributed.initialize = functools.partial(
            jax.distributed.initialize, initialization_timeout=2
        )
        launch.run()
        return
    if what == "sample":
        sample_in_groups(int(rest[0]), rest[1:])
        return
    from timeldm_jax.training import loop, stages, steps

    if what == "launch-guarded":
        from timeldm_jax import launch

        train = loop.train

        def guarded(*arguments):
            with jax.transfer_guard("disallow"):
                return train(*arguments)

        loop.train = guarded
        sys.argv[1:] = rest
        launch.run()
        return
    if what == "launch-timed":
        from timeldm_jax import launch

        measure = stages.step_seconds

        def slow(*arguments):
            if jax.process_count() > 1:
                measure(*arguments)
            return 1.0 + 2 * jax.process_index()

        stages.step_seconds = slow
        sys.argv[1:] = rest
        launch.run()
        return
    form = "shard_map" if what.startswith("shard-map") else "pmap"
    if what.endswith("-without-sum"):
        steps.Batch.sum = lambda self, tree: tree
    np.savez(rest[0], **figures(form))


def sample_in_groups(killed_after, flags):
    """The command, whose groups are of four windows of the golden model's."""
    import os
    import signal

    from timeldm_jax import overlap, sample, writing

    in_order = overlap.in_order

    def killed(*arguments):
        for number, piece in enumerate(in_order(*arguments), 1):
            yield piece
            if number == killed_after:
                os.kill(os.getpid(), signal.SIGKILL)

    overlap.in_order = killed
    writing.GROUP_NUMBERS = 4 * 8 * 12
    sample.main(["sample", *flags])


def figures(form):
    """Everything to compare, by name."""
    from timeldm_jax import config as configuration
    from timeldm_jax import latents
    from timeldm_jax.data.series import DeviceWindows, Missing
    from timeldm_jax.training import parallel, stages, steps

    config = configuration.base()
    config.data.window = 8
    config.vae.steps = config.ldm.steps = STEPS
    config.vae.model.update(latent=4, width=8, encoder_layers=1, decoder_layers=1)
    # Not bfloat16: a sum in another order can round to its next number, 2^-8 away.
    config.ldm.model.update(hidden=16, blocks=1, precision="float32")
    config.vae.optimizer.learning_rate = config.ldm.optimizer.learning_rate = 1e-3
    config.sample.update(steps=3, batch=10)
    models = stages.build_models(config, 3)
    random = np.random.default_rng(0)
    found = {}

    batch = parallel.make_batch(BATCH, form=form)
    of_own = parallel.make_batch(BATCH, form=form, own=True)
    vae_config, ldm_config = map(configuration.optimizer_config, (config.vae, config.ldm))
    vae_step, gaps_step, own_vae_step = (
        steps.vae_step(
            models.vae,
            steps.make_optimizer(vae_config, STEPS),
            vae_config,
            configuration.beta_config(config),
            shared_by,
            missing,
        )
        for shared_by, missing in ((batch, None), (batch, Missing((0,), (2,))), (of_own, None))
    )
    ldm_step, own_ldm_step = (
        steps.ldm_step(
            models.denoiser,
            steps.make_optimizer(ldm_config, STEPS),
            ldm_config,
            configuration.noise_config(config),
            shared_by,
            lambda data, own: latents.Posteriors(*(part[own] for part in data.each)),
        )
        for shared_by in (batch, of_own)
    )
    rows = np.cumsum(random.normal(size=(47, 3)), axis=0).astype(np.float32)
    windows = DeviceWindows(jnp.asarray(rows), jnp.arange(40))
    gaps = random.random(47) < np.linspace(0.9, 0, 47)  # most of them early
    gapped = windows._replace(
        values=jnp.asarray(np.stack([np.where(gaps, np.nan, rows[:, 0]), rows[:, 1], gaps], 1))
    )
    posteriors = latents.Posteriors(
        jnp.asarray(random.normal(size=(40, models.flat)), jnp.float32),
        jnp.asarray(random.normal(size=(40, models.flat)) - 3, jnp.float32),
    )
    stats = latents.latent_stats(jax.tree.map(np.asarray, posteriors), latents.LatentConfig(), 1.0)
    vae_state = stages.init_vae_state(config, models)
    ldm_state = stages.init_ldm_state(config, models, stats)
    for name, train in (("vae", vae_state), ("ldm", ldm_state)):
        found |= {f"{name}/random/{k}": v for k, v in draws(train, batch).items()}
    found |= sampled(config, models, stats, vae_state.params, ldm_state.params)
    found["encoded"] = encoded()
    first = stages.init_vae_state(config, models), stages.init_ldm_state(config, models, stats)
    found |= divided((own_vae_step, own_ldm_step), first, (windows, posteriors), of_own)
    if batch.axis is None:
        first = stages.init_vae_state(config, models), stages.init_ldm_state(config, models, stats)
        found |= by_hand((vae_step, ldm_step), first, (windows, posteriors), batch)
    found |= trained("gaps", stages.init_vae_state(config, models), gapped, gaps_step, batch)
    found |= sent(stages.init_vae_state(config, models), gapped, gaps_step, batch)
    found |= trained("vae", vae_state, windows, vae_step, batch)
    found |= trained("ldm", ldm_state, posteriors, ldm_step, batch)
    return found


def encoded():
    """Representations of Context-FID, of windows that do not fill a batch on each device."""
    from timeldm_jax.metrics import context_fid

    windows = np.random.default_rng(2).random((300, 8, 3)).astype(np.float32)
    return context_fid.encode(context_fid.ENCODER.init(jax.random.key(0), windows[:1]), windows)


def draws(train, batch):
    """Batch order and noise of a few steps, the devices' shares put together."""
    from timeldm_jax.streams import Stream
    from timeldm_jax.training import parallel, state

    def share(train, _):
        positions = batch.positions().reshape(-1)
        return {
            "positions": positions,
            "order": state.epoch_order(train, positions, batch.size, 40),
            "noise": state.normal(state.step_key(train, Stream.NOISE), positions, (3,)),
        }

    if batch.axis is None:
        mapped = jax.jit(share)
    else:
        mapped = jax.pmap(share, axis_name=parallel.AXIS, in_axes=(None, 0))
    found = {}
    for step in (0, 1, 7):
        parts = mapped(train._replace(step=jnp.int32(step)), np.zeros(batch.devices))
        for name, values in parts.items():
            shape = (-1, 3) if name == "noise" else (-1,)
            found[f"{name} {step}"] = np.asarray(values).reshape(shape)
    return found


def trained(name, train, data, step, batch):
    """The state after STEPS steps, and every device's copy of it and of the metrics."""
    from timeldm_jax.training import parallel

    chunk = parallel.chunk_runner(step, batch)(CHUNK)
    found = {}
    if batch.form == "pmap":
        found[f"{name}/unplaced is refused"] = refuses_unplaced(chunk, train, data)
    train, data = parallel.place((train, data))
    chunks = []
    with jax.transfer_guard("disallow"):
        for _ in range(STEPS // CHUNK):
            train, metrics = chunk(train, data)
            chunks.append({metric: copies(values) for metric, values in metrics.items()})
    for metric in chunks[0]:
        every_device = np.concatenate([values[metric] for values in chunks], axis=1)
        found[f"{name}/{metric}"] = every_device[0]
        found[f"copies/{name}/{metric}"] = every_device
    return found | weights(name, train)


def weights(name, train):
    """Every device's copy of the weights, and the first."""
    found = {}
    for part in ("params", "ema"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(train, part)):
            key = f"{name}/{part}{jax.tree_util.keystr(path)}"
            found[f"copies/{key}"] = copies(leaf)
            found[key] = found[f"copies/{key}"][0]
    return found


def sent(train, data, step, batch):
    """As `trained` of windows with gaps, which are looked up on the host and sent."""
    from timeldm_jax.training import feed, parallel

    values, key, losses = np.asarray(data.values), np.asarray(train.key), []
    windows = feed.Feed(
        lambda at: values[at[..., None] + np.arange(8)], np.asarray(data.starts), batch, beside=1
    )
    chunk = parallel.chunk_runner(step, batch, fed=True)(CHUNK)
    train = parallel.place(train)
    for each in windows.chunks(key, iter([(s, CHUNK) for s in range(0, STEPS, CHUNK)])):
        train, metrics = chunk(train, each)
        losses.append(copies(metrics["loss"])[0])
    return {"sent/loss": np.concatenate(losses)} | weights("sent", train)


def divided(both, first, data, batch):
    """Both stages on windows of which each device has its own, and what each holds."""
    from types import SimpleNamespace

    from timeldm_jax.training import feed, placement

    windows, posteriors = jax.tree.map(np.asarray, data)
    shares = (
        placement.share_windows(*windows, 8, batch.devices),
        placement.of_ldm(SimpleNamespace(is_stored=False), batch, (), posteriors),
    )
    found = {}
    for name, step, train, share in zip(("vae", "ldm"), both, first, shares, strict=True):
        placed = feed.placed(share)
        for number, array in enumerate(jax.tree.leaves(placed)):
            parts = [np.asarray(shard.data) for shard in array.addressable_shards]
            found[f"held {name}/{number}"] = np.stack(parts).reshape(
                batch.devices, *array.shape[batch.devices > 1 :]
            )
        chunks = iter([placed] * (STEPS // CHUNK))
        found |= in_chunks(f"divided {name}", train, chunks, step, batch)
    return found


def by_hand(both, first, data, batch):
    """On one device, the steps that four with windows of their own are to take."""
    from timeldm_jax.training import placement, state
    from timeldm_jax.training.steps import Fed

    (rows, starts), posteriors = jax.tree.map(np.asarray, data)
    whose, found = placement.shares(len(starts), 4), {}
    for name, step, train in zip(("vae", "ldm"), both, first, strict=True):
        numbers = np.array(
            [
                [
                    whose[device][number]
                    for device in range(4)
                    for number in np.asarray(
                        state.epoch_order(
                            train._replace(step=jnp.int32(place)),
                            jnp.arange(BATCH // 4),
                            BATCH // 4,
                            whose.shape[1],
                            jnp.int32(device),
                        )
                    )
                ]
                for place in range(STEPS)
            ]
        )
        found[f"numbers {name}"] = numbers
        each = rows[starts[numbers][..., None] + np.arange(8)]
        if name == "ldm":
            each = posteriors.mean[numbers], posteriors.log_variance[numbers]
        chunks = (
            Fed(jax.tree.map(lambda a, at=at: jnp.asarray(a[at : at + CHUNK]), each), ())
            for at in range(0, STEPS, CHUNK)
        )
        found |= in_chunks(f"by hand {name}", train, chunks, step, batch, fed=True)
    return found


def in_chunks(name, train, chunks, step, batch, fed=False):
    """The losses of some chunks, and what each device then holds."""
    from timeldm_jax.training import parallel

    chunk = parallel.chunk_runner(step, batch, fed=fed)(CHUNK)
    train, losses = parallel.place(train), []
    for data in chunks:
        train, metrics = chunk(train, data)
        losses.append(copies(metrics["loss"]))
    every_device = np.concatenate(losses, axis=1)
    found = {f"{name}/loss": every_device[0], f"copies/{name}/loss": every_device}
    return found | weights(name, train)


def copies(array):
    """What each device holds of an array that is the same on all."""
    return np.stack([np.asarray(shard.data) for shard in array.addressable_shards])


def refuses_unplaced(chunk, train, data):
    """Whether the guard stops a call whose arguments are elsewhere: that it would see one."""
    elsewhere = moved_away(train), moved_away(data)
    try:
        with jax.transfer_guard("disallow"):
            chunk(*elsewhere)
    except jax.errors.JaxRuntimeError as error:
        return "Disallowed" in str(error)
    return False


def moved_away(tree):
    """Arrays on the host; where there are several devices, on the first of them alone."""
    host = jax.device_get(tree)
    return host if jax.device_count() == 1 else jax.device_put(host)


def sampled(config, models, stats, vae_params, ldm_params):
    """Windows of a generator whose weights are noise: as initialised, it would ignore its input."""
    from timeldm_jax.data.scaling import Scaler
    from timeldm_jax.generator import Generator

    random = np.random.default_rng(1)

    def noisy(params):
        return jax.tree.map(
            lambda a: np.asarray(a) + 0.1 * random.normal(size=a.shape).astype(np.float32), params
        )

    generator = Generator(
        config=config,
        models=models,
        vae_params=noisy(vae_params),
        ldm_params=noisy(ldm_params),
        stats=stats,
        scaler=Scaler((0.0,) * 3, (1.0,) * 3),
        columns=("a", "b", "c"),
        schema=None,
        meta={},
    )
    drawn = generator._draw(
        generator.vae_params,
        generator.ldm_params,
        stats,
        generator._own_drift,
        jax.random.key(5),
        jnp.arange(24),
        (),
    )
    return {
        "samples": np.concatenate(list(generator.sample(23, seed=5))),
        "drawn": np.asarray(drawn)[:23],  # not yet within the range of any data
    }
