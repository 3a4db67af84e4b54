"""The HTTP API under /api, on loopback: the endpoints of the seeds, answered by the local node.

    faults, backend, settings     what the node has to do with it; nothing of the web in them
    strict, limits, sessions      pure: JSON, rates, cookies
    gate                          in front of every request: whose it is, and whether it may come in at all
    models, tunnels, market, …    the endpoints, for FastAPI and the OpenAPI document that it makes of them
    app, connection, server       put together, and served by hypercorn's trio worker

FastAPI takes half a second to import: node/app.py imports `node.api.server` when the API is switched on, and
nothing of the command line ever does.
"""
