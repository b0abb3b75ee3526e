"""The worker's end of the link: model calls, tool records, the finish. Holds every secret; the sandbox none.

server     HTTP over the link's Unix socket
link       one attempt's answers to its sandbox: the protocol of `agent_runtime.protocol`
calls      one model call: hold the money, ask, stream, record, settle
upstream   the Messages API through the `anthropic` SDK
replay     a recording in place of a model
words      JSON from outside, read so that it can be recorded
assemble   a message out of its stream events
deltas     pieces of a half-written message, coalesced for the stream
"""
