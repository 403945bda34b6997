// The judge in a browser or in Node: a request flows in, a verdict flows out. Nothing leaves this page.
//
//   const verifier = await load(new URL("dshield_verify.wasm", import.meta.url));
//   const verdict = await verifier.verify({ evidence, expect, nonce });

/**
 * @typedef {object} Request
 * @property {string} evidence What GET /v1/attestation answered.
 * @property {string} [expect] An expect.toml that names no files; without it nothing can be verified, only shown.
 * @property {string | null} [nonce] What the evidence was asked for with: 64 hexadecimal digits.
 * @property {number} [now] The moment to judge for, in seconds since 1970; this machine's clock by default.
 * @property {"file" | "plain" | { tls_spki_sha256: string }} [channel] What the evidence came over; "file" by default.
 * @property {boolean} [insecure_development] Take evidence that was made for development, which proves nothing.
 * @property {boolean} [insecure_any_measurement] Take what is not expected, whatever it is.
 */

/**
 * Loads the module from its bytes, or from a URL. `integrity` is the `sha256-…` that the bytes at the URL must have.
 * @param {BufferSource | string | URL} source
 * @param {{ integrity?: string }} [options]
 * @returns {Promise<{ verify: (request: Request) => Promise<object>, version: () => Promise<string> }>}
 */
export async function load(source, { integrity } = {}) {
  const module = await WebAssembly.compile(isBytes(source) ? source : await download(source, integrity));
  return {
    /** Judges. Bad evidence gets a verdict that says so; a request that makes no sense gets an error. */
    async verify(request) {
      const now = Math.floor(Date.now() / 1000);
      const verdict = JSON.parse(await call(module, "verify", JSON.stringify({ now, ...request })));
      if (verdict.error !== undefined) throw new Error(verdict.error);
      return verdict;
    },
    /** The version of dshield-verify in the module. */
    version: () => call(module, "version"),
  };
}

const isBytes = (source) => source instanceof ArrayBuffer || ArrayBuffer.isView(source);

async function download(url, integrity) {
  const response = await fetch(url, integrity === undefined ? {} : { integrity });
  if (!response.ok) throw new Error(`${url} answers ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}

/** Each call has an instance of its own: what one leaves in memory, or breaks, reaches no other. */
async function call(module, name, request) {
  const { exports } = await WebAssembly.instantiate(module, {});
  const lent = [];
  if (request !== undefined) {
    const bytes = new TextEncoder().encode(request);
    const start = exports.alloc(bytes.length) >>> 0;
    new Uint8Array(exports.memory.buffer, start, bytes.length).set(bytes);
    lent.push(start, bytes.length);
  }
  // A BigInt: where the answer starts in its lower half, its length in the upper.
  const answer = BigInt.asUintN(64, exports[name](...lent));
  const [start, length] = [Number(answer & 0xffffffffn), Number(answer >> 32n)];
  return new TextDecoder().decode(new Uint8Array(exports.memory.buffer, start, length));
}
