"""One mail with Resend's SDK, pointed at the proxy by its variables alone.

Usage: mail.py    Prints the answer, as JSON.
"""

import json

import resend

mail = {"from": "a@example.com", "to": ["b@example.com"], "subject": "hi", "html": "<p>hi</p>"}
print(json.dumps(dict(resend.Emails.send(mail))))
