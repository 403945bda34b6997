"""Posts its event's prompt with the client that the event names; answers the text and when each part of it came."""

import asyncio
import json
import time

URL = "https://api.anthropic.com/v1/messages"
HEADERS = {"x-api-key": "k", "anthropic-version": "2023-06-01"}


def handler(event, context):
    return CLIENTS[event["client"]](event["prompt"])


def now():
    return time.time() * 1000


def of_lines(lines):
    """The answer in a stream of server-sent events."""
    text, arrived = "", []
    for line in lines:
        line = line if isinstance(line, str) else line.decode()
        if line.startswith("data:"):
            arrived.append(now())
            text += json.loads(line[5:]).get("delta", {}).get("text", "")
    return {"text": text, "arrived": arrived}


def of_body(body):
    return {"text": body["content"][0]["text"]}


def httpx_client(http2):
    def post(prompt):
        import httpx

        with httpx.Client(http2=http2, timeout=20) as client:
            with client.stream("POST", URL, json=prompt, headers=HEADERS) as response:
                if prompt["stream"]:
                    answer = of_lines(response.iter_lines())
                else:
                    answer = of_body(json.loads(response.read()))
                return answer | {"version": response.http_version}

    return post


def aiohttp_client(prompt):
    import aiohttp

    async def post():
        async with aiohttp.ClientSession() as session:
            async with session.post(URL, json=prompt, headers=HEADERS) as response:
                if not prompt["stream"]:
                    return of_body(await response.json())
                text, arrived = "", []
                async for line in response.content:
                    if line.startswith(b"data:"):
                        arrived.append(now())
                        text += json.loads(line[5:]).get("delta", {}).get("text", "")
                return {"text": text, "arrived": arrived}

    return asyncio.run(post())


def urllib3_client(prompt):
    import urllib3

    response = urllib3.request("POST", URL, json=prompt, headers=HEADERS, preload_content=False, timeout=20)
    if not prompt["stream"]:
        return of_body(json.loads(response.read()))
    pieces, lines = response.read1, b""

    def all_lines():
        nonlocal lines
        while piece := pieces():
            *whole, lines = (lines + piece).split(b"\n")
            yield from whole

    return of_lines(all_lines())


def anthropic_client(prompt):
    import anthropic

    client = anthropic.Anthropic(api_key="k", timeout=20, max_retries=0)
    asked = {key: value for key, value in prompt.items() if key != "stream"}
    if not prompt["stream"]:
        return {"text": client.messages.create(**asked).content[0].text}
    text, arrived = "", []
    with client.messages.stream(**asked) as stream:
        for piece in stream.text_stream:
            arrived.append(now())
            text += piece
    return {"text": text, "arrived": arrived}


def openai_client(prompt):
    import openai

    client = openai.OpenAI(api_key="k", timeout=20, max_retries=0)
    answer = client.chat.completions.create(**prompt)
    if not prompt["stream"]:
        return {"text": answer.choices[0].message.content}
    text, arrived = "", []
    for piece in answer:
        arrived.append(now())
        text += piece.choices[0].delta.content or ""
    return {"text": text, "arrived": arrived}


CLIENTS = {
    "httpx": httpx_client(http2=False),
    "httpx over HTTP/2": httpx_client(http2=True),
    "aiohttp": aiohttp_client,
    "urllib3": urllib3_client,
    "anthropic": anthropic_client,
    "openai": openai_client,
}
