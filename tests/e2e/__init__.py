"""The whole thing, for real: routers in network namespaces, made by the lab.

Each file shows one promise. The tests need root and take some seconds each.
"""
