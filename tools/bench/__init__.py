"""The benchmark: batchdiff and its peers on fleets made from a seed, alternating in one run.

::

    __main__ -> studies -> races -> contestants -> running     what is measured, in which order, how, one command
                   |
                fleets -> content                              images from a seed
                   |
    bench.json -> targets -> tables -> document, plot          what the figures say; pure but for the last two
"""
