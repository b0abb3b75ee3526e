"""The referee: `farhand chaos`. It breaks every part of a deployment of its own, and checks from outside what survived.

    plans       tasks whose right result is known before they run
    deployment  three worker hosts, api, gateway, Postgres, Redis, git host, model: each part can be hurt by itself
    boundaries  every boundary between two durable effects, hit by name
    faults      what happens at random moments, and how it is undone
    taskruns    the user of each task: subscribes, follows up, cancels, retries
    evidence    what is seen from outside once all is over
    checks      what must be true of it, each a function that can fail
    report      what is printed

Nothing of the product is patched or told that it is being tested. What holds a write at a boundary is a trigger in the
referee's own schema of the database, or a stand-in that keeps its answer back.
"""
