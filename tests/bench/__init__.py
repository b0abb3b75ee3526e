"""Benchmarks: `farhand bench [name]`. Each figure stands beside a floor or a peer that was measured in the same run,
because these machines are noisy; a ratio says more than a number of milliseconds.
"""
