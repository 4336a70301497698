"""How to speak to the kernel, for all who change its network: netlink, and nft's transactions.

Blocking: called on a worker thread, never on an event loop's. What to change is their callers'
business; this knows about no mesh, no container and no fast path.
"""
