"""Conversations with a TLS server that keep the rules and break them, by tlslite-ng.

Usage: tls-audit.py HOST PORT    The server answers `GET /livez` with 200. One line a conversation; exit status 1 if one
ends in another way than it must.
"""

import socket
import sys

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.errors import TLSRemoteAlert
from tlslite.messages import Message

HOST, PORT = sys.argv[1], int(sys.argv[2])
# A server that is silent for so long waits for more.
SILENCE_S = 5
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
TLS12, TLS13 = (3, 3), (3, 4)
HANDSHAKE, ALERT, CCS, DATA, HEARTBEAT = 22, 21, 20, 23, 24


def tcp():
    return socket.create_connection((HOST, PORT), timeout=SILENCE_S)


def connect(version, **settings):
    sock = tcp()
    tls = TLSConnection(sock)
    wanted = HandshakeSettings()
    wanted.minVersion = wanted.maxVersion = version
    for name, value in settings.pop("settings", {}).items():
        setattr(wanted, name, value)
    tls.closeSocket = True
    tls.handshakeClientCert(settings=wanted, serverName="localhost", alpn=[b"http/1.1"], **settings)
    return tls


def send(tls, kind, payload):
    for _ in tls._recordLayer.sendRecord(Message(kind, bytearray(payload))):
        pass


def replies(tls, count=1):
    """Statuses of so many replies."""
    text = b""
    while text.count(b"\r\n\r\nok\n") < count:
        piece = tls.read(max=65536, min=1)
        if not piece:
            break
        text += bytes(piece)
    return [piece[:3] for piece in text.split(b"HTTP/1.1 ")[1:]]


def alert_of(act):
    """The fatal alert that an act ends in, `closed` or `silent`."""
    try:
        act()
    except TLSRemoteAlert as error:
        return error.description
    except socket.timeout:
        return "silent"
    except Exception:
        return "closed"
    return "closed"


def answer(payload):
    """What the server sends to bytes, to its end: a list of (record type, first two bytes)."""
    with tcp() as sock:
        try:
            sock.sendall(payload)
        except OSError:
            pass
        received = b""
        try:
            while piece := sock.recv(65536):
                received += piece
        except socket.timeout:
            return "silent"
        except OSError:
            pass
    records = []
    while len(received) >= 5:
        length = int.from_bytes(received[3:5], "big")
        records.append((received[0], bytes(received[5:7])))
        received = received[5 + length :]
    return records


def is_refused(records):
    """Alerts, an end, and nothing else."""
    return records != "silent" and all(kind == ALERT for kind, _ in records)


def record(kind, payload, version=b"\x03\x01"):
    return bytes([kind]) + version + len(payload).to_bytes(2, "big") + payload


def hello(suites=b"\x13\x01\x13\x02\x13\x03\xc0\x2b\xc0\x2f", session=b"", compression=b"\x00", version=b"\x03\x03", extensions=b""):
    body = version + bytes(32) + bytes([len(session)]) + session + len(suites).to_bytes(2, "big") + suites
    body += bytes([len(compression)]) + compression + len(extensions).to_bytes(2, "big") + extensions
    return b"\x01" + len(body).to_bytes(3, "big") + body


def extension(number, payload):
    return number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload


GROUPS = extension(10, b"\x00\x02\x00\x17") + extension(13, b"\x00\x04\x04\x03\x08\x04")
CASES = []


def case(name):
    def add(check):
        CASES.append((name, check))
        return check

    return add


for version, words in ((TLS12, "TLS 1.2"), (TLS13, "TLS 1.3")):

    @case(f"{words}: a conversation, and an end both sides announce")
    def _(version=version):
        tls = connect(version)
        tls.sendall(GET)
        assert replies(tls) == [b"200"]
        tls.close()
        assert tls.closed

    @case(f"{words}: records without data between others")
    def _(version=version):
        tls = connect(version)
        for part in (b"", GET[:5], b"", b"", GET[5:], b""):
            send(tls, DATA, part)
        assert replies(tls) == [b"200"]

    @case(f"{words}: a record of 2^14 bytes is taken")
    def _(version=version):
        tls = connect(version)
        count = 8
        each = 2**14 // count
        fill = each - len(GET) - len(b"X-Fill: \r\n")
        padded = GET[:-2] + b"X-Fill: " + b"x" * fill + b"\r\n\r\n"
        assert len(padded) * count == 2**14
        send(tls, DATA, padded * count)
        seen = replies(tls, count)
        assert seen == [b"200"] * count, seen

    @case(f"{words}: a record of 2^14 + 1 bytes ends it")
    def _(version=version):
        tls = connect(version)

        def act():
            tls._recordLayer.send_record_limit = 2**15
            send(tls, DATA, b"x" * (2**14 + 1))
            tls.read(max=1, min=1)

        assert alert_of(act) in (22, 10, 20, 50), alert_of(act)

    @case(f"{words}: a record that was changed on its way ends it")
    def _(version=version):
        tls = connect(version)

        def act():
            tls.sock.sendall(record(DATA, bytes(64), b"\x03\x03"))
            tls.read(max=1, min=1)

        assert alert_of(act) == 20

    @case(f"{words}: a fatal alert ends it, and nothing is answered")
    def _(version=version):
        tls = connect(version)
        send(tls, DATA, GET[:-2])
        send(tls, ALERT, b"\x02\x50")
        assert alert_of(lambda: tls.read(max=1, min=1)) == "closed"

    @case(f"{words}: a close_notify is answered, what follows it is not")
    def _(version=version):
        tls = connect(version)
        send(tls, ALERT, b"\x01\x00")
        send(tls, DATA, GET)
        assert tls.read(max=1, min=1) == b""

    @case(f"{words}: an unknown kind of record ends it")
    def _(version=version):
        tls = connect(version)

        def act():
            send(tls, 99, b"x")
            tls.read(max=1, min=1)

        assert alert_of(act) in (10, 50), alert_of(act)

    @case(f"{words}: a heartbeat is no kind of record here")
    def _(version=version):
        tls = connect(version)

        def act():
            send(tls, HEARTBEAT, b"\x01\x40\x00")
            tls.read(max=1, min=1)

        assert alert_of(act) in (10, 50), alert_of(act)


@case("TLS 1.2: no renegotiation, and the session goes on")
def _():
    tls = connect(TLS12)
    send(tls, HANDSHAKE, hello())
    tls.sendall(GET)
    seen = alert_of(lambda: tls.read(max=1, min=1))
    assert seen in (100, 40, 10, "closed"), seen


@case("TLS 1.3: keys are updated on request")
def _():
    tls = connect(TLS13)
    for _ in range(3):
        for _ in tls.send_keyupdate_request(1):
            pass
        tls.sendall(GET)
        assert replies(tls) == [b"200"]


@case("TLS 1.3: a thousand requests to update keys end it")
def _():
    tls = connect(TLS13)

    def act():
        for _ in range(1000):
            for _ in tls.send_keyupdate_request(1):
                pass
        tls.sendall(GET)
        tls.read(max=1, min=1)

    assert alert_of(act) != "silent"


@case("TLS 1.3: a change of cipher spec behind the handshake ends it")
def _():
    tls = connect(TLS13)

    def act():
        tls.sock.sendall(record(CCS, b"\x01", b"\x03\x03") * 40)
        tls.sendall(GET)
        tls.read(max=1, min=1)

    assert alert_of(act) in (10, "closed"), alert_of(act)


@case("TLS 1.3: no ticket allows early data")
def _():
    tls = connect(TLS13)
    tls.sendall(GET)
    assert replies(tls) == [b"200"]
    assert tls.tickets or tls.tls_1_0_tickets
    assert all(ticket.getExtension(42) is None for ticket in tls.tickets)


@case("TLS 1.3: garbage in place of early data is not answered")
def _():
    share = extension(51, b"\x00\x45\x00\x17\x00\x41\x04" + bytes.fromhex(
        "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"))
    versions = extension(43, b"\x02\x03\x04")
    modes = extension(45, b"\x01\x01")
    identity = extension(41, b"\x00\x26\x00\x20" + bytes(32) + bytes(4) + b"\x00\x21\x20" + bytes(32))
    first = hello(extensions=GROUPS + versions + share + modes + extension(42, b"") + identity)
    garbage = record(DATA, bytes(range(256)) * 4, b"\x03\x03") * 20
    records = answer(record(HANDSHAKE, first) + garbage)
    assert records == "silent" or records[-1][0] in (ALERT, DATA), records
    assert records == "silent" or len(records) <= 8, records


for name, payload in {
    "plain HTTP": GET,
    "a hello of SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(37),
    "a hello of SSL 3": record(HANDSHAKE, hello(version=b"\x03\x00"), b"\x03\x00"),
    "a hello of TLS 1.0": record(HANDSHAKE, hello(version=b"\x03\x01", extensions=GROUPS)),
    "a hello of TLS 1.1": record(HANDSHAKE, hello(version=b"\x03\x02", extensions=GROUPS)),
    "a hello with CBC, RC4 and NULL suites alone": record(
        HANDSHAKE, hello(suites=bytes.fromhex("002f0035003c003dc009c00ac013c014c023c024c027c028000a00050001"), extensions=GROUPS)),
    "a hello with RSA key exchange alone": record(HANDSHAKE, hello(suites=bytes.fromhex("009c009d"), extensions=GROUPS)),
    "a hello without suites": record(HANDSHAKE, hello(suites=b"", extensions=GROUPS)),
    "a hello whose suites are cut": record(HANDSHAKE, hello(suites=b"\x13\x01\x13", extensions=GROUPS)),
    "a hello without compression methods": record(HANDSHAKE, hello(compression=b"", extensions=GROUPS)),
    "a hello with a session id of 33 bytes": record(HANDSHAKE, hello(session=bytes(33), extensions=GROUPS)),
    "a hello with an extension twice": record(HANDSHAKE, hello(extensions=GROUPS + GROUPS)),
    "a hello whose extension is longer than it": record(HANDSHAKE, hello(extensions=b"\x00\x0a\xff\xff\x00")),
    "a hello with bytes behind it": record(HANDSHAKE, b"\x01" + (len(hello()) - 4 + 3).to_bytes(3, "big") + hello()[4:] + b"abc"),
    "a hello of 2^24 - 1 bytes": record(HANDSHAKE, b"\x01\xff\xff\xff" + bytes(16000)) + record(HANDSHAKE, bytes(16000)) * 5,
    "an empty handshake record": record(HANDSHAKE, b"") * 40,
    "a handshake that begins with its end": record(HANDSHAKE, b"\x14\x00\x00\x0c" + bytes(12)),
    "application data before a handshake": record(DATA, GET, b"\x03\x03"),
    "a fatal alert before a handshake": record(ALERT, b"\x02\x28"),
    "a record of a version that is not TLS": record(HANDSHAKE, hello(), b"\x05\x05"),
    "a record longer than the largest": b"\x16\x03\x01\xff\xff" + bytes(0xFFFF),
}.items():

    @case(f"{name}: refused")
    def _(payload=payload):
        records = answer(payload)
        assert is_refused(records), records


@case("a hello in records of a byte: taken or refused, not waited for")
def _():
    whole = hello(extensions=GROUPS)
    records = answer(b"".join(record(HANDSHAKE, bytes([byte])) for byte in whole))
    assert records == "silent" or records[0][0] in (HANDSHAKE, ALERT)


@case("another protocol than http/1.1 by ALPN: refused")
def _():
    sock = tcp()
    tls = TLSConnection(sock)
    assert alert_of(lambda: tls.handshakeClientCert(serverName="localhost", alpn=[b"h2"])) == 120


failed = 0
for name, check in CASES:
    try:
        check()
        print(f"ok      {name}")
    except Exception as error:  # Whatever it is, it is not what must be.
        failed += 1
        print(f"FAILED  {name}: {type(error).__name__}: {error}")
print(f"{len(CASES) - failed} of {len(CASES)} conversations end as they must")
sys.exit(1 if failed else 0)
