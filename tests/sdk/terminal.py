"""Runs a command on a terminal of its own, types Ctrl-C, and ends it; the command is to count SIGINT.

Usage: terminal.py COMMAND...    Prints its last two words.
"""

import os
import pty
import signal
import sys

pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])


def read_until(word):
    text = b""
    while word not in text:
        text += os.read(terminal, 1024)
    return text


read_until(b"ready")
os.write(terminal, b"\x03")
read_until(b"interrupted")
os.kill(pid, signal.SIGTERM)
print(read_until(b"end").decode().split()[-2:])
os.waitpid(pid, 0)
