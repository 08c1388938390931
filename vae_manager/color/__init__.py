"""Colour: find out why a picture is washed out, and correct only as far as the evidence goes.

Pictures here are (3, H, W) or (N, 3, H, W), gamma RGB in [0, 1], float.
"""
