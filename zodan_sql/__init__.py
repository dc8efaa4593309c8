"""Zodan: add a node to a running Spock cluster, or remove one, while the others keep taking writes.

The rooms mirror the work (design, section 2): ``building`` makes SQL from templates and checks it, ``client`` puts it
into databases, calls it and reads what they answer, ``showing`` draws that for people, ``sandbox`` runs clusters to try
it on, and ``cli`` drives it all from a shell. Each uses those named before it.
"""
