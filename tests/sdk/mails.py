"""One call with Resend's SDK.

Usage: mails.py BASE CALL KEY    CALL is "send", "batch" or "key". Prints what came of it, as JSON.
"""

import json
import os
import sys

base, call, key = sys.argv[1:]
# Read when the SDK is imported.
os.environ["RESEND_API_URL"] = base

import resend
from resend.exceptions import ResendError

resend.api_key = key
mail = {"from": "a@example.com", "to": ["b@example.com"], "subject": "hi", "html": "<p>hi</p>"}
calls = {
    "send": lambda: resend.Emails.send(mail),
    "batch": lambda: resend.Batch.send([mail, mail]),
    "key": lambda: resend.ApiKeys.create({"name": "another"}),
}
try:
    print(json.dumps({"done": dict(calls[call]())}))
except ResendError as error:
    print(json.dumps({"type": type(error).__name__, "status": int(error.code), "message": str(error)}))
