"""The benchmark: batchdiff and its peers on fleets made from a seed, alternating in one run.

::

    __main__ -> studies -> races -> contestants -> running     measurements, their order, commands, one run
                   |
                fleets -> content                              images from a seed
                   |
    bench.json -> targets -> tables -> document, plot          evaluation; all but the last two are pure
"""
