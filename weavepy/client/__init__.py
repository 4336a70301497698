"""Talking to a running router: a transport of the standard library alone, and the typed schema.

`weavepy.client.http` must stay importable without any third-party package, because the CNI
plugin starts an interpreter per pod. `weavepy.client.schema` is for the daemon and the CLI.
"""
