"""The public face: a typed client and the command line.

`from seemly.client import Client` talks to a service; `seemly --help` lists the commands.
"""
