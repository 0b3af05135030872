// As mails.py with resend-node, which never throws.
//
// Usage: mails.cjs SDK BASE CALL KEY    Prints what came of it, as JSON.
'use strict';
const [sdk, base, call, key] = process.argv.slice(2);
// Read when the SDK is loaded.
process.env.RESEND_BASE_URL = base;
const { Resend } = require(sdk);

const resend = new Resend(key);
const mail = { from: 'a@example.com', to: ['b@example.com'], subject: 'hi', html: '<p>hi</p>' };
const calls = {
  send: () => resend.emails.send(mail),
  batch: () => resend.batch.send([mail, mail]),
  key: () => resend.apiKeys.create({ name: 'another' }),
};
calls[call]().then(({ data, error }) => console.log(JSON.stringify(
  error ? { type: error.name, status: error.statusCode, message: error.message } : { done: data },
)));
