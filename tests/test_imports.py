"""Importing the package: nothing heavy before it is needed, and no flag at all."""

import json
import subprocess
import sys

import numpy as np
import pytest

from timeldm_jax import versions


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import timeldm_jax", {"jax", "flax", "numpy", "pandas", "scipy"}),
        (
            "from timeldm_jax import TimeLDM",
            {"tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "tensorboardX"},
        ),
    ],
)
def test_heavy_imports_wait_until_they_are_used(statement, absent):
    """By name and not by time, which depends on the machine."""
    loaded = run(f"import json, sys\n{statement}\nprint(json.dumps(list(sys.modules)))")
    assert absent & {name.split(".")[0] for name in loaded} == set()


EVERYTHING = """
import importlib, json, pkgutil
from absl import flags
import timeldm_jax
for module in pkgutil.walk_packages(timeldm_jax.__path__, "timeldm_jax."):
    importlib.import_module(module.name)
ours = [
    flag.name
    for module, defined in flags.FLAGS.flags_by_module_dict().items()
    if module.startswith("timeldm_jax")
    for flag in defined
]
for name in ("seed", "config", "workdir", "real", "out", "window", "train", "report"):
    flags.DEFINE_string(name, None, "Of a program that uses the package.")
flags.FLAGS(["program", "--seed=mine"])
print(json.dumps([ours, flags.FLAGS.seed]))
"""


def test_importing_everything_defines_no_flag():
    assert run(EVERYTHING) == [[], "mine"]


@pytest.mark.parametrize("command", ["launch", "evaluate"])
def test_a_command_starts_beside_a_programs_own_flags(command):
    """Twice in one process, in which `--seed` is someone else's."""
    code = (
        "import contextlib, io, json\n"
        "from absl import flags\n"
        "flags.DEFINE_string('seed', 'mine', 'Of the program.')\n"
        f"from timeldm_jax import {command}\n"
        "found = []\n"
        "for _ in range(2):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        try:\n"
        f"            {command}.main(['{command}', '--help'])\n"
        "        except SystemExit as stopped:\n"
        "            found.append([stopped.code, out.getvalue()])\n"
        "print(json.dumps(found))"
    )
    first, second = run(code)
    assert first == second
    assert first[0] == 0
    lines = first[1].splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100


def test_a_checkout_that_is_not_installed_has_an_unknown_version(monkeypatch):
    monkeypatch.setattr(versions, "PACKAGES", ("numpy", "a package of nobody"))
    assert versions.package_versions()["a package of nobody"] == "unknown"
    assert versions.package_versions()["numpy"] == np.__version__
