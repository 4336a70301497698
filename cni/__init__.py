"""The plugin that a container runtime executes, one short run per pod.

Standard library only, like all it imports: the runtime waits for the interpreter to start.
"""
