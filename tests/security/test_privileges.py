"""Attacks that ask the kernel for more power than a command has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.security.lair import Lair

MustStop = Callable[..., None]
DENIED = ("EACCES", "EPERM")


def test_becoming_another_user(must_stop: MustStop) -> None:
    script = """
tried("root", in_child(lambda: (os.setuid(12), os.setuid(0)) if not CONTROL else os.setuid(0)))
tried("the loop", in_child(lambda: os.setresuid(61001, 61001, 61001)))
tried("group root", in_child(lambda: os.setgid(0)))
tried("more groups", in_child(lambda: os.setgroups([0, 61001])))
"""
    must_stop(script, *DENIED)


def test_setuid_programs_of_the_image(lair: Lair) -> None:
    """`no new privileges`: they run, as whoever started them. In `local`, su asks for a password that is not there."""
    for command in ("su -c 'id -u' root", "newgrp root", "mount -t tmpfs none /mnt"):
        said = lair.run(f"{command} < /dev/null")
        assert "[exit code 0]" not in said, said
        assert "not found" not in said, said
    if lair.kind == "docker":
        assert "NoNewPrivs:\t1" in lair.run("cat /proc/self/status")


def test_a_setuid_shell_of_its_own(lair: Lair) -> None:
    for place in ("/tmp", "."):
        shell = f"{place}/farhand-attack-shell"
        said = lair.run(f"cp /bin/sh {shell} && chmod 6755 {shell} && {shell} -pc 'id -u; id -g'; rm -f {shell}")
        own = lair.run("id -u; id -g")
        assert said == own, said
        assert not own.startswith("0")


def test_giving_a_program_capabilities(must_stop: MustStop) -> None:
    script = """
tool = f"{WORK}/tool-{os.getpid()}"
open(tool, "w").close()
everything = struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0)
tried("setcap", lambda: os.setxattr(tool, "security.capability", everything))
"""
    must_stop(script, *DENIED, unless=("EOPNOTSUPP",))


def test_a_user_namespace_in_which_it_is_root(must_stop: MustStop) -> None:
    script = """
USER, NET, MOUNT = 0x10000000, 0x40000000, 0x00020000
tried("user", in_child(lambda: called(libc.unshare(USER))))
tried("user and network", in_child(lambda: called(libc.unshare(USER | NET))))
tried("mount", in_child(lambda: called(libc.unshare(MOUNT))))
def clone3():
    arguments = (ctypes.c_uint64 * 8)(USER, 0, 0, 0, int(signal.SIGCHLD), 0, 0, 0)
    child = syscall(435, 435, ctypes.byref(arguments), 64)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
tried("by clone3", clone3)
"""
    must_stop(script, *DENIED, "ENOSYS")


def test_mounting_and_unmounting(must_stop: MustStop) -> None:
    script = """
os.makedirs("/tmp/spot", exist_ok=True)
spot = b"/tmp/spot"
tried("tmpfs", lambda: called(libc.mount(b"none", spot, b"tmpfs", 0, None)))
tried("proc", lambda: called(libc.mount(b"none", spot, b"proc", 0, None)))
tried("bind", lambda: called(libc.mount(b"/proc", spot, None, 0x1000, None)))
tried("unmount", lambda: called(libc.umount2(spot, 2)))
tried("remount the root", lambda: called(libc.mount(None, b"/proc", None, 0x20 | 0x1000, None)))
tried("open a tree", lambda: os.close(syscall(428, 428, -100, b"/proc", 1)))
tried("a new file system", lambda: os.close(syscall(430, 430, b"tmpfs", 0)))
"""
    must_stop(script, *DENIED, "ENOSYS", unless=("EINVAL",))


def test_another_root(must_stop: MustStop) -> None:
    script = """
os.makedirs("/tmp/root/old", exist_ok=True)
tried("chroot", in_child(lambda: os.chroot("/tmp/root")))
tried("pivot_root", in_child(lambda: syscall(155, 41, b"/tmp/root", b"/tmp/root/old")))
"""
    must_stop(script, *DENIED, unless=("EINVAL", "EBUSY"))


def test_opening_files_by_their_handle(must_stop: MustStop) -> None:
    """The way past every mount: inode 2 of the host's disk is its root."""
    script = """
class Handle(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("bytes", ctypes.c_char * 8)]
root = Handle(8, 1, struct.pack("<II", 2, 0))
tried("handle", lambda: os.close(syscall(304, 265, os.open("/", os.O_RDONLY), ctypes.byref(root), 0)))
"""
    must_stop(script, *DENIED, unless=("ESTALE", "EOPNOTSUPP", "EINVAL"))


def test_the_kernel_s_keyrings(must_stop: MustStop) -> None:
    """They belong to users, not to containers: two sandboxes of the same user would share one."""
    script = """
USER_RING, SESSION_RING = -4, -3
tried("store", lambda: syscall(248, 217, b"user", b"farhand-attack", b"x", 1, USER_RING))
tried("search", lambda: syscall(250, 219, 10, USER_RING, b"user", b"farhand-attack", 0))
tried("join", lambda: syscall(250, 219, 1, 0))
tried("request", lambda: syscall(249, 218, b"user", b"farhand-attack", 0, SESSION_RING))
"""
    must_stop(script, *DENIED, unless=("ENOKEY",))


def test_programs_in_the_kernel(must_stop: MustStop) -> None:
    script = """
def make_map():
    request = (ctypes.c_uint32 * 32)(2, 4, 4, 1)  # an array of one number
    os.close(syscall(321, 280, 0, ctypes.byref(request), 128))
tried("bpf", make_map)
"""
    must_stop(script, *DENIED)


def test_watching_the_kernel_s_counters(must_stop: MustStop) -> None:
    script = """
request = (ctypes.c_uint32 * 32)(1, 128)  # the software clock
tried("of all processes", lambda: os.close(syscall(298, 241, ctypes.byref(request), -1, 0, -1, 0)))
"""
    must_stop(script, *DENIED, unless=("ENOSYS",))


def test_rings_of_system_calls(must_stop: MustStop) -> None:
    """io_uring does what other system calls do, past the filters on those."""
    script = """
parameters = (ctypes.c_uint32 * 64)()
tried("io_uring", lambda: os.close(syscall(425, 425, 4, ctypes.byref(parameters))))
"""
    must_stop(script, *DENIED, "ENOSYS", unless=("ENOSYS",))


def test_catching_the_kernel_s_page_faults(must_stop: MustStop) -> None:
    script = 'tried("userfaultfd", lambda: os.close(syscall(323, 282, 0)))'
    must_stop(script, *DENIED, "ENOSYS", unless=("ENOSYS",))


def test_another_kernel_or_modules_in_this_one(must_stop: MustStop) -> None:
    """With all powers none of these does anything either: what they name does not exist."""
    script = """
tried("kexec", lambda: syscall(246, 104, 0, 0, 0, 0))
tried("a module", lambda: syscall(175, 105, b"junk", 4, b""))
tried("a module from a file", lambda: syscall(313, 273, os.open("/proc/self/status", os.O_RDONLY), b"", 0))
tried("no module", lambda: syscall(176, 106, b"farhand-no-such-module", 0))
"""
    must_stop(script, *DENIED, "ENOSYS", unless=("ENOSYS", "ENOEXEC", "ENOENT", "EINVAL"))


def test_restarting_the_machine(must_stop: MustStop) -> None:
    """Only the setting of Ctrl-Alt-Del is asked for, to which the same guard belongs."""
    script = 'tried("reboot", lambda: syscall(169, 142, 0xFEE1DEAD, 672274793, 0, 0))'
    must_stop(script, *DENIED, unless=("EINVAL",))


def test_setting_the_clock(must_stop: MustStop) -> None:
    script = """
tried("clock", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
tried("slew", lambda: called(libc.adjtime((ctypes.c_long * 2)(0, 0), None)))
"""
    must_stop(script, *DENIED)


def test_renaming_the_host_and_other_acts_of_its_administrator(must_stop: MustStop) -> None:
    script = """
name = socket.gethostname().encode()
tried("name", lambda: called(libc.sethostname(name, len(name))))
tried("domain", lambda: called(libc.setdomainname(b"(none)", 6)))
tried("accounting", lambda: called(libc.acct(None)))
tried("swap", lambda: called(libc.swapoff(b"/proc/self/status")))
tried("kernel log", lambda: called(libc.klogctl(3, ctypes.create_string_buffer(100), 100)))
tried("terminal", lambda: called(libc.vhangup()))
"""
    must_stop(script, *DENIED, unless=("EINVAL", "ENOSYS"))


def test_the_processor_s_ports(must_stop: MustStop) -> None:
    script = """
tried("ioperm", lambda: syscall(173, 0, 0x80, 1, 1) if not ARM else os.kill(1, 0))
tried("iopl", lambda: syscall(172, 0, 3) if not ARM else os.kill(1, 0))
"""
    must_stop(script, *DENIED, "ENOSYS", unless=("ENOSYS",))


@pytest.mark.usefixtures("only_docker")
def test_what_a_command_is_left_with(lair: Lair) -> None:
    """No capability at all, none to be had, and a filter on system calls."""
    status = dict(line.split(":\t") for line in lair.run("cat /proc/self/status").splitlines() if ":\t" in line)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
