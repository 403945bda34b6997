// Runs a Node handler: fetches events from the Lambda Runtime API, posts back what the handler returns.
// In: AWS_LAMBDA_RUNTIME_API, _HANDLER and LAMBDA_TASK_ROOT. Out: one response or error for each event.
'use strict';
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { pathToFileURL } = require('node:url');

const env = process.env;
const [HOST, PORT] = (env.AWS_LAMBDA_RUNTIME_API ?? '').split(':');
const PREFIX = '/2018-06-01/runtime/';
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const { request } = http; // Kept: the function may replace http.request.
const { exit } = process;

/** The invocation being served, for errors that no handler caught. */
let current = null;
/** Called when a handler with a callback left nothing that could still call it. */
let drained = null;

function exchange(method, where, body, errorType) {
  const headers = {};
  if (method === 'POST') {
    headers['Content-Type'] = 'application/json';
    headers['Content-Length'] = Buffer.byteLength(body);
    if (errorType) headers['Lambda-Runtime-Function-Error-Type'] = errorType;
  }
  return new Promise((resolve) => {
    const sent = request({ host: HOST, port: PORT, path: PREFIX + where, method, headers, agent }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('error', gone);
      response.on('end', () => {
        resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks).toString() });
      });
    });
    sent.on('error', gone);
    sent.end(body);
  });
}

/** The runtime API no longer answers: nobody is left to work for. */
function gone(error) {
  console.error(`The runtime API is gone: ${error?.message}`);
  exit(1);
}

/** A failure that has one of Lambda's names. */
function fault(errorType, message, cause) {
  const error = new Error(message);
  error.name = errorType;
  if (cause?.stack) error.stack = cause.stack;
  return error;
}

function describe(error) {
  try {
    if (error && typeof error.message === 'string') {
      const trace = typeof error.stack === 'string' ? error.stack.split('\n') : [];
      return { errorType: String(error.name ?? 'Error'), errorMessage: error.message, trace };
    }
    return { errorType: typeof error, errorMessage: String(error), trace: [] };
  } catch {
    return { errorType: 'Error', errorMessage: '<the error has no readable message>', trace: [] };
  }
}

function report(where, error) {
  const description = describe(error);
  const { errorType, errorMessage, trace } = description;
  console.error(`[ERROR] ${errorType}: ${errorMessage}\n${trace.join('\n')}`);
  // An error's own name is the function's; the header takes only names like Function.Name.
  const named = errorType.startsWith('Runtime.') ? errorType : undefined;
  return exchange('POST', where, JSON.stringify(description), named);
}

async function loadModule(stem) {
  const isFile = (file) => fs.statSync(file, { throwIfNoEntry: false })?.isFile();
  const file = ['', '.js', '.mjs', '.cjs'].map((extension) => stem + extension).find(isFile);
  if (!file) throw fault('Runtime.ImportModuleError', `Cannot find module '${path.basename(stem)}' in ${path.dirname(stem)}`);
  try {
    if (file.endsWith('.mjs')) return await import(pathToFileURL(file));
    try {
      return require(file);
    } catch (error) {
      if (error?.code !== 'ERR_REQUIRE_ESM' && error?.code !== 'ERR_REQUIRE_ASYNC_MODULE') throw error;
      return await import(pathToFileURL(file));
    }
  } catch (error) {
    if (error instanceof SyntaxError) throw fault('Runtime.UserCodeSyntaxError', String(error), error);
    if (error?.code === 'MODULE_NOT_FOUND' || error?.code === 'ERR_MODULE_NOT_FOUND') {
      throw fault('Runtime.ImportModuleError', String(error), error);
    }
    throw error;
  }
}

/** The function that `module.function` or `folder/module.function` names. */
async function load(handler) {
  const base = path.basename(handler);
  const [, stem, name] = /^([^.]+)\.(.+)$/.exec(base) ?? [];
  if (!stem) throw fault('Runtime.MalformedHandlerName', `Bad handler '${handler}': expected module.function`);
  const module = await loadModule(path.resolve(env.LAMBDA_TASK_ROOT, path.dirname(handler), stem));
  const find = (from) => name.split('.').reduce((value, key) => value?.[key], from);
  const found = find(module) ?? find(module?.default);
  if (typeof found !== 'function') {
    throw fault('Runtime.HandlerNotFound', `${handler} is undefined, not exported or not a function`);
  }
  return found;
}

function contextOf(headers, callback) {
  const deadline = Number(headers['lambda-runtime-deadline-ms'] ?? 0);
  return {
    awsRequestId: headers['lambda-runtime-aws-request-id'],
    invokedFunctionArn: headers['lambda-runtime-invoked-function-arn'],
    functionName: env.AWS_LAMBDA_FUNCTION_NAME,
    functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME,
    callbackWaitsForEmptyEventLoop: false,
    getRemainingTimeInMillis: () => Math.max(0, deadline - Date.now()),
    done: callback,
    succeed: (result) => callback(null, result),
    fail: (error) => callback(error ?? new Error('The function failed')),
  };
}

/** The handler's result, however it gives it: a promise, or the callback, which answers at once. */
function call(handler, event, headers) {
  return new Promise((resolve, reject) => {
    const callback = (error, result) => (error === null || error === undefined ? resolve(result) : reject(error));
    const returned = handler(event, contextOf(headers, callback), callback);
    if (typeof returned?.then === 'function') returned.then(resolve, reject);
    else drained = () => resolve(null);
  });
}

function unmarshal(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw fault('Runtime.UnmarshalError', `Unable to parse the event: ${error.message}`);
  }
}

function marshal(result) {
  try {
    return JSON.stringify(result) ?? 'null';
  } catch (error) {
    throw fault('Runtime.MarshalError', `Unable to stringify response body: ${error?.message}`);
  }
}

async function serve(handler) {
  for (;;) {
    const next = await exchange('GET', 'invocation/next');
    if (next.status !== 200) gone(new Error(`/next answered ${next.status}`));
    current = next.headers['lambda-runtime-aws-request-id'];
    const where = `invocation/${current}/`;
    let result;
    try {
      result = marshal(await call(handler, unmarshal(next.body), next.headers));
    } catch (error) {
      current = drained = null;
      await report(`${where}error`, error);
      continue;
    }
    current = drained = null;
    await exchange('POST', `${where}response`, result);
  }
}

async function uncaught(error) {
  const id = current;
  current = null;
  if (id) await report(`invocation/${id}/error`, error);
  else console.error(error);
  exit(129); // As Lambda does: after an uncaught error the process may be in any state.
}

process.on('uncaughtException', uncaught);
process.on('unhandledRejection', (reason) => {
  uncaught(fault('Runtime.UnhandledPromiseRejection', describe(reason).errorMessage, reason));
});
process.on('beforeExit', () => drained?.());

load(env._HANDLER ?? '').then(serve, async (error) => {
  await report('init/error', error);
  exit(1);
});
