"""localstripe on 127.0.0.1 and a free port, which is printed; what it holds stays in memory."""

import socket

from aiohttp import web
from localstripe.resources import store
from localstripe.server import app

# It saves everything to one file in /tmp after each change, and tests run side by side.
store.dump_to_disk = lambda: None

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print("%s:%d" % listener.getsockname(), flush=True)
web.run_app(app, sock=listener, print=None)
