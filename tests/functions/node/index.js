// Does what its event says, with Node's own sockets, resolver and TLS.
'use strict'
const dgram = require('node:dgram')
const dns = require('node:dns')
const https = require('node:https')
const net = require('node:net')

exports.handler = async (event) => {
  try {
    return await actions[event.do](event)
  } catch (error) {
    if (!error.step) throw error
    return { failed: error.step, why: `${error.code ?? error.name}: ${error.message}` }
  }
}

const failed = (step, error) => Object.assign(error, { step })

const endpoint = (text) => {
  const colon = text.lastIndexOf(':')
  return { host: text.slice(0, colon), port: Number(text.slice(colon + 1)) }
}

const actions = {
  echo: async (event) => event,

  fail: async (event) => {
    throw new Error(event.message)
  },

  resolve: async (event) => {
    const found = await dns.promises.lookup(event.name, { all: true }).catch((error) => {
      throw failed('resolve', error)
    })
    return { addresses: found.map((entry) => entry.address).sort() }
  },

  tcp: (event) =>
    new Promise((resolve, reject) => {
      let step = 'connect'
      const stream = net.connect({ ...endpoint(event.address), timeout: 5000 })
      stream.on('connect', () => {
        step = 'receive'
        stream.write(event.send)
      })
      stream.on('data', (received) => {
        resolve({ received: received.toString() })
        stream.destroy()
      })
      stream.on('timeout', () => stream.destroy(new Error('timed out')))
      stream.on('error', (error) => reject(failed(step, error)))
      stream.on('close', () => resolve({ failed: step, why: 'closed' }))
    }),

  udp: (event) =>
    new Promise((resolve, reject) => {
      const { host, port } = endpoint(event.address)
      const socket = dgram.createSocket('udp4')
      socket.send(event.send, port, host, (error, bytes) => {
        socket.close()
        if (error) reject(failed('send', error))
        else resolve({ sent: bytes })
      })
    }),

  https: (event) =>
    new Promise((resolve, reject) => {
      const target = event.address ? endpoint(event.address) : { host: event.host, port: event.port ?? 443 }
      const request = https.request({
        ...target,
        servername: event.sni ?? event.host,
        method: event.method,
        path: event.path,
        headers: {
          host: event.host_header ?? event.host,
          'content-length': Buffer.byteLength(event.body ?? ''),
          ...event.headers,
        },
        agent: false,
        timeout: 10000,
      })
      request.on('response', (response) => {
        const parts = []
        response.on('data', (part) => parts.push(part))
        response.on('error', (error) => reject(failed('http', error)))
        response.on('end', () => resolve({ status: response.statusCode, body: Buffer.concat(parts).toString() }))
      })
      request.on('timeout', () => request.destroy(new Error('timed out')))
      request.on('error', (error) => reject(failed('https', error)))
      request.end(event.body ?? '')
    }),
}
