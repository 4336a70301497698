"""How to speak to the kernel, for all who change its network: netlink, and nft's transactions.

`netlink` is pyroute2, for what is done seldom; `rtnetlink` and `nfqueries` are a few messages in
bytes (`messages`), for what pods wait for; `nftables` is nft's language.

Blocking: called on a worker thread, never on an event loop's. What to change is their callers'
business; this knows about no mesh, no container and no fast path.
"""
