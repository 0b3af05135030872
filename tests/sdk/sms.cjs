// As sms.py with twilio-node.
//
// Usage: sms.cjs SDK BASE HALF CALL KEY    Prints what came of it, as JSON.
'use strict';
const [sdk, base, half, call, key] = process.argv.slice(2);
const twilio = require(sdk);
const placeholder = `AC${'0'.repeat(32)}`;

// Without the option the SDK refuses a user name that does not begin with AC.
const client = half === 'password' ? twilio(placeholder, key) : twilio(key, 'x', { accountSid: placeholder });
client.api.baseUrl = base;
client.verify.baseUrl = `${base}/verify`;

const numbers = { to: '+15551234567', from: '+15557654321' };
const calls = {
  message: async () => (await client.messages.create({ ...numbers, body: 'hi' })).sid,
  list: async () => (await client.messages.list({ limit: 1 })).length,
  call: async () => (await client.calls.create({ ...numbers, url: 'http://example.com/' })).sid,
  verify: async () =>
    (await client.verify.v2.services(`VA${'0'.repeat(32)}`).verifications.create({ to: numbers.to, channel: 'sms' })).sid,
};
calls[call]().then(
  (done) => console.log(JSON.stringify({ done })),
  (error) => console.log(JSON.stringify({
    type: error.constructor.name, status: error.status, message: error.message, vendor_code: error.code,
  })),
);
