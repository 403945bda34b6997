// The handler of index.js behind plain HTTP: what an invocation costs without D-Shield. Prints its port.
'use strict'
const http = require('node:http')
const { handler } = require('./index.js')

const server = http.createServer(async (request, response) => {
  const parts = []
  for await (const part of request) parts.push(part)
  response.end(JSON.stringify(await handler(JSON.parse(Buffer.concat(parts)))))
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
