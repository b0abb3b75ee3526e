"""Attacks on the processes that hold the link: the supervisor, who is root, and the loop."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest

from tests.security.lair import Lair

MustStop = Callable[..., None]
_NO_RAISE = "not allowed to raise maximum limit"
DENIED = ("EACCES", "EPERM")


def test_reading_their_environment(must_stop: MustStop) -> None:
    must_stop('against_each("environ", lambda pid: read(f"/proc/{pid}/environ"))', *DENIED)


def test_reading_their_memory_through_proc(must_stop: MustStop) -> None:
    script = """
def peek(pid):
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        memory.seek(ctypes.addressof(libc_word))
        memory.read(8)
libc_word = ctypes.c_long(7)
against_each("mem", peek)
for name in ("maps", "smaps", "auxv", "pagemap", "numa_maps"):
    against_each(name, lambda pid: read(f"/proc/{pid}/{name}"))
"""
    must_stop(script, *DENIED)


def test_opening_their_descriptors(must_stop: MustStop) -> None:
    script = """
against_each("fd", lambda pid: os.listdir(f"/proc/{pid}/fd"))
against_each("fd 0", lambda pid: os.close(os.open(f"/proc/{pid}/fd/0", os.O_RDONLY)))
against_each("fdinfo", lambda pid: os.listdir(f"/proc/{pid}/fdinfo"))
"""
    must_stop(script, *DENIED)


def test_entering_their_root_and_working_directory(must_stop: MustStop) -> None:
    script = """
for name in ("root", "cwd"):
    against_each(name, lambda pid: os.listdir(f"/proc/{pid}/{name}/"))
against_each("exe", lambda pid: os.close(os.open(f"/proc/{pid}/exe", os.O_RDONLY)))
"""
    must_stop(script, *DENIED)


def test_attaching_with_ptrace(must_stop: MustStop) -> None:
    script = """
ATTACH, SEIZE, DETACH = 16, 0x4206, 17
def trace(how):
    def attach(pid):
        syscall(101, 117, how, pid, 0, 0)
        os.waitpid(pid, os.WNOHANG)
    return attach
against_each("attach", trace(ATTACH))
against_each("seize", trace(SEIZE))
"""
    must_stop(script, *DENIED)


def test_reading_and_writing_their_memory_by_system_call(must_stop: MustStop) -> None:
    script = """
word = (ctypes.c_char * 8)()
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
def copy(call):
    here, there = Piece(ctypes.addressof(word), 8), Piece(ctypes.addressof(word), 8)
    return lambda pid: called(call(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
against_each("read", copy(libc.process_vm_readv))
against_each("write", copy(libc.process_vm_writev))
"""
    must_stop(script, *DENIED)


def test_taking_their_descriptors_by_pidfd(must_stop: MustStop) -> None:
    script = """
def take(pid):
    handle = syscall(434, 434, pid, 0)
    syscall(438, 438, handle, 0, 0)
against_each("pidfd_getfd", take)
"""
    must_stop(script, *DENIED)


def test_sending_them_signals(must_stop: MustStop) -> None:
    script = """
against_each("kill", lambda pid: os.kill(pid, signal.SIGCONT))
against_each("tgkill", lambda pid: syscall(234, 131, pid, pid, int(signal.SIGCONT)))
against_each("pidfd", lambda pid: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGCONT))
"""
    must_stop(script, *DENIED)


def test_changing_their_limits_and_their_priority(must_stop: MustStop) -> None:
    script = """
import resource
against_each("limit", lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3)))
against_each("nice", lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19))
against_each("affinity", lambda pid: os.sched_setaffinity(pid, {0}))
against_each("batch", lambda pid: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0)))
against_each("first to die", lambda pid: write(f"/proc/{pid}/oom_score_adj", "1000"))
"""
    must_stop(script, *DENIED)


def test_raising_its_own_priority_and_being_spared_when_memory_runs_out(must_stop: MustStop) -> None:
    script = """
import resource
tried("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -10))
tried("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
tried("spared", lambda: write("/proc/self/oom_score_adj", "-1000"))
tried("core dumps", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30)))
tried("open files", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100_000, 100_000)))
"""
    # Some need more powers than this machine's root may have; the first shows that the attack is real.
    must_stop(script, *DENIED, _NO_RAISE, unless=("EPERM", "EACCES", _NO_RAISE))


def test_entering_their_namespaces(must_stop: MustStop) -> None:
    script = """
def enter(pid):
    handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    called(libc.setns(handle, 0))
against_each("setns", enter)
def enter_by_pidfd(pid):
    called(libc.setns(os.pidfd_open(pid), 0x40000000))
against_each("setns by pidfd", enter_by_pidfd)
"""
    must_stop(script, *DENIED)


def test_inheriting_a_descriptor_of_theirs(lair: Lair) -> None:
    outcomes = lair.attack("""
for name in os.listdir("/proc/self/fd"):
    try:
        OUTCOMES[name] = os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:  # the listing itself
        continue
""")
    assert {"0", "1", "2"} <= outcomes.keys()
    strange = {place for name, place in outcomes.items() if int(name) > 2}
    assert strange == set(), outcomes
    assert not any(place.startswith("socket:") for place in outcomes.values()), outcomes


def test_searching_all_that_can_be_read_for_secrets_of_the_worker(lair: Lair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret is in the worker's environment. The script knows it reversed, so that it does not find itself."""
    secret, decoy = secrets.token_hex(), secrets.token_hex()
    monkeypatch.setenv("FARHAND_SECRET_KEYS", secret)
    outcomes = lair.attack(
        """
import subprocess
wanted = {"secret": SECRET[::-1].encode(), "decoy": DECOY[::-1].encode()}
subprocess.Popen(["sleep", "20"], env={"X": DECOY[::-1]}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
places = [f"/proc/{pid}/{name}" for pid in pids() for name in ("environ", "cmdline", "status")]
for top in TOPS or [os.path.dirname(LINK)]:
    for folder, folders, names in os.walk(top):
        places += [os.path.join(folder, name) for name in names]
for place in places:
    try:
        if os.path.isfile(place):
            found = read(place, 1 << 18)
            OUTCOMES["read"] = str(int(OUTCOMES.get("read", "0")) + 1)
            OUTCOMES.update({what: place for what, word in wanted.items() if word in found})
    except OSError:
        continue
""",
        SECRET=secret[::-1],
        DECOY=decoy[::-1],
        TOPS=["/farhand", "/run", "/etc", "/tmp", "/var/lib", "/root", "/home", "/dev/shm"]
        if lair.kind == "docker"
        else [],
    )
    assert "secret" not in outcomes, outcomes
    assert outcomes["decoy"].startswith("/proc/"), outcomes
    assert int(outcomes["read"]) > (100 if lair.kind == "docker" else 10)


@pytest.mark.usefixtures("only_docker")
def test_killing_all_that_can_be_killed_costs_only_the_helper(lair: Lair) -> None:
    assert "was killed" in lair.run("kill -9 -1; echo unreachable")
    assert lair.is_alive()
