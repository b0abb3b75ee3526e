"""Attacks on the link: the socket through which the loop, and nobody else, speaks with the worker."""

from __future__ import annotations

from collections.abc import Callable

MustStop = Callable[..., None]
DENIED = ("EACCES", "EPERM")


def test_connecting_by_its_path(must_stop: MustStop) -> None:
    must_stop('tried("connect", lambda: connect(LINK + "/host.sock"))', *DENIED)


def test_connecting_by_a_relative_path_after_entering_the_directory(must_stop: MustStop) -> None:
    script = """
def enter():
    os.chdir(LINK)
    connect("host.sock")
def enter_by_handle():
    os.fchdir(os.open(LINK, os.O_PATH))
    connect("host.sock")
tried("chdir", enter)
tried("fchdir", enter_by_handle)
os.chdir("/")
"""
    must_stop(script, *DENIED)


def test_connecting_through_a_handle_on_the_directory(must_stop: MustStop) -> None:
    """The handle itself can be had: it needs no right on the directory, and gives none."""
    script = """
handle = os.open(LINK, os.O_PATH)
tried("through the handle", lambda: connect(f"/proc/self/fd/{handle}/host.sock"))
tried("the socket's own handle", lambda: connect(f"/proc/self/fd/{os.open('host.sock', os.O_PATH, dir_fd=handle)}"))
"""
    must_stop(script, *DENIED)


def test_connecting_through_a_symlink(must_stop: MustStop) -> None:
    script = """
for target in ("", "/host.sock"):
    where = f"{WORK}/way-{os.getpid()}-{len(target)}"
    os.symlink(LINK + target, where)
    tried(f"by a link to {target or 'the directory'}", lambda: connect(where + "/host.sock"[len(target):]))
    os.unlink(where)
"""
    must_stop(script, *DENIED)


def test_connecting_through_the_root_of_another_process(must_stop: MustStop) -> None:
    script = """
for name in ("root", "cwd"):
    against_each(name, lambda pid: connect(f"/proc/{pid}/{name}{os.path.abspath(LINK)}/host.sock"))
"""
    must_stop(script, *DENIED, unless=("ENOENT",))


def test_connecting_by_an_abstract_name(must_stop: MustStop) -> None:
    """There is none to guess; another process of the same sandbox shows that the attack would find one."""
    script = """
own = socket.socket(socket.AF_UNIX)
own.bind("\\0own")
own.listen()
connect("\\0own")
for name in ("host.sock", LINK + "/host.sock", "farhand", "link"):
    tried(name, lambda: connect("\\0" + name))
"""
    must_stop(script, "ECONNREFUSED", control=False)


def test_watching_what_happens_there(must_stop: MustStop) -> None:
    script = """
watch = called(libc.inotify_init())
tried("inotify on the directory", lambda: called(libc.inotify_add_watch(watch, LINK.encode(), 0xFFF)))
tried("inotify on the socket", lambda: called(libc.inotify_add_watch(watch, (LINK + "/host.sock").encode(), 0xFFF)))
tried("listing", lambda: os.listdir(LINK))
tried("fanotify", lambda: os.close(called(libc.fanotify_init(0, 0))))
"""
    must_stop(script, *DENIED)


def test_replacing_the_socket(must_stop: MustStop) -> None:
    script = """
def impostor():
    socket.socket(socket.AF_UNIX).bind(LINK + "/other.sock")
tried("bind beside it", impostor)
tried("rename it", lambda: os.rename(LINK + "/host.sock", LINK + "/gone"))
tried("rename it back", lambda: os.rename(LINK + "/gone", LINK + "/host.sock"))
tried("rename the directory", lambda: os.rename(LINK, LINK + "-gone"))
tried("rename the directory back", lambda: os.rename(LINK + "-gone", LINK))
tried("remove another", lambda: os.unlink(LINK + "/other.sock"))
tried("chmod", lambda: os.chmod(LINK, 0o777))
tried("chown", lambda: os.chown(LINK, os.getuid(), -1))
"""
    must_stop(script, *DENIED, "EROFS", "ENOENT")


def test_naming_it_elsewhere_by_a_hard_link(must_stop: MustStop) -> None:
    script = """
where = f"{WORK}/hard-{os.getpid()}"
tried("link", lambda: os.link(LINK + "/host.sock", where))
tried("connect", lambda: connect(where))
"""
    must_stop(script, *DENIED, "EXDEV", "ENOENT")


def test_mounting_something_over_it(must_stop: MustStop) -> None:
    script = """
tried("tmpfs", lambda: called(libc.mount(b"none", LINK.encode(), b"tmpfs", 0, None)))
tried("unmount", lambda: called(libc.umount2(LINK.encode(), 2)))
"""
    must_stop(script, *DENIED)
