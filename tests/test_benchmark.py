"""The benchmark compares like with like: the PyTorch version computes what ours computes.

PyTorch is no dependency of the project; without it these tests are skipped, and say so.
"""

import importlib
import json
import pathlib
import subprocess
import sys

import pytest

from timeldm_jax import config as configuration

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
FEATURES = 3


@pytest.fixture
def load(monkeypatch):
    """Imports a module of benchmarks/, which finds its neighbours as when run as a script."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def small_config(**vae):
    config = configuration.base()
    config.data.window = 9
    sizes = {"latent": 8, "width": 8, "mlp_ratio": 3, "encoder_layers": 1, "skip": False}
    config.vae.model.update({**sizes, **vae})
    config.ldm.model.update({"hidden": 16, "blocks": 0, "gated": False, "precision": "float32"})
    config.sample.solver = "heun"
    return config


@pytest.mark.parametrize(
    "vae",
    [
        {"norm": "post", "head": "conv", "heads": 2, "latent": 6},
        {"norm": "pre", "head": None, "heads": 1},
        {"norm": "pre", "head": "linear", "heads": 4, "encoder_layers": 2},
    ],
    ids=lambda vae: f"{vae['norm']}-{vae['head']}",
)
def test_pytorch_computes_the_same(load, vae):
    pytest.importorskip("torch", reason="PyTorch is not installed: the benchmark is not checked")
    problem = load("problems").make_problem(small_config(**vae), FEATURES, windows=20)
    found = load("parity").check(problem)
    assert len(found) == 7


def test_a_difference_is_noticed(load, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed: the benchmark is not checked")
    parity = load("parity")
    problem = load("problems").make_problem(small_config(), FEATURES, windows=20)
    monkeypatch.setattr(parity.losses, "fft_weight", lambda window: 0.9)
    with pytest.raises(AssertionError, match="VAE loss"):
        parity.check(problem)


@pytest.mark.parametrize("stage", ["vae", "ldm"])
def test_flops_are_those_of_the_program(load, stage):
    config = small_config(width=64, latent=64, mlp_ratio=8)
    config.ldm.model.hidden = 512
    problem = load("problems").make_problem(config, FEATURES, windows=20)
    flops = load("flops")
    ratio = flops.xla_step_flops(problem, stage) / flops.step_flops(problem, stage)
    # XLA counts elementwise work and the norms' products too.
    assert 1.0 <= ratio < 1.15


PROGRAM = """
%all-reduce.1 = f32[8,4]{1,0} all-reduce(%a), channel_id=1
ROOT %x = (f32[3]{0}, bf16[2,2]{1,0}, s32[]) all-reduce-start(%b, %c, %d), channel_id=2
%y = (f32[3]{0}, bf16[2,2]{1,0}, s32[]) all-reduce-done(%x)
%g = pred[16]{0} all-gather(%e), dimensions={0}
%fusion = f32[100]{0} fusion(%all-reduce.1), kind=kLoop
"""


def test_what_devices_tell_each_other_is_read_off_a_program(load):
    found = load("communication").collectives(PROGRAM)
    assert found == {"all-reduce": 4 * 32 + 4 * 3 + 2 * 4 + 4, "all-gather": 16}


@pytest.mark.slow
def test_a_step_sums_its_weights_and_losses_over_devices_and_nothing_else():
    """What docs/scale.md says of any number of devices, of the program for four."""
    command = [sys.executable, BENCHMARKS / "communication.py", "--set=sines", "--devices=4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for line, losses in zip(done.stdout.splitlines(), (7, 1), strict=True):
        found = json.loads(line)
        assert found["devices"] == 4
        assert found["all-reduce"] == found["bytes"] == 4 * (found["weights"] + losses), line
