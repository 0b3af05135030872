"""One charge, and what came of it.

Usage: charge.py API_BASE SOURCE IDEMPOTENCY_KEY RETRIES API_KEY    Prints the charge or the error as JSON.
"""

import json
import os
import sys

import stripe

stripe.api_base, source, idempotency_key, retries, stripe.api_key = sys.argv[1:]
stripe.max_network_retries = int(retries)
if "CA_FILE" in os.environ:
    stripe.ca_bundle_path = os.environ["CA_FILE"]

try:
    charge = stripe.Charge.create(amount=1500, currency="usd", source=source, idempotency_key=idempotency_key)
    print(json.dumps({"id": charge.id}))
except stripe.error.StripeError if hasattr(stripe, "error") else stripe.StripeError as error:
    print(json.dumps({"type": type(error).__name__, "status": error.http_status, "message": error.user_message}))
