"""Twilio's client with calls to several of its hosts, all of which must fail.

Usage: products.py    Prints the errors' classes, as JSON.
"""

import json

from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

client = Client()
calls = [
    lambda: client.messages.create(to="+15551234567", from_="+15557654321", body="hi"),
    lambda: client.verify.v2.services("VA" + "0" * 32).verifications.create(to="+15551234567", channel="sms"),
    lambda: client.lookups.v2.phone_numbers("+15551234567").fetch(),
    lambda: client.messaging.v1.services("MG" + "0" * 32).fetch(),
    lambda: Client(edge="sydney", region="au1").messages("SM" + "0" * 32).fetch(),
]
errors = []
for call in calls:
    try:
        call()
    except TwilioRestException as error:
        errors.append([type(error).__name__, error.status])
print(json.dumps(errors))
