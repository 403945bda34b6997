def handler(event, context):
    name = event.get("name", "world")
    print(f"greeting {name}")  # goes to the agent's output, never to the network
    return {"message": f"Hello, {name}!"}
