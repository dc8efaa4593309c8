"""Zodan: add a node to a running Spock cluster, or remove one, while the others keep taking writes.

The layers mirror the design's section 2: ``render`` makes SQL from templates, ``lint`` checks it,
``install`` puts it into databases, ``sandbox`` runs clusters to try it on and ``cli`` drives it all
from a shell.
"""
