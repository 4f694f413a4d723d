"""Commands of `icmoe`: each builds a workflow of the bundle's configs and runs it.

May import settings and all rooms.
"""
