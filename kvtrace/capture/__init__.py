"""Record what live inference engines ask of their KV tiers: the part that runs inside the engine.

Engines don't have kvtrace's dependencies: everything here needs numpy and the standard library
only. The rows go to a spool (`kvtrace.capture.spool`), of which `kvtrace import` makes a trace.
"""
