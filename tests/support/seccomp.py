"""A policy that forbids io_uring, for a process to put itself under."""

from __future__ import annotations

FORBID_URING = """
import ctypes, sys

class Rule(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte),
                ("k", ctypes.c_uint)]

class Program(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("rules", ctypes.POINTER(Rule))]

# Load the call's number; io_uring_setup (425 everywhere) fails with EPERM; all else goes.
rules = (Rule * 4)((0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x50001),
                   (0x06, 0, 0, 0x7FFF0000))
program = Program(4, rules)
libc = ctypes.CDLL(None, use_errno=True)
NO_NEW_PRIVS, SECCOMP, FILTER = 38, 22, 2
if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(SECCOMP, FILTER, ctypes.byref(program)):
    sys.exit(77)
"""
"""Python source, to be run first. It exits with 77 where policies can't be set."""
