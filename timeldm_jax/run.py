"""A run: stages over a work directory, in order, each skipped where it is finished."""

import json
import logging
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from timeldm_jax import config as configuration
from timeldm_jax import evaluate, pipeline
from timeldm_jax.config import ConfigError
from timeldm_jax.data.load import Dataset, load_dataset
from timeldm_jax.metrics import suite
from timeldm_jax.models.vae import VAE
from timeldm_jax.samples import read_windows, write_npz
from timeldm_jax.training import loop, parallel

_log = logging.getLogger(__name__)

STAGES = ("vae", "ldm", "sample", "evaluate", "report")


def prepare(config: ConfigDict, workdir: epath.Path) -> None:
    """Claims the work directory for this configuration.

    Raises:
      ConfigError: the directory was made with another configuration, or holds other things.
    """
    path = workdir / "config.json"
    if path.exists():
        try:
            saved = json.loads(path.read_text())
        except ValueError as error:
            raise ConfigError(f"{path} is not readable JSON ({error}); use a new --workdir") from error
        changed = configuration.difference(saved, config.to_dict())
        if changed:
            lines = "\n  ".join(changed)
            raise ConfigError(
                f"{workdir} was made with another configuration:\n  {lines}\n"
                "use another --workdir, or run with the saved values"
            )
        return
    pipeline.write_config(config, workdir)


def run_stages(config: ConfigDict, workdir: epath.Path, stages: tuple[str, ...]) -> None:
    """Runs the named stages in order; the same call again resumes.

    Args:
      config: validated configuration.
      workdir: where everything of the run is kept.
      stages: some of `STAGES`.
    """
    prepare(config, workdir)
    dataset = load_dataset(config)
    series = dataset.series
    _log.info(
        "%s: %d features, windows of %d: %d train, %d validate, %d test",
        config.data.name,
        len(series.columns),
        series.window,
        len(series.train),
        len(series.valid),
        len(series.test),
    )
    if "vae" in stages:
        pipeline.train_vae(config, dataset, workdir)
    if "ldm" in stages:
        pipeline.train_ldm(config, dataset, workdir)
    # What follows takes seconds and writes files: process 0 does it, on its own devices.
    if jax.process_index() == 0:
        if "sample" in stages:
            sample(config, workdir)
        if "evaluate" in stages:
            evaluate_run(config, dataset, workdir)
        if "report" in stages:
            report(dataset, workdir)
    parallel.barrier("stages done")


def sample(config: ConfigDict, workdir: epath.Path) -> None:
    """Writes `samples.npz`, or leaves the one that is there."""
    path = workdir / "samples.npz"
    if path.exists():
        _log.info("sample: finished before, skipped")
        return
    generator = pipeline.load_generator(workdir)
    count = config.sample.count
    shape = (count, generator.models.vae.window, len(generator.columns))
    with loop.progress("sample", count, unit="window") as show:

        def batches() -> Any:
            done = 0
            for batch in generator.sample(count, config.sample.seed):
                yield batch
                done += len(batch)
                show(done, {})

        write_npz(path, batches(), shape, generator.columns)


def evaluate_run(config: ConfigDict, dataset: Dataset, workdir: epath.Path) -> None:
    """Writes `scores.json`: the samples against the test windows, and the VAE on its own."""
    path = workdir / "scores.json"
    if path.exists():
        _log.info("evaluate: finished before, skipped")
        print(evaluate.table(json.loads(path.read_text())))
        return
    series = dataset.series
    synthetic, _ = read_windows(workdir / "samples.npz")
    real = series.windows(series.test)
    scores = suite.score(real, synthetic, series.columns, seed=config.seed)
    models = pipeline.build_models(config, len(series.columns))
    vae_params = pipeline.load_vae(config, models, workdir)
    scaled = dataset.scaled()
    reconstructed = reconstruct(models.vae, vae_params, scaled, series.test)
    scores["reconstruction"] = suite.reconstruction_error(
        dataset.scaler.scale(real), reconstructed, series.columns
    )
    scores["protocol"] = config.data.protocol
    scores["fingerprint"] = series.fingerprint()
    evaluate.write_scores(path, scores)
    print(evaluate.table(scores))


def reconstruct(vae: VAE, params: Any, scaled: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The VAE's reconstruction of windows from their posterior means, `(n, time, feature)`."""
    means = pipeline.encode(vae, params, scaled, starts).mean
    decode = jax.jit(lambda p, z: vae.apply({"params": p}, z, method="decode"))
    parts = []
    for first in range(0, len(means), pipeline.ENCODE_BATCH):
        z = means[first : first + pipeline.ENCODE_BATCH]
        padded = np.resize(z, (pipeline.ENCODE_BATCH, vae.window, vae.latent))
        parts.append(np.asarray(decode(params, padded))[: len(z)])
    return np.concatenate(parts)


def report(dataset: Dataset, workdir: epath.Path) -> None:
    """Draws `report/*.png`: windows, loss curves, β."""
    from timeldm_jax.report import figures

    series = dataset.series
    synthetic, columns = read_windows(workdir / "samples.npz")
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    real = series.windows(series.test)
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for name, figure in (
        ("windows", figures.windows_figure(real, synthetic, columns or series.columns)),
        ("losses", figures.loss_figure(records)),
        ("beta", figures.beta_figure(records)),
    ):
        figures.save(figure, folder / f"{name}.png")
        print(f"report: {folder / f'{name}.png'}")
