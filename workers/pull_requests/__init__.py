"""Pull requests at git hosts: what a host must be able to do, GitHub as the first of them, and who sees to it.

base          the protocol of a host, and its two kinds of failure
pinned        HTTP to a host whose addresses were checked
github        GitHub's REST API; github_failures says what its refusals mean
description   title and body, made of what the task recorded
facts         what the task recorded
desk          takes what is wanted, and brings it about
"""
