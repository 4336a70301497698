"""A whole mesh on one machine: hosts and containers are network namespaces.

    from weavepy.lab.lab import Lab

A lab owns everything it makes and can always find it again: its namespaces are called
`weavepy-NAME-...`, its files are in one directory, its processes live in its namespaces. Nothing
outside of them is touched: no interface, route, address or firewall rule of the machine.
"""
