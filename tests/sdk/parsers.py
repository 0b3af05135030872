# What h11, httptools and llhttp read in bytes: standard input has messages, each behind its length as four bytes,
# little-endian; standard output gets one line of JSON for each, with one reading per parser: the requests that are
# whole, how many bytes stand behind the last of them, and whether the parser gave up.
import json
import struct
import sys

import h11
import httptools
import llhttp


def text(data):
    return bytes(data).decode("latin-1")


class Requests:
    """The requests of one connection, as callbacks tell of them."""

    def __init__(self):
        self.whole = []
        self.begin()

    def begin(self):
        self.method, self.target, self.fields, self.body = "", "", [], ""

    def end(self):
        fields = sorted([name.lower(), value] for name, value in self.fields)
        self.whole.append({"method": self.method, "target": self.target, "fields": fields, "body": self.body})
        self.begin()

    def reading(self, rest, fault):
        return {"requests": self.whole, "rest": rest, "fault": fault}


def with_h11(data):
    found = Requests()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                found.method, found.target = text(event.method), text(event.target)
                found.fields = [[text(name), text(value)] for name, value in event.headers]
            elif isinstance(event, h11.Data):
                found.body += text(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found.end()
                break
            else:
                break
    except h11.RemoteProtocolError as error:
        return found.reading(0, str(error))
    # Of a request that is not whole yet, it keeps what it did not need so far.
    return found.reading(len(connection.trailing_data[0]) if found.whole else 0, None)


class Httptools(Requests):
    """httptools goes on by itself, so it tells of every request it sees."""

    def on_message_begin(self):
        self.begin()

    def on_url(self, url):
        self.target += text(url)

    def on_header(self, name, value):
        self.fields.append([text(name), text(value)])

    def on_body(self, body):
        self.body += text(body)

    def on_message_complete(self):
        self.method = text(self.parser.get_method())
        self.end()


def with_httptools(data):
    found = Httptools()
    found.parser = httptools.HttpRequestParser(found)
    try:
        found.parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        return found.reading(0, str(error) or type(error).__name__)
    return found.reading(0, None)


class Llhttp(llhttp.Request):
    def on_message_begin(self):
        self.found.begin()
        self.value = None

    def on_url(self, url):
        self.found.target += text(url)

    def on_header_field(self, name):
        if self.value is not None:
            self.found.fields.append(["", ""])
            self.value = None
        if not self.found.fields:
            self.found.fields.append(["", ""])
        self.found.fields[-1][0] += text(name)

    def on_header_value(self, value):
        self.value = (self.value or "") + text(value)
        self.found.fields[-1][1] = self.value

    def on_header_value_complete(self):
        self.value = self.value or ""

    def on_body(self, body):
        self.found.body += text(body)

    def on_message_complete(self):
        self.found.method = text(self.method.encode()) if isinstance(self.method, str) else text(self.method)
        self.found.end()
        self.pause()


def with_llhttp(data):
    parser = Llhttp()
    parser.found, parser.value = Requests(), None
    try:
        consumed = parser.execute(data)
    except Exception as error:
        return parser.found.reading(0, f"{type(error).__name__}: {error}")
    return parser.found.reading(len(data) - consumed, None)


def main():
    data, at = sys.stdin.buffer.read(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        message, at = data[at + 4 : at + 4 + length], at + 4 + length
        readings = {"h11": with_h11(message), "httptools": with_httptools(message), "llhttp": with_llhttp(message)}
        print(json.dumps(readings))


main()
