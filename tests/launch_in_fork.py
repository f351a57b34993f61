"""Runs the command many times without importing it again: a server that forks a child a run.

Importing JAX, Orbax and the rest takes seconds, and a test that kills the command twenty times
would spend them twenty times. The server imports everything and starts no JAX backend, so that
each child may fork, start its own, and be killed without harm to the others.

As a script it is the server; `ForkServer` is its client.
"""

import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

LAUNCH = "timeldm_jax.launch"


class ForkServer:
    """A running server, closed by `with`."""

    def __enter__(self):
        # Compilation is most of what a tiny run does, and LLVM's optimisation half of that.
        quickly = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | quickly,
        )
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()

    def start(self, *arguments, log, module=LAUNCH, devices=1):
        """Forks a child that calls `module.run()` with these arguments, and returns it."""
        request = {"argv": list(map(str, arguments)), "log": str(log), "module": module}
        return Child(self, self.ask(start=request | {"devices": devices}), pathlib.Path(log))

    def run(self, *arguments, timeout=300, **options):
        """Starts a child and waits for its end."""
        child = self.start(*arguments, **options)
        child.wait(timeout)
        return child

    def ask(self, **request):
        self._server.stdin.write(json.dumps(request) + "\n")
        return json.loads(self._server.stdout.readline())


class Child:
    """One run of the command."""

    def __init__(self, server, pid, log):
        self._server, self._pid, self._log = server, pid, log
        self.code = None

    def ended(self):
        if self.code is None:
            self.code = self._server.ask(poll=self._pid)
        return self.code is not None

    def wait(self, timeout=300):
        """Exit code, negative for a signal; kills and fails after `timeout` seconds."""
        limit = time.monotonic() + timeout
        while not self.ended():
            if time.monotonic() > limit:
                self.kill()
                raise AssertionError(f"no end after {timeout} s:\n{self.output}")
            time.sleep(0.01)
        return self.code

    def signal(self, number):
        if not self.ended():
            os.kill(self._pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.wait()

    @property
    def output(self):
        return self._log.read_text()


def serve():
    """Answers one JSON request a line: start a child, or ask whether one has ended."""
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            child = os.fork()
            if child == 0:
                return request["start"]
            answer = child
        else:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)
    return None


def become(request):
    """Turns a forked child into the command."""
    import jax

    with open(request["log"], "w") as log, open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    jax.config.update("jax_num_cpu_devices", request["devices"])
    sys.argv = [request["module"], *request["argv"]]
    importlib.import_module(request["module"]).run()


if __name__ == "__main__":
    from jax._src import xla_bridge

    # The command, and what it imports on its way.
    for name in (LAUNCH, "timeldm_jax.report.page", "tensorboardX"):
        importlib.import_module(name)
    import quick

    from timeldm_jax.metrics import context_fid

    context_fid.ENCODER = quick.ENCODER
    assert not xla_bridge.backends_are_initialized(), "a backend does not survive a fork"
    if command := serve():
        become(command)
