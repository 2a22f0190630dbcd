"""What runs inside a model's own environment: loader, codec, batching, worker, zygote.

Imports the standard library, numpy and msgspec, and itself by relative imports alone: boot.py loads this
folder under an interpreter that knows nothing of mldeploy.
"""
