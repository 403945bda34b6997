// Posts its event's prompt with the client that the event names; answers the text and when each part of it came.
const URL = 'https://api.anthropic.com/v1/messages'
const HEADERS = { 'x-api-key': 'k', 'anthropic-version': '2023-06-01', 'content-type': 'application/json' }

exports.handler = (event) => CLIENTS[event.client](event)

// The answer in a body that comes in pieces.
const read = async (body, stream) => {
  const arrived = []
  let [text, rest, whole] = ['', '', '']
  for await (const piece of body) {
    const lines = (rest + Buffer.from(piece).toString()).split('\n')
    rest = lines.pop()
    whole += Buffer.from(piece).toString()
    for (const line of lines) {
      if (!line.startsWith('data:')) continue
      arrived.push(Date.now())
      text += JSON.parse(line.slice(5)).delta?.text ?? ''
    }
  }
  return stream ? { text, arrived } : { text: JSON.parse(whole).content[0].text }
}

const undici = (allowH2) => async ({ prompt }) => {
  const { Agent, request } = require('undici')
  const dispatcher = new Agent({ allowH2 })
  const options = { method: 'POST', headers: HEADERS, body: JSON.stringify(prompt), dispatcher }
  const response = await request(URL, options)
  const answer = await read(response.body, prompt.stream)
  await dispatcher.close()
  return answer
}

// Sends what the event says over a WebSocket, and answers what came back.
const ws = ({ url, texts, bytes }) => new Promise((resolve) => {
  const WebSocket = require('ws')
  const socket = new WebSocket(url)
  const got = { texts: [], bytes: 0, pong: false }
  const done = (more) => { socket.terminate(); resolve({ ...got, ...more }) }
  socket.on('open', () => {
    for (const text of texts) socket.send(text)
    socket.ping()
    socket.send(Buffer.alloc(bytes, 7))
  })
  socket.on('pong', () => { got.pong = true })
  socket.on('message', (data, binary) => {
    if (!binary) return got.texts.push(data.toString())
    got.bytes = data.length
    socket.close(1000)
  })
  socket.on('unexpected-response', (_, response) => done({ status: response.statusCode }))
  socket.on('close', (code) => done({ code }))
  socket.on('error', (error) => done({ error: String(error) }))
})

const CLIENTS = { undici: undici(false), 'undici over HTTP/2': undici(true), ws }
