"""Points the official SDKs of the vendors in KEYBRAKE_VENDORS at the proxy KEYBRAKE_PROXY_URL.

Python imports this at its start, since `keybrake run` puts its directory first into PYTHONPATH.
Nothing of an SDK is imported here: each patch waits until the program imports the SDK. It holds
no secret, and it is no control: a program that names another address reaches that address.
"""

import functools
import importlib.machinery
import importlib.util
import os
import sys
from urllib.parse import urlsplit

PROXY = os.environ.get("KEYBRAKE_PROXY_URL", "").rstrip("/")
VENDORS = os.environ.get("KEYBRAKE_VENDORS", "").split(",")
# What `requests` trusts. Stripe's SDK names its own authorities over that.
CA_FILE = os.environ.get("REQUESTS_CA_BUNDLE", "") if PROXY.startswith("https:") else ""

# Stripe's files, OAuth and meter events have hosts of their own. They go to the proxy too, which
# refuses what it does not serve: else the vault key would leave for stripe.com.
STRIPE_BASES = ("api_base", "upload_api_base", "connect_api_base", "meter_events_api_base")
STRIPE_ADDRESSES = ("api", "files", "connect", "meter_events")


def patch_stripe(stripe):
    def move(base):
        for name in STRIPE_BASES:
            if hasattr(stripe, name):
                setattr(stripe, name, base)

    class Stripe(type(stripe)):
        # No version of the SDK has `stripe.base_url`: assigning it sets a variable that nothing reads.
        @property
        def base_url(self):
            return self.api_base

        @base_url.setter
        def base_url(self, base):
            move(base)

    stripe.__class__ = Stripe
    move(PROXY + "/stripe")
    if CA_FILE:
        stripe.ca_bundle_path = CA_FILE


def patch_stripe_client(module):
    original = module.StripeClient.__init__

    @functools.wraps(original)
    def init(self, *arguments, base_url=None, base_addresses=None, **named):
        addresses = dict.fromkeys(STRIPE_ADDRESSES, base_url or PROXY + "/stripe")
        addresses.update(base_addresses or {})
        original(self, *arguments, base_addresses=addresses, **named)

    module.StripeClient.__init__ = init


def patch_twilio(module):
    # Every product's URL passes here, with a custom HTTP client too.
    original = module.Client.get_hostname

    @functools.wraps(original)
    def get_hostname(self, uri):
        return of_twilio(original(self, uri))

    module.Client.get_hostname = get_hostname


def of_twilio(url):
    """api.twilio.com/2010-04-01/x is /twilio/2010-04-01/x, verify.twilio.com/v2/x is /twilio/verify/v2/x."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host.endswith(".twilio.com"):
        return url
    # Region and edge are further labels: verify.sydney.au1.twilio.com.
    product = host.split(".")[0]
    path = parts.path
    if not (product == "api" and path.startswith("/2010-04-01/")):
        path = "/" + product + path
    return PROXY + "/twilio" + path + ("?" + parts.query if parts.query else "")


PATCHES = {}
if PROXY and "stripe" in VENDORS:
    PATCHES["stripe"] = patch_stripe
    PATCHES["stripe._stripe_client"] = patch_stripe_client
if PROXY and "twilio" in VENDORS:
    PATCHES["twilio.rest"] = patch_twilio


class Finder:
    """Finds the modules of PATCHES as the others do, and has each patched once its code has run."""

    def find_spec(self, name, path=None, target=None):
        patch = PATCHES.get(name)
        if patch is None:
            return None
        for finder in sys.meta_path:
            found = getattr(finder, "find_spec", None)
            spec = found(name, path, target) if finder is not self and found else None
            if spec is not None:
                break
        else:
            return None
        execute = getattr(spec.loader, "exec_module", None)
        if execute is None:
            return spec

        def exec_module(module):
            execute(module)
            try:
                patch(module)
            except AttributeError as error:
                sys.stderr.write("keybrake: this version of %s cannot be pointed at the proxy: %s\n" % (name, error))

        spec.loader.exec_module = exec_module
        return spec


def load_next():
    """Runs the sitecustomize that this one stands before, if any."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [path for path in sys.path if os.path.abspath(path or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


sys.meta_path.insert(0, Finder())
load_next()
