"""The launchers of launch/, run against stand-ins for gcloud, srun and scontrol."""

import dataclasses
import os
import pathlib
import re
import subprocess
import tarfile

import pytest
import yaml

from timeldm_jax import launch

ROOT = pathlib.Path(__file__).resolve().parents[1]
TPU_POD = ROOT / "launch" / "tpu_pod.sh"
SLURM = ROOT / "launch" / "slurm.sbatch"
GKE = ROOT / "launch" / "gke_jobset.yaml"

# Appends its name and arguments to $CALLS, each ended by a unit separator and the call by a record
# separator, and runs a body of its own.
STAND_IN = r"""#!/usr/bin/env bash
{ printf '%s\037' "${0##*/}" "$@"; printf '\036'; } >> "$CALLS"
"""


@dataclasses.dataclass
class Sandbox:
    """A PATH on which some commands are stand-ins that record their calls."""

    folder: pathlib.Path

    def stand_in(self, name: str, body: str = "") -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(STAND_IN + body)
        path.chmod(0o755)

    def run(self, *command: str | pathlib.Path, **variables: str) -> subprocess.CompletedProcess:
        environment = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "CALLS": str(self.folder / "calls"),
            **variables,
        }
        return subprocess.run(
            ["bash", *map(str, command)],
            env=environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def calls(self) -> list[list[str]]:
        file = self.folder / "calls"
        text = file.read_text() if file.exists() else ""
        return [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]


@pytest.fixture
def sandbox(tmp_path: pathlib.Path) -> Sandbox:
    return Sandbox(tmp_path)


def flags_of(command: list[str]) -> dict[str, str | None]:
    """The flags of a `python -m timeldm_jax.launch ...`; fails if it is anything else."""
    assert command[:3] == ["python", "-m", "timeldm_jax.launch"]
    flags = {}
    for argument in command[3:]:
        match = re.fullmatch(r"--(\w+)(?:=(.*))?", argument)
        assert match, f"not a flag: {argument!r}"
        flags[match[1]] = match[2]
    return flags


def tpu_flags(name: str = "slice", workdir: str = "gs://bucket/run") -> list[str]:
    return [
        f"--name={name}",
        "--zone=zone-b",
        "--project=project",
        "--config=configs/etth.py:paper",
        f"--workdir={workdir}",
    ]


# Keeps the archive that scp is given, writes each ssh command to a file, and runs the launch among
# them as a worker's shell would, with a recording python. The step named in FAIL fails with 7.
GCLOUD = """
for argument; do
  case $argument in
    --command=*) command=${argument#--command=} ;;
    *.tar.gz) [ -f "$argument" ] && cp "$argument" "$HOME/archive.tar.gz" ;;
  esac
done
case "$4 ${command:-}" in
  scp*) step=scp ;;
  *timeldm_jax.launch*)
    step=launch
    mkdir -p "$HOME/timeldm/.venv/bin"
    touch "$HOME/timeldm/.venv/bin/activate"
    cd "$HOME" && bash -c "$command"
    ;;
  *) step=setup; printf '%s' "$command" > "$HOME/setup.sh" ;;
esac
[ "$step" != "${FAIL:-}" ] || exit 7
"""


class TestTpuPod:
    @pytest.fixture
    def sandbox(self, sandbox: Sandbox) -> Sandbox:
        sandbox.stand_in("gcloud", GCLOUD)
        sandbox.stand_in("python")
        return sandbox

    def test_copies_installs_and_launches_on_all_workers(self, sandbox: Sandbox):
        result = sandbox.run(TPU_POD, *tpu_flags())
        assert result.returncode == 0, result.stderr
        steps = [call for call in sandbox.calls if call[0] == "gcloud"]
        assert [call[4] for call in steps] == ["scp", "ssh", "ssh"]
        for call in steps:
            assert {"--zone=zone-b", "--project=project", "--worker=all"} <= set(call)
        with tarfile.open(sandbox.folder / "archive.tar.gz") as archive:
            names = archive.getnames()
        assert "pyproject.toml" in names
        assert "timeldm_jax/__init__.py" in names
        assert not [name for name in names if "__pycache__" in name]

    def test_worker_setup_is_a_valid_script(self, sandbox: Sandbox):
        sandbox.run(TPU_POD, *tpu_flags())
        script = sandbox.folder / "setup.sh"
        assert sandbox.run("-n", script).returncode == 0
        assert "pip install" in script.read_text()

    def test_launches_with_the_flags_given(self, sandbox: Sandbox):
        workdir = "gs://bucket/a b'c"
        flags = [*tpu_flags(workdir=workdir), "--skip_setup", "--", "--config.vae.steps=2 000"]
        assert sandbox.run(TPU_POD, *flags).returncode == 0
        gcloud, python = sandbox.calls
        assert gcloud[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "slice"]
        assert python == [
            *("python", "-m", "timeldm_jax.launch"),
            "--config=configs/etth.py:paper",
            f"--workdir={workdir}",
            "--distributed",
            "--config.vae.steps=2 000",
        ]

    def test_takes_variables_in_place_of_flags(self, sandbox: Sandbox):
        result = sandbox.run(
            TPU_POD,
            "--skip_setup",
            TPU_NAME="slice",
            TPU_ZONE="z",
            TPU_PROJECT="p",
            CONFIG="configs/sines.py",
            WORKDIR="gs://b/run",
        )
        assert result.returncode == 0, result.stderr
        assert flags_of(sandbox.calls[-1])["config"] == "configs/sines.py"

    @pytest.mark.parametrize(("step", "calls"), [("scp", 1), ("setup", 2), ("launch", 3)])
    def test_a_failed_step_ends_the_run_with_its_code(self, sandbox: Sandbox, step, calls):
        assert sandbox.run(TPU_POD, *tpu_flags(), FAIL=step).returncode == 7
        assert len([call for call in sandbox.calls if call[0] == "gcloud"]) == calls

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (tpu_flags()[1:], "--name is missing"),
            (tpu_flags(workdir="runs/local"), "must be on gs://"),
            ([*tpu_flags(), "--wrokdir=x"], "unknown flag --wrokdir=x"),
        ],
    )
    def test_wrong_usage_is_refused_before_anything_runs(self, sandbox: Sandbox, flags, message):
        result = sandbox.run(TPU_POD, *flags)
        assert result.returncode == 2
        assert message in result.stderr
        assert sandbox.calls == []

    def test_help_names_every_flag(self, sandbox: Sandbox):
        result = sandbox.run(TPU_POD, "--help")
        assert result.returncode == 0
        for flag in ["name", "zone", "project", "config", "workdir", "skip_setup"]:
            assert f"--{flag}" in result.stdout


class TestSlurm:
    def submit(self, sandbox: Sandbox, code: int = 0, **variables: str):
        sandbox.stand_in("srun", f"exit {code}")
        sandbox.stand_in("scontrol")
        job = {
            "SLURM_JOB_ID": "42",
            "SLURM_SUBMIT_DIR": str(sandbox.folder),
            "CONFIG": "configs/etth.py",
            "WORKDIR": "/shared/a run",
        }
        return sandbox.run(SLURM, **(job | variables))

    def test_launches_with_the_flags_given(self, sandbox: Sandbox):
        assert self.submit(sandbox).returncode == 0
        [[srun, kill, *command]] = sandbox.calls
        assert (srun, kill) == ("srun", "--kill-on-bad-exit=1")
        assert flags_of(command) == {
            "config": "configs/etth.py",
            "workdir": "/shared/a run",
            "distributed": None,
        }

    @pytest.mark.parametrize("code", [1, 134, 137])
    def test_a_failed_process_fails_the_job(self, sandbox: Sandbox, code):
        assert self.submit(sandbox, code).returncode == code
        assert [call[0] for call in sandbox.calls] == ["srun"]

    def test_a_preempted_job_goes_back_into_the_queue(self, sandbox: Sandbox):
        assert self.submit(sandbox, 143).returncode == 143
        assert sandbox.calls[1:] == [["scontrol", "requeue", "42"]]

    def test_requeues_are_bounded(self, sandbox: Sandbox):
        result = self.submit(sandbox, 143, SLURM_RESTART_COUNT="5", MAX_REQUEUES="5")
        assert result.returncode == 143
        assert [call[0] for call in sandbox.calls] == ["srun"]

    @pytest.mark.parametrize("variable", ["CONFIG", "WORKDIR"])
    def test_a_missing_variable_is_named(self, sandbox: Sandbox, variable):
        result = self.submit(sandbox, **{variable: ""})
        assert result.returncode != 0
        assert f"{variable}: is missing" in result.stderr
        assert sandbox.calls == []

    def test_directives(self):
        directives = dict(re.findall(r"(?m)^#SBATCH --([\w-]+)(?:=(\S+))?", SLURM.read_text()))
        assert "requeue" in directives
        assert re.fullmatch(r"TERM@\d+", directives["signal"])  # to the steps: no B:
        assert directives["ntasks-per-node"] == directives["gpus-per-node"]
        assert directives["open-mode"] == "append"  # a requeued job keeps its log


class TestGke:
    @pytest.fixture
    def jobset(self) -> dict:
        return yaml.safe_load(GKE.read_text())

    @pytest.fixture
    def job(self, jobset: dict) -> dict:
        [replicated] = jobset["spec"]["replicatedJobs"]
        return replicated["template"]["spec"]

    def test_launches_with_the_flags_of_the_other_launchers(self, job: dict):
        [container] = job["template"]["spec"]["containers"]
        flags = flags_of(container["command"] + container["args"])
        assert flags.keys() == {"config", "workdir", "distributed"}
        assert flags["config"].startswith("configs/")
        assert flags["workdir"].startswith("gs://")
        assert flags["distributed"] is None

    def test_one_failed_pod_fails_the_job(self, job: dict):
        assert job["backoffLimit"] == 0
        assert job["template"]["spec"]["restartPolicy"] == "Never"
        assert job["parallelism"] == job["completions"]
        assert job["completionMode"] == "Indexed"

    def test_preemption_restarts_without_counting(self, jobset: dict, job: dict):
        policy = jobset["spec"]["failurePolicy"]
        assert policy["maxRestarts"] > 0
        [rule] = policy["rules"]
        assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
        exit_codes, disruption = job["podFailurePolicy"]["rules"]
        assert exit_codes["onExitCodes"]["values"] == [143]
        [container] = job["template"]["spec"]["containers"]
        assert exit_codes["onExitCodes"]["containerName"] == container["name"]
        assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert job["template"]["spec"]["terminationGracePeriodSeconds"] >= 60


def test_the_launchers_use_flags_that_exist():
    known = set(launch.define_flags(["launch"]))
    for flag in ["config", "workdir", "distributed"]:
        assert flag in known
