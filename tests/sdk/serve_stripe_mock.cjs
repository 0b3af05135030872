// stripe-stateful-mock on 127.0.0.1 and a free port, which is printed.
'use strict';
const { createExpressApp } = require(process.argv[2]);

const server = require('node:http').createServer(createExpressApp());
server.listen(0, '127.0.0.1', () => console.log(`127.0.0.1:${server.address().port}`));
