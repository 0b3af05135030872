// A client of stripe-node, whose constructor takes a host and a port, and no path.
'use strict';

/** WAY is "host" for the bare host, "fetch" for the fetch client with the path in front, "default" for none of both. */
exports.client = function client(sdk, way, base, key) {
  const Stripe = require(sdk);
  const url = base ? new URL(base) : null;
  const ways = {
    host: () => ({ protocol: url.protocol.slice(0, -1), host: url.hostname, port: url.port }),
    fetch: () => ({
      httpClient: Stripe.createFetchHttpClient((asked, init) => {
        const { pathname, search } = new URL(asked);
        return fetch(`${base}${pathname}${search}`, init);
      }),
    }),
    // For `keybrake run`, which needs no change.
    default: () => ({}),
    'default fetch': () => ({ httpClient: Stripe.createFetchHttpClient() }),
  };
  return new Stripe(key, ways[way]());
};
