// As mail.py with resend-node.
//
// Usage: mail.cjs SDK    Prints the answer, as JSON.
'use strict';
const { Resend } = require(process.argv[2]);

new Resend(process.env.RESEND_API_KEY).emails
  .send({ from: 'a@example.com', to: ['b@example.com'], subject: 'hi', html: '<p>hi</p>' })
  .then(({ data }) => console.log(JSON.stringify(data)));
