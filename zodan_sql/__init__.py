"""Zodan: add a node to a running Spock cluster, or remove one, while the others keep taking writes.

The packages follow the work: ``building`` makes SQL from templates and checks it, ``client`` loads the SQL into
databases, calls it and reads the answers, ``showing`` draws the answers for people, ``sandbox`` runs clusters to try
Zodan on, and ``cli`` drives all of this from a shell. Each package uses only those named before it.
"""
