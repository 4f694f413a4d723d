"""Release tooling: assemble what is published, verify a copy of it, export the network for other runtimes.

    python -m bundle assemble
    python -m bundle verify
    python -m bundle export

This package itself is not published.
"""
