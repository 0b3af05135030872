"""One call with Twilio's client, pointed at keybrake by its base URLs.

Usage: sms.py BASE HALF CALL KEY    HALF is "password" or "username", where the key stands; CALL is
"message", "list", "call" or "verify". Prints what came of it, as JSON.
"""

import json
import sys

from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

base, half, call, key = sys.argv[1:]
placeholder = "AC" + "0" * 32

client = Client(placeholder, key) if half == "password" else Client(key, "x", account_sid=placeholder)
client.api.base_url = base
client.verify.base_url = base + "/verify"

calls = {
    "message": lambda: client.messages.create(to="+15551234567", from_="+15557654321", body="hi").sid,
    "list": lambda: len(client.messages.list(limit=1)),
    "call": lambda: client.calls.create(to="+15551234567", from_="+15557654321", url="http://example.com/").sid,
    "verify": lambda: client.verify.v2.services("VA" + "0" * 32)
    .verifications.create(to="+15551234567", channel="sms")
    .sid,
}
try:
    print(json.dumps({"done": calls[call]()}))
except TwilioRestException as error:
    print(
        json.dumps(
            {"type": type(error).__name__, "status": error.status, "message": error.msg, "vendor_code": error.code}
        )
    )
