"""What a chunk costs beside its steps: data that are placed once against data sent with each call.

    python benchmarks/chunks.py --devices=4 --megabytes=100

Fake CPU devices, and a VAE so small that its step takes no time. In training, `parallel.place` puts
data and state on all devices before the first chunk.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from timeldm_jax import config as configuration
from timeldm_jax.data.series import DeviceWindows
from timeldm_jax.training import parallel, stages

WINDOW, FEATURES, STEPS = 8, 5, 5


def main() -> None:
    """Measures and prints milliseconds a chunk."""
    parser = argparse.ArgumentParser(description="The cost of a chunk.")
    parser.add_argument("--devices", type=int, default=4, help="fake devices")
    parser.add_argument("--megabytes", type=float, default=100, help="of data")
    parser.add_argument("--rounds", type=int, default=7, help="chunks that are timed")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    ways: dict[str, Callable] = {"placed once": parallel.place, "sent each time": jax.device_put}
    for name, put in ways.items():
        seconds = chunk_seconds(int(options.megabytes * 1e6), options.rounds, put)
        print(f"{name}: {1000 * seconds:.1f} ms a chunk of {STEPS} steps")


def chunk_seconds(size: int, rounds: int, put: Callable) -> float:
    """Median seconds of a chunk of the VAE's steps over rows of `size` bytes that `put` places."""
    config = configuration.base()
    config.data.window, config.vae.batch = WINDOW, 16
    config.vae.model.update(latent=2, width=4, heads=1, encoder_layers=1, decoder_layers=1)
    models = stages.build_models(config, FEATURES)
    rows = np.random.default_rng(0).random((size // (4 * FEATURES), FEATURES), np.float32)
    data = put(DeviceWindows(rows, np.arange(1000, dtype=np.int32)))
    train = put(stages.init_vae_state(config, models))
    step = stages.make_vae_step(config, models, None)
    chunk = parallel.chunk_runner(step, stages.make_batch(config, "vae"))(STEPS)
    times = []
    for _ in range(rounds + 1):  # the first one compiles
        start = time.perf_counter()
        train, metrics = chunk(train, data)
        jax.block_until_ready((train, metrics))
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
