"""Compare training engines: same model, same rows, same step, one process each, alternating.

`run` is the verb, `compare` the order of measurements, `verdict` the medians and what makes a row invalid,
`worker` the process in which one engine lives, `engines/` the engines, `packing` the comparison of packers.
"""
