"""The router process: cores put together (`node`), and the shell that performs their effects."""
