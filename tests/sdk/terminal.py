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
# While it is stopped it passes nothing on: two signals that came together would count as one.
os.kill(pid, signal.SIGSTOP)
os.waitpid(pid, os.WUNTRACED)
os.write(terminal, b"\x03")
read_until(b"interrupted")
# Both are pending when it goes on, and it takes SIGINT first.
os.kill(pid, signal.SIGTERM)
os.kill(pid, signal.SIGCONT)
print(read_until(b"end").decode().split()[-2:])
os.waitpid(pid, 0)
