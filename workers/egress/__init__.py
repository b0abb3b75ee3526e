"""Egress: what a sandbox may reach through its link, and the proxy that it reaches it by.

refusal     why a connection does not come about, for its client and for the audit record
policy      whether a host and port may be reached
network     from a name to a connection: resolve once, check every address, connect to a checked one
hello       the first bytes of a TLS client, and the name in them
requests    an HTTP proxy request, read strictly
tunnel      CONNECT: the hello checked, then bytes both ways
forward     plain HTTP: one request, rewritten, and its response
bounds      bytes, times and counts
journal     the audit records of one attempt, written under its lease
connection  one connection, from its first byte to its record
server      the listener on the link, as long as the attempt lasts
"""
