exports.handler = async (event, context) => {
  const name = event.name ?? "world";
  console.log(`greeting ${name}`); // goes to the agent's output, never to the network
  return { message: `Hello, ${name}!` };
};
