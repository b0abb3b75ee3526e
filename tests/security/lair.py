"""A live sandbox for attacks: the shipped supervisor, loop and helper at work, with the test as the model.

Each attack is one `run_command`, so it runs as an agent's command would, beside the very processes that it attacks.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

from agent_runtime.protocol import SOCKET
from tests.contract.job import link_packs, make_job
from tests.unit.runtime.linkserver import LinkServer, Reply, says, tool_use
from workers.sandbox import directory
from workers.sandbox.base import Driver, Kind, SandboxSpec

DEADLINE_S = 60.0
TOOLS = ["run_command", "write_file", "read_file"]
LIMITS = {
    "max_steps": 100_000,
    "wall_clock_s": 3600.0,
    "command_timeout_s": 30.0,
    "max_command_timeout_s": 60.0,
    "output_bytes": 50_000,
}
PRELUDE = Path(__file__).with_name("prelude.py").read_text()

Outcomes = dict[str, str]
"""What an attack tried, by name, and what came of each try: `done`, or the name of the error."""


class Lair:
    """One sandbox. `attack` runs Python inside it, `run` a shell command, `call` any tool."""

    def __init__(self, driver: Driver, run_dir: Path, bundle: Path) -> None:
        self.kind: Kind = driver.kind
        self.path = directory.make(run_dir, directory.new_sandbox_id())
        base = link_packs(run_dir / "repo", self.path / "in/objects/pack")
        self._turns: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self.link = LinkServer(self.path / "link" / SOCKET, make_job(base, TOOLS, LIMITS), [])
        self.link.before = self._before
        self.link.start()
        self.sandbox = driver.start(SandboxSpec(self.path.name, self.path, bundle))
        self._wait_until_idle()

    def attack(self, script: str, **given: Any) -> Outcomes:
        """What a script of `prelude.py`'s words has reported. `given` are constants that it may use."""
        source = "\n".join([PRELUDE, *(f"{name} = {value!r}" for name, value in self._places(given).items()), script])
        output = self.run(f"python3 -I -S - <<'END OF ATTACK'\n{source}\nreport()\nEND OF ATTACK\n")
        return read_report(output)

    def run(self, command: str, timeout_s: float = 30.0) -> str:
        """Output of a command as the model sees it, with its exit code at the end."""
        return self.call("run_command", command=command, timeout_s=timeout_s)

    def call(self, tool: str, **args: Any) -> str:
        self._turns.put(says(tool_use(tool, **args)))
        self._wait_until_idle()
        return self.link.outputs[-1]

    def is_alive(self) -> bool:
        """Whether the loop still asks and commands still run."""
        return self.sandbox.wait(0) is None and "alive\n[exit code 0]" in self.run("echo alive")

    def close(self) -> None:
        self._turns.put(says("Done."))
        self.sandbox.kill()
        self.link.stop()
        self.sandbox.remove()

    def _places(self, given: dict[str, Any]) -> dict[str, Any]:
        """Where things are, as the sandbox sees them."""
        inside = self.kind == "docker"
        link = "/farhand/link" if inside else str(self.path / "link")
        objects = "/farhand/in" if inside else str(self.path / "in")
        work = "/farhand/work" if inside else str(self.path / "work")
        return {"LINK": link, "OBJECTS": objects, "WORK": work, "CONTROL": False, **given}

    def _before(self, path: str) -> None:
        """Called by the link's server before it answers: a model call waits here for the test's next turn."""
        if path == "/v1/messages":
            self._idle.release()
            self.link.script.append(self._turns.get())

    def _wait_until_idle(self) -> None:
        assert self._idle.acquire(timeout=DEADLINE_S), f"the sandbox fell silent: {self.sandbox.wait(0)}"


class Powers:
    """A container with every power that can be given here, in which an attack must get through: so it is a real one.

    Not `--privileged`, which asks for what an engine that itself runs in a container does not have.
    """

    def __init__(self, image: str) -> None:
        open_doors = [f"--security-opt={part}=unconfined" for part in ("seccomp", "apparmor", "systempaths")]
        powers = [f"--cap-add={name}" for name in held_capabilities()]
        kernel = ["--network=none", "--device-cgroup-rule=a *:* rwm"]
        start = ["docker", "run", "--detach", "--rm", *open_doors, *powers, *kernel, image, "sleep", "600"]
        self._container = _run(*start).strip()

    def attack(self, script: str, **given: Any) -> Outcomes:
        places = {"LINK": "/tmp/link", "OBJECTS": "/tmp/objects", "WORK": "/tmp/work", "CONTROL": True, **given}
        constants = [f"{name} = {value!r}" for name, value in places.items()]
        source = "\n".join([PRELUDE, *constants, _STAGE, script, "report()"])
        return read_report(_run("docker", "exec", self._container, "python3", "-I", "-S", "-c", source))

    def close(self) -> None:
        _run("docker", "rm", "--force", self._container)


# What the places of a sandbox are in the privileged container: a listening socket and some writable files.
_STAGE = """
for place in (LINK, OBJECTS + "/objects/pack", WORK):
    os.makedirs(place, exist_ok=True)
if os.path.exists(LINK + "/host.sock"):
    os.unlink(LINK + "/host.sock")
stage = socket.socket(socket.AF_UNIX)
stage.bind(LINK + "/host.sock")
stage.listen()
"""


CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
"""


def held_capabilities() -> list[str]:
    """Names of the capabilities that this machine's root has at most, as the kernel numbers them."""
    status = Path("/proc/self/status").read_text()
    bounding = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), 16)
    return [name for number, name in enumerate(CAPABILITIES.split()) if bounding >> number & 1]


def read_report(output: str) -> Outcomes:
    lines = [line for line in output.splitlines() if line.startswith("REPORT ")]
    assert lines, f"the attack broke off:\n{output}"
    outcomes: Outcomes = json.loads(lines[-1].removeprefix("REPORT "))
    assert outcomes, "the attack tried nothing"
    return outcomes


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
