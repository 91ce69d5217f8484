"""Forwards to Ollama every request that the proxy does not answer itself. Requests and responses pass unchanged.

Read `handler` first: one `Forward` call is one exchange. It takes a connection from the pool in `upstream`, writes the
request, and lets a `relay` parse the response and pass it to the client. No chunk goes through aiohttp's client or its
response classes.

`cors` rewrites Host and Origin, so that Ollama decides about a browser's page as if there were no proxy. The handlers
that answer themselves (`proxy.pull.handler`, `proxy.on_demand`) get their CORS headers from it.
"""
