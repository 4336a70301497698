"""What every part of weavepy stands on: names, errors, deadlines, effects, the wire codec.

Nothing here does I/O, and nothing here knows about meshes, rings or frames.
"""
