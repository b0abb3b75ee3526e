"""Attacks on files: what the sandbox is given to read, its own system, and the kernel's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.security.lair import Lair

MustStop = Callable[..., None]
DENIED = ("EACCES", "EPERM", "EROFS")


def test_writing_to_the_objects_that_are_shared_with_other_tasks(must_stop: MustStop) -> None:
    """They are hard links to the host's mirror: a change would reach every task of that repository."""
    script = """
packs = OBJECTS + "/objects/pack"
if CONTROL:
    open(packs + "/pack-1.pack", "w").close()
pack = f"{packs}/{sorted(os.listdir(packs))[0]}"
tried("a new pack", lambda: write(packs + "/pack-2.pack"))
tried("alternates", lambda: write(OBJECTS + "/objects/alternates"))
tried("append", lambda: os.close(os.open(pack, os.O_WRONLY | os.O_APPEND)))
tried("truncate", lambda: os.truncate(pack, 0))
tried("chmod", lambda: os.chmod(pack, 0o666))
tried("touch", lambda: os.utime(pack, (0, 0)))
tried("attribute", lambda: os.setxattr(pack, "user.x", b"1"))
tried("remove", lambda: os.unlink(pack))
"""
    must_stop(script, *DENIED, unless=("EOPNOTSUPP",))


def test_writing_to_shared_objects_through_a_hard_link(must_stop: MustStop, lair: Lair) -> None:
    script = """
packs = OBJECTS + "/objects/pack"
if CONTROL:
    open(packs + "/pack-3.pack", "w").close()
pack = f"{packs}/{sorted(os.listdir(packs))[-1]}"
where = f"{WORK if not CONTROL else OBJECTS}/hard-{os.getpid()}"
tried("link", lambda: os.link(pack, where))
tried("write", lambda: os.close(os.open(where, os.O_WRONLY | os.O_APPEND)))
"""
    before = {path: path.read_bytes() for path in (lair.path / "in").rglob("*") if path.is_file()}
    must_stop(script, *DENIED, "EXDEV", "ENOENT")
    assert before == {path: path.read_bytes() for path in before}


def test_writing_to_the_runtime(must_stop: MustStop, lair: Lair, den: Path) -> None:
    """It is one directory for every sandbox of the host."""
    (bundle,) = (path for path in (den / "runtime").iterdir() if path.is_dir())
    runtime = "/farhand/runtime" if lair.kind == "docker" else str(bundle)
    script = """
if CONTROL:
    RUNTIME = "/tmp/runtime"
    os.makedirs(RUNTIME + "/agent_runtime", exist_ok=True)
    open(RUNTIME + "/__main__.py", "w").close()
tried("change", lambda: os.close(os.open(RUNTIME + "/__main__.py", os.O_WRONLY)))
tried("add", lambda: write(RUNTIME + "/agent_runtime/json.py"))
tried("swap", lambda: os.rename(RUNTIME + "/agent_runtime", RUNTIME + "/other"))
tried("swap back", lambda: os.rename(RUNTIME + "/other", RUNTIME + "/agent_runtime"))
tried("chmod", lambda: os.chmod(RUNTIME, 0o777))
"""
    must_stop(script, *DENIED, "ENOENT", RUNTIME=runtime)


def test_changing_the_system_that_it_runs_on(must_stop: MustStop) -> None:
    script = """
for path in ("/etc/passwd", "/etc/ld.so.preload", "/usr/bin/python3.11", "/usr/local/bin/git", "/root/.bashrc"):
    tried(path, lambda: os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)))
tried("a directory at the root", lambda: os.mkdir("/farhand-attack"))
tried("and away", lambda: os.rmdir("/farhand-attack"))
"""
    must_stop(script, *DENIED, "ENOENT", "ETXTBSY", unless=("ENOENT", "ETXTBSY"))


def test_replacing_the_program_of_the_first_process(must_stop: MustStop) -> None:
    """How a container was once left: by overwriting, through /proc, the program that had started it."""
    script = 'against_each("exe", lambda pid: os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY)))'
    must_stop(script, *DENIED, unless=("ETXTBSY",))


def test_making_device_nodes(must_stop: MustStop) -> None:
    script = """
import stat
BLOCK, CHARACTER = stat.S_IFBLK, stat.S_IFCHR
for name, mode, major, minor in (("disk", BLOCK, 8, 0), ("mem", CHARACTER, 1, 1), ("kmsg", CHARACTER, 1, 11)):
    where = f"{WORK}/{name}-{os.getpid()}"
    tried(name, lambda: os.mknod(where, mode | 0o666, os.makedev(major, minor)))
"""
    must_stop(script, *DENIED)


def test_opening_devices_of_the_host(must_stop: MustStop) -> None:
    script = """
for name in ("mem", "kmem", "port", "kmsg", "sda", "vda", "loop0", "fuse", "kvm", "vsock", "vhost-vsock", "net/tun"):
    tried(name, lambda: os.close(os.open("/dev/" + name, os.O_RDWR)))
"""
    # What is not there cannot be opened with all powers either; /dev/kmsg shows that the way is right.
    must_stop(script, *DENIED, "ENOENT", unless=("ENOENT", "ENXIO", "ENODEV", "EBUSY", "EPERM"))


def test_writing_to_the_kernel_s_settings(must_stop: MustStop) -> None:
    script = """
def rewrite(path):
    value = read(path, 1000).decode()
    write(path, value)
for path in ("kernel/core_pattern", "kernel/hostname", "vm/overcommit_memory", "kernel/modprobe", "kernel/panic",
             "fs/file-max", "net/ipv4/ip_forward", "kernel/randomize_va_space"):
    tried(path, lambda: rewrite("/proc/sys/" + path))
"""
    must_stop(script, *DENIED, "ENOENT", unless=("ENOENT", "EPERM"))


def test_pressing_the_magic_system_request_key(must_stop: MustStop) -> None:
    """`h` prints a help text: harmless where it gets through."""
    must_stop('tried("sysrq", lambda: write("/proc/sysrq-trigger", "h"))', *DENIED, "ENOENT", unless=("ENOENT",))


def test_writing_to_sys(must_stop: MustStop) -> None:
    script = """
if CONTROL:
    called(libc.mount(None, b"/sys", None, 0x20, None))  # there it is mounted for reading only
def rewrite(path):
    write(path, read(path, 1000).decode().split("[")[-1].split("]")[0].strip())
for path in ("/sys/kernel/mm/transparent_hugepage/enabled", "/sys/module/printk/parameters/time",
             "/sys/kernel/profiling", "/sys/power/pm_async"):
    tried(path, lambda: rewrite(path))
tried("uevent_helper", lambda: os.close(os.open("/sys/kernel/uevent_helper", os.O_WRONLY)))
"""
    must_stop(script, *DENIED, "ENOENT", unless=("ENOENT", "EINVAL", "EIO", "EEXIST"))


def test_leaving_the_control_group(must_stop: MustStop) -> None:
    script = """
groups = [folder for folder, _, names in os.walk("/sys/fs/cgroup") if "cgroup.procs" in names][:20]
assert groups, "no control groups are mounted here"
def rewrite(name, value):
    return lambda: write(f"{group}/{name}", value)
for group in groups:
    tried(f"{group} procs", rewrite("cgroup.procs", "0"))
    for name in ("release_agent", "notify_on_release", "memory.limit_in_bytes", "pids.max", "cgroup.subtree_control"):
        if os.path.exists(f"{group}/{name}"):
            tried(f"{group} {name}", lambda: write(f"{group}/{name}", read(f"{group}/{name}", 100).decode().strip()))
    tried(f"{group} child", lambda: os.rmdir(os.mkdir(group + "/attack") or group + "/attack"))
"""
    busy = ("EINVAL", "EBUSY", "ENOSPC", "EIO", "EOPNOTSUPP", "ENODEV")
    must_stop(script, *DENIED, unless=(*busy, "EPERM", "EACCES", "EROFS"))


def test_writing_with_a_file_tool_through_a_symlink(lair: Lair) -> None:
    outside = "/tmp/farhand-attack-outside"
    lair.run(f"ln -sfn /tmp way-out; ln -sfn {outside} file-out")
    for path in ("way-out/farhand-attack-outside", "file-out", "../../../../tmp/farhand-attack-outside", outside):
        assert lair.call("write_file", path=path, content="out\n")
    assert "No such file" in lair.run(f"cat {outside} file-out")
    assert "written" in lair.run(f"echo written > {outside}; cat {outside}; rm {outside}"), "the place can be written"


def test_reading_with_a_file_tool_through_a_symlink(lair: Lair) -> None:
    lair.run("ln -sfn /etc/passwd names; ln -sfn /etc etc")
    for path in ("names", "etc/passwd", "/etc/passwd", "../../../../etc/passwd"):
        assert "root:" not in lair.call("read_file", path=path), path
