"""What touches the kernel for the fast path: tunnels, the guard before them, heartbeats."""
