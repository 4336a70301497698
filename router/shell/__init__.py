"""What touches the kernel for the router: sockets, processes, netlink. It decides no protocol."""
