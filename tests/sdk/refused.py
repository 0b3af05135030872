"""Calls that keybrake refuses, and the error that the SDK raises for each.

Usage: refused.py API_BASE CALL API_KEY    CALL is "charge" or "payout". Prints the error as JSON.
"""

import json
import sys

import stripe

stripe.api_base, call, stripe.api_key = sys.argv[1:]

try:
    if call == "charge":
        stripe.Charge.create(amount=1500, currency="usd", source="tok_visa")
    else:
        stripe.Payout.create(amount=1500, currency="usd")
    print(json.dumps({"type": None}))
except stripe.error.StripeError if hasattr(stripe, "error") else stripe.StripeError as error:
    print(
        json.dumps(
            {
                "type": type(error).__name__,
                "status": error.http_status,
                "message": error.user_message,
                "code": error.json_body["error"]["code"],
                "retry_after": {name.lower(): value for name, value in error.headers.items()}.get("retry-after"),
                "request_id": error.request_id,
            }
        )
    )
