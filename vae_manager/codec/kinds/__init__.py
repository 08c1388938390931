"""The kinds of autoencoder, one room each: how its files are told, its shape, its network, its chain of steps.

`registry` lists them, and everybody outside asks there: nobody else names a kind. A room's `__init__` is its descriptor
(`kind.Kind`) and loads no torch; its network and its chain are imported when they are needed.
"""
