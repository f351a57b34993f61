"""What the tests share: a compilation cache, a tiny configuration, and a server that forks runs.

Everything here is made once a session, and under `pytest -n` once a worker, in folders of its own.
The Makefile keeps a file's tests on one worker, so what a module makes is made once.
"""

import gc
import os
import pathlib
import textwrap
from importlib import metadata

# The tests are about the CPU, on every machine. Compiling is most of what a tiny run does: older
# code generation, and instructions that are quick to choose, take a third off it. Both are in force
# only before JAX is imported. XLA ends the process at a flag that it does not know, and jaxlib 0.12
# has no older code generation.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_max_isa=SSE4_2"
    + " --xla_cpu_use_fusion_emitters=false" * (metadata.version("jaxlib") < "0.12"),
)

import jax
import pytest
import quick
from launch_in_fork import ForkServer

from timeldm_jax import config as configuration

# Modules whose numbers are compared with others' to the last digits, or that compute more than they
# compile.
OPTIMIZED = {
    "test_diffusion",
    "test_golden_models",
    "test_kernels",
    "test_parity",
    "test_recurrent_scores",
}


@pytest.fixture(scope="module", autouse=True)
def no_collection():
    """Looks for garbage between modules only: what JAX keeps makes looking slow."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Keeps compiled programs for this session, its subprocesses and the other workers.

    TIMELDM_TEST_CACHE names a folder to keep them in from one session to the next.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of the session, where each worker has a folder
    folder = os.environ.get("TIMELDM_TEST_CACHE") or base / "xla"
    for name, value in (
        ("jax_compilation_cache_dir", str(folder)),
        ("jax_persistent_cache_min_compile_time_secs", 0),
        ("jax_persistent_cache_min_entry_size_bytes", -1),
    ):
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for subprocesses
    return folder


@pytest.fixture(scope="module", autouse=True)
def quickly(request):
    """Compiling and Context-FID's large encoder are most of what a tiny run takes: less of both."""
    if request.module.__name__ in OPTIMIZED:
        yield
        return
    with quick.compilation(), quick.scores():
        yield


# Sizes at which a step takes microseconds; two validations between the ends of each stage at least.
TINY = """
from timeldm_jax import config as base_config

def get_config(variant=""):
    config = base_config.base()
    config.data.name = "sines"
    config.data.window = 8
    config.data.count = 40
    config.vae.steps = config.ldm.steps = 240
    config.vae.batch = config.ldm.batch = 16
    config.vae.chunk = config.ldm.chunk = 5
    config.vae.eval_every = config.ldm.eval_every = 20
    config.vae.model.latent = 4
    config.vae.model.width = 8
    config.vae.model.encoder_layers = 1
    config.vae.model.decoder_layers = 1
    config.vae.beta.patience = 3  # so that β falls within the run
    config.ldm.model.hidden = 16
    config.ldm.model.blocks = 1
    config.sample.count = 32
    config.sample.batch = 16
    config.sample.steps = 3
    config.evaluate.repeats = 2
    config.evaluate.discriminative_steps = 5
    config.evaluate.predictive_steps = 5
    config.evaluate.context_fid_steps, config.evaluate.trees = 2, 8
    return config
"""


@pytest.fixture(scope="session")
def tiny_config_file(tmp_path_factory):
    """A config file for the command, of a model and data as small as they can be."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(textwrap.dedent(TINY))
    return path


@pytest.fixture
def tiny_config(tiny_config_file):
    """The same configuration as an object, a fresh copy for each test."""
    return configuration.load(str(tiny_config_file))


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory) -> pathlib.Path:
    """Where prepared data goes: prepared once a session."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def server(compilation_cache):
    """Starts runs of the command without importing it again."""
    with ForkServer() as running:
        yield running


@pytest.fixture(scope="session")
def launch_flags(tiny_config_file, data_cache):
    """The command's flags for the tiny configuration, all but `--workdir`."""
    return (f"--config={tiny_config_file}", f"--config.data.cache_dir={data_cache}")


@pytest.fixture(scope="session")
def reference_run(server, launch_flags, tmp_path_factory):
    """The work directory of a run of the tiny configuration that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("reference") / "run"
    child = server.run(*launch_flags, f"--workdir={workdir}", log=f"{workdir}.log")
    assert child.code == 0, child.output
    return workdir
