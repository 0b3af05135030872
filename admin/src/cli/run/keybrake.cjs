'use strict';
// Points the official SDKs of the vendors in KEYBRAKE_VENDORS at the proxy KEYBRAKE_PROXY_URL.
//
// Node runs this before the program, since `keybrake run` adds it to NODE_OPTIONS as `--require`. It
// moves requests, not SDKs: whatever goes to a vendor's host through `http`, `https` or `fetch` goes to
// the proxy. So it fits every version, CommonJS and modules alike. It holds no secret, and it is no
// control: a program that names another address reaches that address.

const http = require('node:http');
const https = require('node:https');
const { urlToHttpOptions } = require('node:url');

const vendors = (process.env.KEYBRAKE_VENDORS || '').split(',');
const proxy = process.env.KEYBRAKE_PROXY_URL ? new URL(process.env.KEYBRAKE_PROXY_URL) : null;

// Stripe's files, OAuth and meter events have hosts of their own. The proxy refuses what it does not
// serve: else the vault key would leave for stripe.com.
const STRIPE = ['api.stripe.com', 'files.stripe.com', 'connect.stripe.com', 'meter-events.stripe.com'];

/** The path at the proxy, or null where the request is none of ours. */
function moved(host, path) {
  host = String(host || '').toLowerCase().replace(/:\d+$/, '');
  if (vendors.includes('stripe') && STRIPE.includes(host)) return `/stripe${path}`;
  if (vendors.includes('resend') && host === 'api.resend.com') return `/resend${path}`;
  if (vendors.includes('twilio') && host.endsWith('.twilio.com')) {
    // Region and edge are further labels: verify.sydney.au1.twilio.com.
    const product = host.split('.')[0];
    const isApi = product === 'api' && path.startsWith('/2010-04-01/');
    return isApi ? `/twilio${path}` : `/twilio/${product}${path}`;
  }
  return null;
}

const originals = { http: { ...http }, https: { ...https } };
const target = proxy && proxy.protocol === 'https:' ? 'https' : 'http';

/** As `http.request` and `https.request`, which take a URL, options, or both. */
function redirecting(from, method) {
  const original = originals[from][method];
  return function request(...given) {
    const [input, second, third] = given;
    let options;
    let callback;
    try {
      const isUrl = typeof input === 'string' || input instanceof URL;
      const ofUrl = isUrl ? urlToHttpOptions(new URL(input)) : {};
      const more = isUrl ? second : input;
      callback = isUrl && typeof second !== 'function' ? third : second;
      options = { ...ofUrl, ...(typeof more === 'object' ? more : null) };
    } catch {
      return original.apply(this, given);
    }
    const path = moved(options.hostname || options.host, options.path || '/');
    if (path === null) return original.apply(this, given);
    for (const name of ['host', 'servername', 'defaultPort', 'createConnection', 'socketPath', 'lookup']) delete options[name];
    // An agent of the other protocol would refuse, and one for a forward proxy would take the key there.
    Object.assign(options, { protocol: proxy.protocol, hostname: proxy.hostname, port: proxy.port, path, agent: undefined });
    if (options.headers && !Array.isArray(options.headers)) {
      const isHost = ([name]) => name.toLowerCase() === 'host';
      options.headers = Object.fromEntries(Object.entries(options.headers).filter((header) => !isHost(header)));
    }
    const sent = originals[target][method](options, callback);
    if (from === 'https' && target === 'http') {
      // stripe-node sends its body when TLS is up, which it asked for.
      sent.once('socket', (socket) => {
        if (socket.connecting) socket.once('connect', () => socket.emit('secureConnect'));
      });
    }
    return sent;
  };
}

function redirectingFetch(original) {
  return function fetch(input, init) {
    const isRequest = typeof Request === 'function' && input instanceof Request;
    let url;
    try {
      url = new URL(isRequest ? input.url : input);
    } catch {
      return original.call(this, input, init);
    }
    const path = moved(url.host, url.pathname + url.search);
    if (path === null) return original.call(this, input, init);
    const there = new URL(path, proxy);
    return original.call(this, isRequest ? new Request(there, input) : there, init);
  };
}

if (proxy) {
  for (const [name, module] of [['http', http], ['https', https]]) {
    for (const method of ['request', 'get']) module[method] = redirecting(name, method);
  }
  if (typeof globalThis.fetch === 'function') globalThis.fetch = redirectingFetch(globalThis.fetch);
}
