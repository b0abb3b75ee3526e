"""What no process of a sandbox asks of the kernel: a filter on system calls, on top of the engine's own.

Two doors stand open in the default profile of older engines. Sockets of the family `vsock` belong to no network
namespace: on a virtual machine they reach its host. And `io_uring` does what other system calls do, past every filter
on those. Families of sockets that nobody here needs are closed too: most bugs of the kernel's networking are in them.

A classic BPF program: for each ABI that the processor knows, its number of `socket`, whose first argument must be a
family of `FAMILIES`, and numbers that are refused altogether. What comes by an unknown ABI is refused.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple, Tuple

FAMILIES = (0, 1, 2, 10, 16, 17)  # unspecified, unix, inet, inet6, netlink, packet (which takes a capability)
IO_URING = (425, 426, 427)  # on every processor
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER_MODE = 38, 22, 2

_LOAD_WORD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ABI_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # in the kernel's `struct seccomp_data`
_X32 = 0x40000000  # numbers from here on are those of another ABI with the same name


class Abi(NamedTuple):
    """How the kernel names it, its number of `socket`, and what else is refused."""

    name: int
    socket: int
    refused: tuple[int, ...]


ABIS = {
    # A 32-bit program can also say `socketcall`, whose arguments a filter cannot see.
    "x86_64": (Abi(0xC000003E, 41, IO_URING), Abi(0x40000003, 359, (*IO_URING, 102))),
    "aarch64": (Abi(0xC00000B7, 198, IO_URING), Abi(0x40000028, 281, IO_URING)),
}

Instruction = Tuple[int, int, int, int]
"""Operation, how many to skip if it is true, how many if not, and its operand."""


def restrict() -> None:
    """For this process and all that it starts, for good. Says so where it cannot be done; the engine's filter holds."""
    machine = os.uname().machine
    if machine not in ABIS:
        print(f"farhand: no filter on system calls is known for {machine}", file=sys.stderr)
        return
    try:
        _install(b"".join(struct.pack("=HBBI", *instruction) for instruction in program(ABIS[machine])))
    except (ImportError, OSError, AttributeError) as problem:
        print(f"farhand: system calls cannot be filtered: {problem}", file=sys.stderr)


def program(abis: tuple[Abi, ...]) -> list[Instruction]:
    return [*_parts(abis), (_RETURN, 0, 0, _REFUSE | errno.EPERM)]


def _parts(abis: tuple[Abi, ...]) -> Iterator[Instruction]:
    for abi in abis:
        rules = list(_rules(abi))
        yield _LOAD_WORD, 0, 0, _ABI_AT
        yield _EQUAL, 0, len(rules), abi.name
        yield from rules


def _rules(abi: Abi) -> Iterator[Instruction]:
    yield _LOAD_WORD, 0, 0, _NUMBER_AT
    for number in abi.refused:
        yield _EQUAL, 0, 1, number
        yield _RETURN, 0, 0, _REFUSE | errno.ENOSYS
    yield _AT_LEAST, 0, 1, _X32
    yield _RETURN, 0, 0, _REFUSE | errno.ENOSYS
    yield _EQUAL, 1, 0, abi.socket
    yield _RETURN, 0, 0, _ALLOW
    yield _LOAD_WORD, 0, 0, _FIRST_ARGUMENT_AT
    for family in FAMILIES:
        yield _EQUAL, 0, 1, family
        yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _REFUSE | errno.EAFNOSUPPORT


def _install(code: bytes) -> None:
    import ctypes  # the sandbox works without it, where an image's Python has none

    libc = ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(code, len(code))
    size = len(code) // struct.calcsize("=HBBI")
    fprog = ctypes.create_string_buffer(struct.pack("HL", size, ctypes.addressof(instructions)))
    for call in ((_SET_NO_NEW_PRIVS, 1, 0), (_SET_SECCOMP, _FILTER_MODE, ctypes.addressof(fprog))):
        if libc.prctl(call[0], *(ctypes.c_ulong(value) for value in (*call[1:], 0, 0))) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
