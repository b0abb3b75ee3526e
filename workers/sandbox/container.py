"""The container of a sandbox: memory, network, capabilities, mounts. Here is said what commands can reach."""

from __future__ import annotations

from typing import Any

from docker.types import LogConfig, Mount, Ulimit

from agent_runtime.bundle import entry_command
from infra.settings import Settings
from workers.sandbox.base import SandboxSpec
from workers.sandbox.directory import Users

LINK = "/farhand/link"
OBJECTS = "/farhand/in"
RUNTIME = "/farhand/runtime"
WORK = "/farhand/work"

DEPLOYMENT_LABEL = "farhand.deployment"
SANDBOX_LABEL = "farhand.sandbox"

CAPABILITIES = ("SETUID", "SETGID", "KILL")
"""What PID 1 needs to be three users and to end what they run. Commands have none: they are not root."""

OPEN_FILES = 16_384
BYTES_PER_INODE = 1024
"""A tmpfs of 1 GiB holds a million files; their inodes count as the container's memory too."""


def container_config(settings: Settings, spec: SandboxSpec, users: Users, deployment: str) -> dict[str, Any]:
    """What `create_container` takes, without its host config."""
    return {
        "image": spec.image or settings.agent_image,
        # The image's own entry point, user and health check would run as root, or be asked for what they do not know.
        "entrypoint": entry_command("python3", RUNTIME, LINK, f"{OBJECTS}/objects", WORK, uids=users),
        "command": [],
        "user": "0:0",
        "working_dir": "/",
        "healthcheck": {"test": ["NONE"]},
        "stop_signal": "SIGTERM",
        "hostname": "sandbox",
        "labels": {DEPLOYMENT_LABEL: deployment, SANDBOX_LABEL: spec.id},
        # No network at all, where "none" is one that the engine sets up, by a process of its own: 150 ms.
        "network_disabled": True,
    }


def host_config(settings: Settings, spec: SandboxSpec, users: Users) -> dict[str, Any]:
    """What `create_host_config` takes. Linux's default seccomp profile holds, as nothing here replaces it."""
    disk, memory = settings.sandbox_disk_bytes, settings.sandbox_memory_bytes
    return {
        "network_mode": "none",  # for an engine that does not know "disabled"
        "ipc_mode": "private",
        "read_only": True,
        "mounts": [
            # Read-only does not keep anybody from connecting to a socket.
            _mount(LINK, str(spec.directory / "link")),
            _mount(OBJECTS, str(spec.directory / "in")),
            _mount(RUNTIME, str(spec.bundle)),
        ],
        "tmpfs": {
            WORK: _tmpfs(disk, f"mode=0700,uid={users.helper},gid={users.helper}"),
            "/tmp": _tmpfs(disk // 2, "mode=1777"),  # noqa: S108  (the container's, not ours)
        },
        "security_opt": ["no-new-privileges:true"],
        "cap_drop": ["ALL"],
        "cap_add": list(CAPABILITIES),
        "mem_limit": memory,
        "memswap_limit": memory,  # the same: no swap
        "pids_limit": settings.sandbox_pids,
        "nano_cpus": int(settings.sandbox_cpus * 1e9),
        "ulimits": [
            Ulimit(name="nofile", soft=OPEN_FILES, hard=OPEN_FILES),
            Ulimit(name="core", soft=0, hard=0),
        ],
        # PID 1 writes only when something is wrong; the end of it becomes `Exit.detail`.
        "log_config": LogConfig(type="json-file", config={"max-size": "64k", "max-file": "1"}),
        "runtime": settings.container_runtime or None,
        "init": False,
        "restart_policy": {"Name": "no"},
    }


def _mount(target: str, source: str) -> Mount:
    return Mount(target=target, source=source, type="bind", read_only=True)


def _tmpfs(size: int, owner: str) -> str:
    return f"rw,exec,nosuid,nodev,size={size},nr_inodes={size // BYTES_PER_INODE},{owner}"
