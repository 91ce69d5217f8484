"""The side that faces clients: listening, access control, and responses of the proxy itself.

`connection` is the server: aiohttp's, with the error responses of Go's, because clients know Ollama's. `request_parser`
is its parser of requests, with the limits of Go's.
`access` decides whether a request may pass at all (Host header, keys). `request_body` and `responses` read and write
JSON in Ollama's form. `page` serves `page.html`, the page at `/-/`; its requests are answered by `proxy.admin`.
`aiohttp_private` is the only module that uses undocumented parts of aiohttp.

`proxy.app` puts these together: it creates the server and gives each request to its handler.
"""
